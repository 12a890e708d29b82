"""How do the rounds of an agent and of its neighbours keep step? Tell them phi, hear theirs, and catch up.

A round ends when the state of every neighbour that is there has come; every wait has a deadline, which `neighbours.py`
keeps. A neighbour is at most one round ahead, so little is ever buffered. The weight of one that is away stays with the
agent, at both ends.
"""

import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from difnet.errors import Diverged, WireError
from difnet.exchange import wire
from difnet.exchange.links import ACTIVE, DONE, JOINING, LOST, Counters, Identity, Link, Patience, Sent
from difnet.exchange.mending import TURN_S, Healed
from difnet.exchange.neighbours import BEAT_S, Back, Lost, Neighbours

LONG_STEP_S = 0.1  # a step longer than this lets the helper thread look after the links
FAREWELL_S = 5.0
GATHER_S = 0.5  # for further neighbours, once the first one is back
OFFER_S = 5.0  # for what they have, which a new process needs


class Return(NamedTuple):
    """Where an agent that was away, or one behind such an agent, goes on."""

    round: int
    states: dict[int, np.ndarray]  # of the neighbours it came back to, if it was alone; else it keeps its own


class Transport:
    """The rounds of one agent over its links; use as a context manager, from one thread.

    Args: `lag` is None for synchronous rounds, else how many rounds old a combined state may be (0: the newest state
        is taken, if it is of the round or a later one); `must`: whether a state waits while there is no room for it
        (as in synchronous rounds) or is dropped; `catch_up`: who is more rounds behind than that when an edge comes
        back leaves them out; `lost` and `back` hear of every neighbour that is left behind, and that has come back;
        `healed` of every connection that broke and is whole again, of which the rounds notice nothing.
    """

    def __init__(
        self,
        identity: Identity,
        links: list[Link],
        *,
        patience: Patience,
        lag: int | None = None,
        must: bool | None = None,
        catch_up: int = 100,
        lost: Lost = lambda link, reason: None,
        back: Back = lambda link: None,
        healed: Healed = lambda link, seconds, resent: None,
    ) -> None:
        self.identity, self.round = identity, -1
        self.longest_wait_s = 0.0  # for a round; while we were stopped ourselves not counted
        self._must = lag is None if must is None else must
        self._patience, self._lag, self._catch_up = patience, lag, catch_up
        self._neighbours = Neighbours(identity, links, patience, self._heard, lost, back, healed, lag is None)
        self._links = self._neighbours.links
        self._lock = threading.Lock()  # held by whichever thread touches the sockets
        self._closing = threading.Event()
        self._helper = threading.Thread(target=self._look_after_long_steps, name="beats", daemon=True)
        self.bind, self.watch = self._neighbours.sockets.bind, self._neighbours.sockets.watch
        self.moved, self.gone = self._neighbours.moved, self._neighbours.gone

    def __enter__(self) -> "Transport":
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        if self._helper.is_alive():
            self._helper.join()
        self._neighbours.mending.close()
        self._neighbours.sockets.close(linger_ms=500 if self._neighbours.is_leaving else 0)

    @property
    def counters(self) -> Counters:
        """Totals over all links."""
        return self._neighbours.counters

    @property
    def sent(self) -> dict[int, Sent]:
        """What was sent to each neighbour."""
        return {link.neighbour: link.sent for link in self._links.values()}

    def used(self) -> dict[int, tuple[int, int, int]]:
        """Of each edge: in how many rounds what came was combined, the last epoch, and the last round used in it."""
        return {link.neighbour: (link.combined, link.epoch, link.used) for link in self._links.values()}

    @property
    def neighbours(self) -> list[int]:
        """All that it ever had."""
        return sorted(self._links)

    def totals(self) -> dict[str, Any]:
        """The counters as plain values, of all links and of each neighbour; `count_on` takes them."""
        return {"counters": asdict(self.counters), "sent": {str(l): asdict(sent) for l, sent in self.sent.items()},
                "combined": {str(link.neighbour): link.combined for link in self._links.values()}}  # fmt: skip

    def count_on(self, totals: Mapping[str, Any]) -> None:
        """Count on from what a process before this one had counted."""
        _add(self.counters, totals["counters"])
        for neighbour, sent in totals["sent"].items():
            _add(self._links[int(neighbour)].sent, sent)
        for neighbour, count in totals.get("combined", {}).items():
            self._links[int(neighbour)].combined += count

    @property
    def active(self) -> list[int]:
        """The neighbours that are there."""
        return sorted(link.neighbour for link in self._neighbours.active)

    @property
    def lost(self) -> list[int]:
        """The neighbours that are left behind."""
        return sorted(link.neighbour for link in self._links.values() if link.phase == LOST)

    @property
    def step_s(self) -> float | None:
        """How long the step that is being computed has lasted; None while others are waited for."""
        since = self._neighbours.computing_since
        return None if since is None else time.monotonic() - since

    def join(self, endpoints: Mapping[int, str], timeout_s: float, first: int = 0) -> None:
        """Dial whom we are to dial, greet each, and return when every link is active; the next round is `first`.

        A new process of an agent that was there already returns as soon as somebody has answered, or nobody in time.

        Raises: DifnetError, if a neighbour refuses (naming both values) or is not there in time (naming it).
        """
        with self._lock:
            self._next_is(first)
            self._neighbours.join(endpoints, timeout_s)
            self._neighbours.computing_since = time.monotonic()
        self._helper.start()

    def offer(self, state: np.ndarray) -> None:
        """Where this agent stands, for a neighbour that comes back and has nothing better; not to be written to."""
        self._neighbours.offer = state

    def exchange(self, round_: int, phi: np.ndarray) -> dict[int, np.ndarray]:
        """Tell every neighbour our state of this round, and hear theirs.

        Args: `phi`, shape (M,), must never be written to afterwards: it may travel without a copy.
        Returns: neighbour -> state, for those whose state is to be combined in this round.
        Raises: Diverged, if our own state is not finite; nothing is sent then.
        """
        self.tell(round_, phi)
        return self.hear(round_)

    def tell(
        self, round_: int, phi: np.ndarray, to: Collection[int] | None = None, last: bool = False,
        samples: int | None = None,
    ) -> None:  # fmt: skip
        """Tell some neighbours, or all of them, our state of this round; `last` says that none will follow.

        Args: `samples`, from how many it was drawn, for a hub that weighs by them.
        Raises: Diverged, if our own state is not finite; nothing is sent then.
        """
        if not wire.is_finite(phi):
            raise Diverged(f"agent {self.identity.agent}, iteration {round_}: the intermediate state is no longer "
                           f"finite; a smaller --outer-lr or --inner-lr may help")  # fmt: skip
        body, more = phi.data.cast("B"), {} if samples is None else {"samples": samples}
        kind = "last" if last else "state" if samples is None else "answer"
        with self._lock:
            self._neighbours.computing_since = None
            if self._neighbours.was_stopped():
                self._neighbours.service(0.0)
            while self._must_hold(round_):
                self._neighbours.service(BEAT_S)
            self._next_is(round_ + 1)
            for link in self._links.values():
                if link.is_due(round_) and (to is None or link.neighbour in to):
                    told = body if link.tells else b""
                    self._neighbours.tell(link, kind, round_ + 1, told, self._must, round_=round_, **more)

    def hear(
        self, round_: int, of: Collection[int] | None = None, wanted: int | None = None,
        deadline_s: float | None = None,
    ) -> dict[int, np.ndarray]:  # fmt: skip
        """Wait for the states of this round: those of some neighbours, or of all; then compute on.

        Args: `wanted`: so many of them suffice; `deadline_s`: nobody is waited for any longer.
        Returns: neighbour -> state, for those whose state is to be combined in this round.
        """
        links = [link for link in self._links.values() if of is None or link.neighbour in of]
        began, stopped_s = time.monotonic(), self._neighbours.stopped_s
        until = began + (float("inf") if deadline_s is None else deadline_s)
        with self._lock:
            self.round = round_
            if self._lag is not None or self._neighbours.is_time_to_beat():
                self._neighbours.service(0.0)
            while self._is_waiting(links, round_, wanted) and (left := until - time.monotonic()) > 0:
                self._neighbours.service(min(BEAT_S, left))
                if self._lag is None and self._neighbours.has_beaten():  # else not every round is told to everybody
                    self._give_up(links, round_, began)
            heard = self._take(links, round_, wanted)
            for link in links if of is not None else ():  # who answers a call has got it
                link.forget(link.newest + 1)
            now = self._neighbours.computing_since = time.monotonic()
            if now - began > self.longest_wait_s:
                waited_s = now - began - (self._neighbours.stopped_s - stopped_s)
                self.longest_wait_s = max(self.longest_wait_s, waited_s)
        return heard

    def newest(self, neighbour: int) -> tuple[int, bool]:
        """The round of the newest state heard of a neighbour (-1: none yet), and whether it is its last one."""
        link = self._links[neighbour]
        return link.newest, link.is_last

    def samples(self, neighbour: int) -> int | None:
        """From how many samples the newest state heard of a neighbour was drawn; None: it did not tell."""
        return self._links[neighbour].samples

    def service(self, timeout_s: float) -> None:
        """Look after the links for at most so long without exchanging anything."""
        with self._lock:
            self._neighbours.service(timeout_s)

    def farewell(self, reason: str = "done") -> None:
        """Say goodbye and wait, briefly, until every neighbour has read all that we sent or has said goodbye itself."""
        neighbours = self._neighbours
        with self._lock:
            neighbours.computing_since, neighbours.is_leaving = None, True
            deadline = time.monotonic() + FAREWELL_S
            while time.monotonic() < deadline and any(link.outbox for link in self._links.values()):
                neighbours.service(0.05)
            for link in self._links.values():
                if link.phase in (ACTIVE, DONE):
                    link.bye = reason[:256]
                    neighbours.send(link, "bye", must=True, reason=link.bye)
            while time.monotonic() < deadline and not all(link.farewell_seen for link in neighbours.active):
                neighbours.service(0.05)

    # who was away

    def returned(self, patience_s: float) -> Return | None:
        """After a round: None where the next one follows, else where to go on; the caller then tells others so, with
        `go_ahead`.

        An agent that has lost all its neighbours waits so long for one to come back; where they are is where it goes
        on, with what they have. One that is far behind a neighbour that came back leaves out the rounds between, and
        its other neighbours do as much. Everybody else does every round, without those that are not in it yet.
        """
        neighbours = self._neighbours
        if not neighbours.is_changed:
            return None
        with self._lock:
            neighbours.computing_since, alone = None, neighbours.is_alone
            if alone:
                self._await_somebody(patience_s)
            neighbours.is_changed, neighbours.computing_since = False, time.monotonic()
            neighbours.is_alone = alone and not neighbours.active
            behind = max((link.first for link in neighbours.active), default=0) - neighbours.next_round
            if behind <= (0 if alone else self._catch_up):
                return None
            self._next_is(neighbours.next_round + behind)
            offered = {link.neighbour: link.offered for link in neighbours.active
                       if alone and link.hears and link.offered is not None}  # fmt: skip
            return Return(neighbours.next_round, offered)

    def go_ahead(self, round_: int, state: np.ndarray) -> None:
        """Go on in a round, or a later one, and tell neighbours that wait for us in an earlier one, and with what."""
        with self._lock:
            self._next_is(max(round_, self._neighbours.next_round))
            self._neighbours.offer = state
            for link in self._neighbours.active:
                self._neighbours.go_ahead(link)

    def await_return(self, patience_s: float, count: int = 1) -> bool:
        """Wait until so many neighbours are there, or no more can come back; whether they are there.

        Whoever is still away after `patience_s` is given up.
        """
        with self._lock:
            self._neighbours.computing_since = None
            return self._await(patience_s, count)

    def _await(self, patience_s: float, count: int) -> bool:
        deadline, neighbours = time.monotonic() + patience_s, self._neighbours
        while len(neighbours.active) < count and any(
            link.may_return or link.phase == JOINING for link in self._links.values()
        ):
            if time.monotonic() > deadline:
                for link in self._links.values():
                    link.is_gone = link.phase != ACTIVE
            neighbours.service(BEAT_S)
        return len(neighbours.active) >= count

    def _await_somebody(self, patience_s: float) -> None:
        if self._await(patience_s, 1):
            began, is_new = time.monotonic(), self.identity.incarnation > 0 and self.round < 0
            while self._may_learn_more(time.monotonic() - began, is_new):
                self._neighbours.service(BEAT_S / 5)

    def _may_learn_more(self, waited_s: float, is_new: bool) -> bool:
        """Whether further neighbours may be there in a moment; or, to a new process, what those that are there have:
        they may be new themselves, and learn it from others."""
        if is_new and waited_s < OFFER_S and not any(link.offered is not None for link in self._neighbours.active):
            return True
        return waited_s < GATHER_S and any(link.may_return for link in self._links.values())

    def _next_is(self, round_: int) -> None:
        self._neighbours.next_round, self.round = round_, round_ - 1

    # one round

    def _must_hold(self, round_: int) -> bool:
        """Whether it has to show first who is there: after a stop of ours, or for one that was promised this round."""
        for link in self._links.values():
            if link.phase == JOINING and link.first <= round_:
                return True
        return time.monotonic() < self._neighbours.in_doubt_until

    def _is_waiting(self, links: list[Link], round_: int, wanted: int | None) -> bool:
        lag = self._lag
        for link in self._links.values():  # plain loops: this runs twice in every round
            if link.outbox and link.phase == ACTIVE:
                return True
        if wanted is not None and sum(link.answers(round_, lag) for link in links) >= wanted:
            return False
        for link in links:
            if link.phase == ACTIVE and (lag is not None or link.first <= round_) and not link.answers(round_, lag):
                return True
        return False

    def _give_up(self, links: list[Link], round_: int, began: float) -> None:
        """Leave behind who is there, beats, and yet never tells this round."""
        now, patience = self._neighbours.now, self._patience
        for link in links:
            if link.is_withheld(round_, now, patience.silence_s):
                self._neighbours.lose(link, f"it says that it has told round {round_}, and nothing came")
            elif link.is_due(round_) and not link.answers(round_, None) and now - began > 2 * patience.step_s:
                self._neighbours.lose(link, f"it is there, and told nothing for {now - began:.0f} s")

    def _take(self, links: list[Link], round_: int, wanted: int | None) -> dict[int, np.ndarray]:
        heard: dict[int, np.ndarray] = {}
        silent = 0
        for link in links:
            state = link.take(round_, self._lag)
            silent += state is None and link.hears
            if state is not None and (wanted is None or len(heard) < wanted):
                heard[link.neighbour] = state
                self.counters.heard_payload_bytes += state.nbytes
        self.counters.missed += silent if wanted is None else max(0, min(wanted, len(links)) - len(heard))
        return heard

    def _heard(self, link: Link, kind: str, fields: dict[str, int], body: bytes) -> None:
        """Keep a state if it can still be used, or know that there will be none until a later round."""
        if link.phase != ACTIVE or fields["epoch"] != link.epoch:
            raise WireError(f"a {kind!r} of another epoch")
        if kind == "ahead":
            link.postpone(fields["round"])
            self._neighbours.is_changed = True
            if len(body):
                link.offered = wire.read_state(body, self._neighbours.dtype, self.identity.length)
            return
        link.peer_phase = ""
        if fields["round"] < link.first or (self._lag is None and link.newest < fields["round"] < self.round):
            self.counters.late += 1
            return
        try:
            state = wire.read_state(body, self._neighbours.dtype, self.identity.length) if link.hears else None
        except WireError:
            link.spoilt_at = link.spoilt_at or self._neighbours.now
            raise
        if not link.accept(fields["round"], state, self.round, self._lag):
            raise WireError("a stale, early or replayed state")
        link.spoilt_at, link.is_last, link.cuts, link.samples = None, kind == "last", 0, fields.get("samples")
        link.forget(fields["round"], but_the_newest=self._lag is not None)

    def _look_after_long_steps(self) -> None:
        """The helper thread: while a long step computes, it reads, beats and judges in the loop's place."""
        while not self._closing.wait(TURN_S if self._neighbours.mending.is_at_work else BEAT_S):
            since = self._neighbours.computing_since
            if since is None or time.monotonic() - since < LONG_STEP_S or not self._lock.acquire(blocking=False):
                continue
            try:
                if self._neighbours.computing_since is not None and not self._closing.is_set():
                    self._neighbours.service(0.0)
            finally:
                self._lock.release()


def _add(counters: Sent, more: Mapping[str, int]) -> None:
    for name, count in more.items():
        setattr(counters, name, getattr(counters, name) + count)
