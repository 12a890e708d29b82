"""One edge of the network as one of its ends sees it: who is there, what was said last, whether it may be used.

A link is moved through its life by `transport.py`: joining -> active -> done | lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from difnet.exchange import wire

if TYPE_CHECKING:
    from difnet.topology import Topology

JOINING, ACTIVE, DONE, LOST = "joining", "active", "done", "lost"


@dataclass(slots=True)
class Sent:
    """Totals of what was sent."""

    payload_bytes: int = 0  # of states, headers and framing not counted
    wire_bytes: int = 0  # of all frames
    messages: int = 0
    states: int = 0


@dataclass(slots=True)
class Counters(Sent):
    """Totals since the agent started."""

    heard_payload_bytes: int = 0
    heard_wire_bytes: int = 0
    missed: int = 0
    refused: int = 0
    late: int = 0  # states of a round that was over


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a neighbour is waited for."""

    silence_s: float = 3.0
    step_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who an agent is, and what it must share with a neighbour to combine states with it."""

    agent: int
    incarnation: int
    run: str
    topology: str  # a hash, as the next two
    weights: str
    model: str
    dtype: str
    length: int  # values in a state

    def greeting(self) -> dict[str, Any]:
        """The fields of a hello."""
        return {"protocol": wire.PROTOCOL, "run": self.run, "agent": self.agent, "incarnation": self.incarnation,
                "topology": self.topology, "weights": self.weights, "model": self.model, "dtype": self.dtype,
                "length": self.length}  # fmt: skip

    def mismatch(self, hello: Mapping[str, Any]) -> tuple[str, str, str] | None:
        """The first thing that a neighbour's hello has otherwise: what, expected, got (minor protocol versions may)."""
        for name, ours in self.greeting().items():
            expected, got = str(ours), str(hello[name])
            same = expected.split(".")[0] == got.split(".")[0] if name == "protocol" else expected == got
            if name not in ("agent", "incarnation") and not same:
                return name, expected, got
        return None


@dataclass(slots=True)
class Link:
    """What one end knows of an edge."""

    neighbour: int
    dials: bool  # this end dials; the other listens
    hears: bool  # its states are combined here
    tells: bool  # our states are combined there
    phase: str = JOINING
    epoch: int = 0
    greeted: bool = False
    dial_at: float = 0.0  # not before then
    unreachable: str = ""  # why it could not be dialled
    heard_at: float = 0.0
    sent_at: float = 0.0
    peer_phase: str = ""
    peer_phase_age_s: float = 0.0
    states: dict[int, np.ndarray | None] = field(default_factory=dict)  # round -> state; None: a round without one
    newest: int = -1  # the latest round heard
    is_last: bool = False  # the newest state is the last there will be
    spoilt_at: float | None = None  # when a state was refused that nothing has replaced yet
    sent: Sent = field(default_factory=Sent)
    used: int = -1  # the last round in which what came over this edge was combined
    outbox: list | None = None  # a message that found no room yet
    farewell_seen: bool = False

    def accept(self, round_: int, state: np.ndarray | None, current: int, lag: int | None) -> bool:
        """Keep a state if the round it belongs to can still be used; otherwise False: stale, early or replayed.

        Args: `lag` is None for synchronous rounds, in which only the current round and the one after it are of use;
            else how many rounds old a state may be when it is combined.
        """
        if round_ <= self.newest or (lag is None and not current <= round_ <= current + 1):
            return False
        if lag is not None:
            self.states.clear()
        self.states[round_] = state
        self.newest = round_
        return True

    def answers(self, current: int, lag: int | None) -> bool:
        """Whether what was heard suffices for the current round."""
        return current in self.states if lag is None else self.newest >= current - lag

    def take(self, current: int, lag: int | None) -> np.ndarray | None:
        """The state to combine in the current round, or None; asynchronous rounds may use the newest one again."""
        if lag is None:
            state = self.states.pop(current, None)
        else:
            state = self.states.get(self.newest) if self.newest >= current - lag else None
        if state is not None:
            self.used = current
        return state


def links_of(k: int, topology: "Topology", server: int | None = None) -> list[Link]:
    """Agent k's links: of two neighbours the rim dials the hub, else the higher number dials the lower.

    Where one serves, its links to the others are the only ones, and both ends hear and tell, whatever the weights are.
    """
    hears, tells = set(topology.hears(k)), set(topology.tells(k))
    if server is not None:
        hears = tells = {server} if k != server else set(range(topology.agents)) - {server}

    def dials(l: int) -> bool:
        return l == topology.hub or (k != topology.hub and k > l)

    return [Link(l, dials(l), l in hears, l in tells) for l in sorted(hears | tells)]
