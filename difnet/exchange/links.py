"""One edge of the network as one of its ends sees it: who is there, what was said last, whether it may be used.

A link is moved through its life by `neighbours.py`: joining -> active -> done, or lost; and from lost, in a new epoch,
to active again. While it is active or done its connection may be cut and come back, which is no change of all this
(`mending.py`): for that it keeps what the other end may not have got yet.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from difnet.exchange import wire

if TYPE_CHECKING:
    from difnet.topology import Topology

JOINING, ACTIVE, DONE, LOST = "joining", "active", "done", "lost"
MOST_TOLD = 4  # messages that are kept: no end is ever so far behind another one that waits for it


@dataclass(slots=True)
class Sent:
    """Totals of what was sent."""

    payload_bytes: int = 0  # of states, headers and framing not counted
    wire_bytes: int = 0  # of all frames
    messages: int = 0
    states: int = 0  # those that were sent again counted again
    resent: int = 0  # of these: sent again, since the first ones had gone under with a connection


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


@dataclass(slots=True, eq=False)
class Told:
    """A message that the other end must have got before it can be in a later step than this one.

    Step `first` of an epoch is its "joined", step i + 1 the state of round i, or the word that none will be before it.
    """

    step: int
    message: list  # of frames, without a copy
    sends: int = 0  # how often it was handed to a connection


@dataclass(slots=True)
class Link:
    """What one end knows of an edge."""

    neighbour: int
    dials: bool  # this end dials; the other listens
    hears: bool  # its states are combined here
    tells: bool  # our states are combined there
    phase: str = JOINING
    epoch: int = 0  # counts how often both ends have joined
    first: int = 0  # the first round in which this epoch is used, at both ends
    newest_hello: tuple[int, int] = (-1, -1)  # incarnation and attempt of the other end's
    offered: np.ndarray | None = None  # the state the other end had when it joined
    is_gone: bool = False  # while lost: it will not come back
    endpoint: str = ""
    attempt: int = 0  # counts how often this end has dialled
    is_dialled: bool = False
    greeted: bool = False
    dial_at: float = 0.0  # not before then
    unreachable: str = ""  # why it could not be dialled
    heard_at: float = 0.0
    sent_at: float = 0.0
    peer_phase: str = ""
    peer_phase_age_s: float = 0.0
    peer_round: int = -1  # the last that the other end says it has told
    unheard_since: float | None = None  # when we began to wait for a round that it says it has told
    states: dict[int, np.ndarray | None] = field(default_factory=dict)  # round -> state; None: a round without one
    newest: int = -1  # the latest round heard
    samples: int | None = None  # behind the newest state, where the other end tells
    is_last: bool = False  # the newest state is the last there will be
    spoilt_at: float | None = None  # when a state was refused that nothing has replaced yet
    sent: Sent = field(default_factory=Sent)
    combined: int = 0  # rounds in which what came was combined, over all epochs
    used: int = -1  # the last round in which what came over this edge was combined; before: the one before its first
    outbox: deque[list] = field(default_factory=deque)  # messages that found no room yet, in order
    bye: str = ""  # what we said when we left
    farewell_seen: bool = False
    told: list[Told] = field(default_factory=list)  # that the other end may not have got, the oldest first
    cut_at: float | None = None  # when the connection was seen to be broken, until it is back or given up
    cuts: int = 0  # since a state was heard

    def join(self, first: int, offered: np.ndarray | None, now: float) -> None:
        """Begin an epoch: both ends are there, and use the edge from round `first` on."""
        self.phase, self.first, self.offered, self.heard_at = ACTIVE, first, offered, now
        self.states, self.newest, self.is_last = {}, -1, False
        self.peer_phase, self.peer_phase_age_s, self.spoilt_at, self.is_gone = "", 0.0, None, False
        self.peer_round, self.unheard_since, self.used = -1, None, first - 1
        self.told, self.cut_at, self.cuts = [], None, 0

    def leave(self, next_round: int) -> None:
        """The other end is away. What it told of a round that we have told as well is still combined."""
        self.phase, self.outbox, self.is_dialled, self.greeted = LOST, deque(), False, False
        self.told, self.cut_at = [], None
        self.states = {i: state for i, state in self.states.items() if i < next_round}
        self.used = max([self.used, *self.states])

    def keep(self, told: Told, alone: bool) -> None:
        """Remember a message until the other end must have got it.

        Args: `alone`, whether it makes the states before it useless, as in rounds that are not in step.
        """
        if alone:
            self.told = [t for t in self.told if t.step <= self.first]
        self.told.append(told)
        if len(self.told) > MOST_TOLD:
            del self.told[0]

    def forget(self, step: int, but_the_newest: bool = False) -> None:
        """The other end has got everything up to this step."""
        while len(self.told) > but_the_newest and self.told[0].step <= step:
            del self.told[0]

    @property
    def lacks(self) -> int:
        """The first step that this end has not heard of."""
        return self.first if self.phase == JOINING else max(self.newest + 1, self.first) + 1

    @property
    def may_return(self) -> bool:
        """Whether it is away and may come back."""
        return self.phase == LOST and not self.is_gone

    def postpone(self, round_: int) -> None:
        """The other end has gone ahead: its next state will be of this round."""
        self.first = max(self.first, round_)

    def is_due(self, current: int) -> bool:
        """Whether the current round waits for what this link brings."""
        return self.phase == ACTIVE and self.first <= current

    def accept(self, round_: int, state: np.ndarray | None, current: int, lag: int | None) -> bool:
        """Keep a state if the round it belongs to can still be used; otherwise False: stale, early or replayed.

        Args: `lag` is None for synchronous rounds, in which only the current round and the one after it are of use;
            else how many rounds old a state may be when it is combined. The first round of an epoch may be far ahead of
            an end that has yet to go there.
        """
        soon = current <= round_ <= current + 1 or round_ == self.first
        if round_ <= self.newest or round_ < self.first or (lag is None and not soon):
            return False
        if lag is not None:
            self.states.clear()
        self.states[round_] = state
        self.newest = round_
        return True

    def is_withheld(self, current: int, now: float, patience_s: float) -> bool:
        """Whether the other end has said for so long that it told this synchronous round, and nothing came."""
        if not self.is_due(current) or self.answers(current, None) or self.peer_round < current:
            self.unheard_since = None
            return False
        self.unheard_since = self.unheard_since or now
        return now - self.unheard_since > patience_s

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
            self.combined += 1
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
