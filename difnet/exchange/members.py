"""Who takes part in a run, as its registry knows it, and who of them was known to another registry alone?

The registry of a launcher that takes another's place begins with the members of that one, told as plain values.
Whoever speaks and has no name here yet is asked who it is.
"""

import time
from collections.abc import Collection
from typing import Any, NamedTuple

from difnet.errors import WireError
from difnet.exchange.hosts_seen import HostSeen, HostsSeen

ASK_AGAIN_S = 2.0
SELDOM = ("log", "exited")  # what a host says of its agents; all else that names an agent, the agent says itself
BY_NAME = ("register", "beat", "configuration?", "prepared")  # kinds with which somebody says who it is


class Introduced(NamedTuple):
    """An agent's process as it registered; the same in all three is the same process."""

    incarnation: int
    endpoint: str
    pid: int


class Members:
    """Agents and hosts of one run."""

    def __init__(self) -> None:
        self.hosts = HostsSeen()
        self.agents: dict[int, Introduced] = {}
        self.gone: set[int] = set()  # agents that have ended for good
        self.voices: dict[bytes, int] = {}  # connection -> the one agent that it speaks for
        self.is_changed = False  # whether `told` is another than when this was last set to False
        self._unheard: set[int] = set()  # agents that another registry introduced, and that were not heard here yet
        self._unheard_hosts: set[str] = set()
        self._asked: dict[bytes, float] = {}  # connection -> when it was asked who it is

    def told(self) -> dict[str, Any]:
        """All of it, as another registry must know it to take this one's place."""
        return {"agents": {str(k): [*one] for k, one in self.agents.items()}, "gone": sorted(self.gone),
                "hosts": {host.name: host.agents for host in self.hosts.values()}}  # fmt: skip

    def take(self, told: dict[str, Any]) -> None:
        """Begin with what `told` told; hosts have as long to be heard as if they just had been."""
        self.agents = {int(k): Introduced(*one) for k, one in told["agents"].items()}
        self.gone = set(told["gone"])
        self.hosts = HostsSeen((name, HostSeen(name, agents, b"", time.monotonic(), supervises=True))
                               for name, agents in told["hosts"].items())  # fmt: skip
        self._unheard, self._unheard_hosts = self.agents.keys() - self.gone, {*self.hosts}

    def is_nameless(self, sender: bytes, kind: str) -> bool:
        """Whether somebody speaks whom another registry may have known, and who has not said here who it is."""
        return bool(self._unheard or self._unheard_hosts) and not (
            kind in BY_NAME or sender in self.voices or self.hosts.of(sender))  # fmt: skip

    def is_time_to_ask(self, sender: bytes) -> bool:
        """Whether one that is nameless is to be asked who it is, again if it has not answered."""
        now = time.monotonic()
        if now - self._asked.get(sender, float("-inf")) < ASK_AGAIN_S:
            return False
        self._asked[sender] = now
        return True

    def is_known_again(self, agent: int, one: Introduced) -> bool:
        """Whether this is the very process that another registry had introduced, heard here for the first time."""
        if agent not in self._unheard or one.incarnation < self.agents[agent].incarnation:
            return False
        is_same = one == self.agents[agent]
        if is_same or one.incarnation > self.agents[agent].incarnation:
            self._unheard.remove(agent)
        return is_same

    def host_heard(self, name: str) -> None:
        """A host has said that it is there, or another one is there in its place."""
        self._unheard_hosts.discard(name)

    def forget(self, agent: int, incarnation: int, for_good: bool) -> bool:
        """An agent's process is gone, perhaps for good. Returns whether it was the newest one."""
        was_newest = agent in self.agents and self.agents[agent].incarnation == incarnation
        self._unheard -= {agent} if was_newest else set()
        if for_good:
            self.gone.add(agent)
            self.is_changed = True
        return was_newest



    def check_speaker(self, sender: bytes, kind: str, body: dict[str, Any]) -> None:
        """A connection speaks for one agent, which has registered; a host's for those that are there.

        Raises: WireError, if it speaks for another. All have the one token: this finds mistakes, not lies.
        """
        if kind == "prepared" and (body["host"] not in self.hosts or self.hosts[body["host"]].agents != body["agents"]):
            raise WireError(f"{kind}: that host has not asked for these agents")
        if (agent := body.get("agent")) is None:
            return
        if kind in SELDOM:
            host = self.hosts.of(sender)
            if sender in self.voices or (host and agent not in host.agents):
                raise WireError(f"{kind}: agent {agent} is not there")
        elif self.voices.get(sender, agent) != agent:
            raise WireError(f"{kind}: it speaks for agent {agent}, and is agent {self.voices[sender]}")
        elif kind != "register" and agent not in self.agents:
            raise WireError(f"{kind}: agent {agent} has not registered")

    def here(self, agents: Collection[int]) -> dict[int, int]:
        """Which of these agents have been there, and the incarnation of each."""
        return {k: self.agents[k].incarnation for k in agents if k in self.agents}
