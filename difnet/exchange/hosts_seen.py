"""Which hosts take part in a run, and may one that asks take part too?

One that asks for agents that another had may take that one's place, once nothing has been heard of it for three beats:
an engine has started it again.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

SILENCE_S = 15.0  # a host unheard for so long is not asked for anything
DEAD_S = 3.0  # one unheard for so long may have a successor, which waits so long to learn it


@dataclass(slots=True)
class HostSeen:
    """A host as it told of itself."""

    name: str
    agents: list[int]
    sender: bytes
    heard_at: float
    supervises: bool = False  # its agents are there

    def is_silent(self) -> bool:
        """Whether its beats have stopped."""
        return self.supervises and time.monotonic() - self.heard_at > SILENCE_S


class HostsSeen(dict[str, HostSeen]):
    """All that were let in, by name."""

    def of(self, sender: bytes) -> HostSeen | None:
        """Whose connection it is."""
        return next((host for host in self.values() if host.sender == sender), None)

    def before(self, agents: Collection[int]) -> HostSeen | None:
        """The host that has exactly these agents."""
        return next((host for host in self.values() if set(host.agents) == set(agents)), None)

    def objection(self, asked: dict[str, Any], run: dict[str, Any], agents: Collection[int], started: bool) -> str:
        """Why a host that asks may not take part, whoever is there; "" if it may.

        Args: `agents`, those of the run; `started`, whether it goes on: a host's successor may have another name then.
        """
        name, last = asked["name"], len(agents) - 1
        if asked["run"] not in (None, run["run"]):
            return (f"it serves run {run['run']!r}, and this host was started for {asked['run']!r}; leave --run-id "
                    f"away or wait")  # fmt: skip
        if asked["version"] != run["version"]:
            return (f"the launcher is difnet {run['version']}, this host is {asked.get('version')}; install the same "
                    f"version on both")  # fmt: skip
        if outside := sorted(set(asked["agents"]) - set(agents)):
            return f"there is no agent {outside[0]}: this run has agents 0 to {last}; give others with --agents"
        elsewhere = {k: host.name for host in self.values() if host.name != name for k in host.agents}
        taken = sorted(elsewhere.keys() & set(asked["agents"]))
        if taken and not (started and self.before(asked["agents"])):
            return f"agent {taken[0]} is at host {elsewhere[taken[0]]!r} already; give others with --agents"
        return ""
