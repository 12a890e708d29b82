"""Where do hosts run? One file is one place; its factory bears the file's name.

A factory takes (config, agents): the run's configuration, and how many agents there are. What it returns is entered
before the registry listens, and left when the run is over, whatever happened; leaving it ends what is left.

Imports: errors, maths, system, catalog, config, data, launch_models, topology, exchange.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, Self

from difnet.errors import ConfigError
from difnet.maths.stretches import stretches


@dataclass(frozen=True)
class Contract:
    """What every host of a run is told; the same words in every place."""

    run: str
    registry: str  # an endpoint, as this place's hosts see it
    token: str
    data: Path | None = None  # owners' files on this machine, for a host that the launcher starts here
    key: str = ""  # the run's id, by which its processes are known: two runs may bear one name in two folders

    def variables(self, agents: Sequence[int], advertise: str | None = None) -> dict[str, str]:
        """The environment of one host.

        Args: `advertise`, the name or address by which other hosts know this one; None: the one it has towards the
            registry.

        >>> Contract("sines", "tcp://dashboard:5600", "secret").variables([0, 1, 2, 5])["DIFNET_AGENTS"]
        '0-2,5'
        """
        told = {"DIFNET_RUN_ID": self.run, "DIFNET_REGISTRY": self.registry, "DIFNET_TOKEN": self.token,
                "DIFNET_AGENTS": agents_text(agents)}  # fmt: skip
        own = {"DIFNET_OWN_DATA": str(self.data)} if self.data else {}
        own |= {"DIFNET_RUN_KEY": self.key} if self.key else {}
        return told | own | ({"DIFNET_ADVERTISE": advertise} if advertise else {})


class Place(Protocol):
    """Somewhere hosts run.

    One whose hosts may outlive a launcher that was killed, and may be told of by another one that starts nothing, says
    `lives_on = True`; one whose hosts see the launcher's files, or for which these only say what the data means, says
    `sees_data = True`, and may be given `--data`.
    """

    meeting: str  # where the registry is to listen; known once the place is entered

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def plan(self) -> str:
        """What would be started, in the words of whatever starts it; nothing is begun by asking."""

    def start(self, contract: Contract) -> str:
        """Start the hosts. Returns what the user has to know or to do, or ""."""

    def poll(self) -> int | None:
        """An exit status, or minus a signal, once every host has ended; None as long as one runs, or where nobody here
        can know."""

    def stop(self, at_once: bool = False) -> None:
        """End the hosts, and with them their agents; `at_once`: they had their time."""

    def logs(self) -> str:
        """The last lines that the hosts, or their engine, printed; "" where nobody here can know."""


def agents_text(agents: Sequence[int]) -> str:
    """Agent numbers in words, as `parse_agents` takes them.

    >>> agents_text([0, 1, 2, 7]), agents_text([3]), agents_text([4, 5])
    ('0-2,7', '3', '4-5')
    """
    return ",".join(str(s[0]) if len(s) == 1 else f"{s[0]}-{s[-1]}" for s in stretches(agents))


def parse_agents(text: str) -> list[int]:
    """Agent numbers from words such as "0-19" or "3,5,8".

    Raises: ConfigError, if they are none, or one is there twice.

    >>> parse_agents("0-2,7")
    [0, 1, 2, 7]
    """
    agents: list[int] = []
    try:
        for part in text.split(","):
            low, _, high = part.partition("-")
            agents += range(int(low), int(high or low) + 1)
    except ValueError:
        agents = []
    if not agents or len(set(agents)) < len(agents):
        raise ConfigError(f"{text!r} is no list of different agents; try 0-19 or 3,5,8")
    return agents


def into_blocks(agents: int, hosts: int) -> list[range]:
    """All agents in so many blocks that differ by one agent at the most.

    >>> into_blocks(5, 3)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    small, more = divmod(agents, hosts)
    edges = [h * small + min(h, more) for h in range(hosts + 1)]
    return [range(a, b) for a, b in pairwise(edges)]
