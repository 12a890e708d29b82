"""How does phi reach the neighbours? One connection per edge, joined by a handshake, watched while it lives.

The identity of a sender is its link, never a header field. Every wait has a deadline: a neighbour that is gone (the
sockets say so), silent (no beat) or stuck in one step (its beats say so) is left behind, and its weight stays with the
agent, at both ends.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from difnet.errors import DifnetError, Diverged, WireError
from difnet.exchange import wire
from difnet.exchange.addresses import numeric
from difnet.exchange.links import ACTIVE, DONE, JOINING, LOST, Counters, Identity, Link, Patience, Sent
from difnet.exchange.sockets import Frames, Sending, Sockets

BEAT_S = 0.25
LONG_STEP_S = 0.1  # a step longer than this lets the helper thread look after the links
FAREWELL_S = 5.0
REDIAL_S = 5.0


class Transport:
    """The links of one agent; use as a context manager, from one thread.

    Args: `lag` is None for synchronous rounds, else how many rounds old a combined state may be (0: the newest state
        is taken, if it is of the round or a later one); `must`: whether a state waits while there is no room for it
        (as in synchronous rounds) or is dropped; `lost` hears of every neighbour that is left behind.
    """

    def __init__(
        self,
        identity: Identity,
        links: list[Link],
        *,
        patience: Patience,
        lag: int | None = None,
        must: bool | None = None,
        lost: Callable[[Link, str], None] = lambda link, reason: None,
    ) -> None:
        self.identity, self.counters, self.round = identity, Counters(), 0
        self._must = lag is None if must is None else must
        self._links = {link.neighbour: link for link in links}
        self._patience, self._lag, self._on_lost = patience, lag, lost
        self._dtype = wire.DTYPES[identity.dtype]
        self._sockets = Sockets(identity.length * self._dtype.itemsize)
        self._lock = threading.Lock()  # held by whichever thread touches the sockets
        self._computing_since: float | None = None
        self._serviced_at = self._next_beat = time.monotonic()
        self._leaving = False
        self._closing = threading.Event()
        self._helper = threading.Thread(target=self._look_after_long_steps, name="beats", daemon=True)
        self.bind, self.watch = self._sockets.bind, self._sockets.watch

    def __enter__(self) -> "Transport":
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        if self._helper.is_alive():
            self._helper.join()
        self._sockets.close(linger_ms=500 if self._leaving else 0)

    @property
    def sent(self) -> dict[int, Sent]:
        """What was sent to each neighbour."""
        return {link.neighbour: link.sent for link in self._links.values()}

    @property
    def active(self) -> list[int]:
        """The neighbours that are there."""
        return sorted(link.neighbour for link in self._links.values() if link.phase == ACTIVE)

    @property
    def lost(self) -> list[int]:
        """The neighbours that were left behind."""
        return sorted(link.neighbour for link in self._links.values() if link.phase == LOST)

    def join(self, endpoints: Mapping[int, str], timeout_s: float) -> None:
        """Dial whom we are to dial, greet each, and return when every link is active.

        Raises: DifnetError, if a neighbour refuses (naming both values) or is not there in time (naming it).
        """
        with self._lock:
            for link in self._links.values():
                link.heard_at = time.monotonic()
            deadline = time.monotonic() + timeout_s
            while waiting := [link for link in self._links.values() if link.phase == JOINING]:
                if time.monotonic() > deadline:
                    missing = {link.neighbour: f"{endpoints.get(link.neighbour, 'unknown')} {link.unreachable}".rstrip()
                               for link in waiting}  # fmt: skip
                    raise DifnetError(f"agent {self.identity.agent} waited {timeout_s:.0f} s in vain for its neighbours"
                                      f" {missing}; are they running and reachable?")  # fmt: skip
                for link in waiting:
                    if link.dials and not link.greeted and link.neighbour in endpoints:
                        self._dial(link, endpoints[link.neighbour])
                        link.greeted = self._send(link, "hello", **self.identity.greeting())
                self._wait(0.02)
            self._computing_since = time.monotonic()
        self._helper.start()

    def _dial(self, link: Link, endpoint: str) -> None:
        """Dial, and anew every few seconds as long as nobody is there: its name may mean another address by now."""
        if time.monotonic() < link.dial_at:
            return
        link.dial_at = time.monotonic() + REDIAL_S
        self._sockets.hang_up(link.neighbour)
        try:
            self._sockets.dial(link.neighbour, numeric(endpoint))
        except OSError as error:
            link.unreachable = str(error)
        self._wait(0.0)  # a slow look-up must not make us seem silent

    def exchange(self, round_: int, phi: np.ndarray) -> dict[int, np.ndarray]:
        """Tell every neighbour our state of this round, and hear theirs.

        Args: `phi`, shape (M,), must never be written to afterwards: it may travel without a copy.
        Returns: neighbour -> state, for those whose state is to be combined in this round.
        Raises: Diverged, if our own state is not finite; nothing is sent then.
        """
        self.tell(round_, phi)
        return self.hear(round_)

    def tell(self, round_: int, phi: np.ndarray, to: Collection[int] | None = None, last: bool = False) -> None:
        """Tell some neighbours, or all of them, our state of this round; `last` says that none will follow.

        Raises: Diverged, if our own state is not finite; nothing is sent then.
        """
        if not wire.is_finite(phi):
            raise Diverged(f"agent {self.identity.agent}, iteration {round_}: the intermediate state is no longer "
                           f"finite; a smaller --outer-lr or --inner-lr may help")  # fmt: skip
        body = phi.data.cast("B")
        with self._lock:
            self._computing_since, self.round = None, round_
            for link in self._links.values():
                if link.phase == ACTIVE and (to is None or link.neighbour in to):
                    self._send(link, "last" if last else "state", body if link.tells else b"", must=self._must,
                               epoch=link.epoch, round=round_)  # fmt: skip

    def hear(
        self, round_: int, of: Collection[int] | None = None, wanted: int | None = None,
        deadline_s: float | None = None,
    ) -> dict[int, np.ndarray]:  # fmt: skip
        """Wait for the states of this round: those of some neighbours, or of all; then compute on.

        Args: `wanted`: so many of them suffice; `deadline_s`: nobody is waited for any longer.
        Returns: neighbour -> state, for those whose state is to be combined in this round.
        """
        links = [link for link in self._links.values() if of is None or link.neighbour in of]
        until = time.monotonic() + (float("inf") if deadline_s is None else deadline_s)
        with self._lock:
            self.round = round_
            if self._lag is not None or time.monotonic() >= self._next_beat:
                self._wait(0.0)
            while self._is_waiting(links, round_, wanted) and (left := until - time.monotonic()) > 0:
                self._wait(min(BEAT_S, left))
            heard = self._take(links, round_, wanted)
            self._computing_since = time.monotonic()
        return heard

    def newest(self, neighbour: int) -> tuple[int, bool]:
        """The round of the newest state heard of a neighbour (-1: none yet), and whether it is its last one."""
        link = self._links[neighbour]
        return link.newest, link.is_last

    def service(self, timeout_s: float) -> None:
        """Look after the links for at most so long without exchanging anything."""
        with self._lock:
            self._wait(timeout_s)

    def farewell(self, reason: str = "done") -> None:
        """Say goodbye and wait, briefly, until every neighbour has read all that we sent or has said goodbye itself."""
        with self._lock:
            self._computing_since, self._leaving = None, True
            deadline = time.monotonic() + FAREWELL_S
            while time.monotonic() < deadline and any(link.outbox for link in self._links.values()):
                self._wait(0.05)
            for link in self._links.values():
                if link.phase in (ACTIVE, DONE):
                    self._send(link, "bye", must=True, reason=reason[:256])
            while time.monotonic() < deadline and any(
                link.phase == ACTIVE and not link.farewell_seen for link in self._links.values()
            ):
                self._wait(0.05)

    # one round

    def _is_waiting(self, links: list[Link], round_: int, wanted: int | None) -> bool:
        missing = [link for link in links if link.phase == ACTIVE and not link.answers(round_, self._lag)]
        enough = wanted is not None and sum(link.answers(round_, self._lag) for link in links) >= wanted
        return (bool(missing) and not enough) or any(link.outbox for link in links if link.phase == ACTIVE)

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

    # looking after the links

    def _wait(self, timeout_s: float) -> None:
        """Read what there is, or wait for it until the next beat is due; then beat, and judge who is silent."""
        if any(link.outbox for link in self._links.values()):
            timeout_s = min(timeout_s, 0.005)
        timeout_s = min(timeout_s, max(0.0, self._next_beat - time.monotonic()))
        arrived = self._sockets.receive(timeout_s)
        first = next(arrived, None)
        now = time.monotonic()
        if now - self._serviced_at > 4 * BEAT_S:  # it is we who were stopped: forgive everybody
            for link in self._links.values():
                link.heard_at = now
        self._serviced_at = now
        while first is not None:
            self._receive(*first)
            first = next(arrived, None)
        for link in self._links.values():
            if link.outbox:
                self._push(link, link.outbox, must=True)
        if now >= self._next_beat:
            self._next_beat = now + BEAT_S
            for neighbour in self._sockets.broken_off():
                self._broke_off(self._links[neighbour])
            self._beat(now)
            self._judge(now)

    def _beat(self, now: float) -> None:
        since = self._computing_since
        phase, age_ms = ("waiting", 0) if since is None else ("computing", int(1000 * (now - since)))
        for link in self._links.values():
            if link.phase == ACTIVE and not link.outbox and now - link.sent_at >= BEAT_S:
                self._send(link, "beat", phase=phase, age_ms=age_ms)

    def _judge(self, now: float) -> None:
        for link in self._links.values():
            if link.phase != ACTIVE:
                continue
            if now - link.heard_at > self._patience.silence_s:
                self._lose(link, f"silent for {now - link.heard_at:.1f} s")
            elif link.peer_phase == "computing" and link.peer_phase_age_s > self._patience.step_s:
                self._lose(link, f"in one step for {link.peer_phase_age_s:.0f} s")
            elif link.spoilt_at is not None and now - link.spoilt_at > self._patience.silence_s:
                self._lose(link, "what it sent was refused, and nothing better came")

    def _look_after_long_steps(self) -> None:
        """The helper thread: while a long step computes, it reads, beats and judges in the loop's place."""
        while not self._closing.wait(BEAT_S):
            since = self._computing_since
            if since is None or time.monotonic() - since < LONG_STEP_S or not self._lock.acquire(blocking=False):
                continue
            try:
                if self._computing_since is not None and not self._closing.is_set():
                    self._wait(0.0)
            finally:
                self._lock.release()

    def _lose(self, link: Link, reason: str) -> None:
        if link.phase in (DONE, LOST):
            return
        was_active, link.phase, link.outbox = link.phase == ACTIVE, LOST, None
        link.states.clear()
        self._send(link, "bye", reason=f"left behind: {reason}"[:256])
        self._sockets.hang_up(link.neighbour)
        if was_active and not self._leaving:
            self._on_lost(link, reason)

    # messages in

    def _receive(self, source: int | bytes, frames: Frames) -> None:
        link = self._links.get(source) if isinstance(source, int) else None
        try:
            if link is None:
                self._meet(bytes(source), *_split(frames))
            elif link.phase != LOST:
                link.heard_at = self._serviced_at
                self.counters.heard_wire_bytes += sum(map(len, frames))
                self._understand(link, *_split(frames), frames[1])
        except WireError:
            self.counters.refused += 1

    def _broke_off(self, link: Link) -> None:
        if link.phase == ACTIVE:
            self._lose(link, "the connection broke")
        elif link.phase == JOINING:
            link.greeted = False
        else:
            link.outbox = None

    def _meet(self, stranger: bytes, kind: str, hello: dict[str, Any]) -> None:
        """The first message of a connection must be a hello that fits; it ties the connection to its link."""
        if kind != "hello":
            raise WireError(f"a {kind!r} before any hello")
        link = self._links.get(hello["agent"])
        wrong = self.identity.mismatch(hello)
        if not wrong and (link is None or link.dials):
            wrong = "agent", f"one of {sorted(self._links)}"[:256], str(hello["agent"])
        elif not wrong and link is not None and link.phase != JOINING:
            wrong = "edge", "an edge not yet joined", link.phase
        if wrong or link is None:
            what, expected, got = wrong or ("agent", "", "")
            self._sockets.send(stranger, [wire.pack("reject", what=what, expected=expected, got=got), b""])
            raise WireError(f"a hello that does not fit: {what}")
        link.epoch += 1
        self._sockets.adopt(stranger, link.neighbour)
        self._send(link, "welcome", epoch=link.epoch)

    def _understand(self, link: Link, kind: str, fields: dict[str, Any], body: bytes) -> None:
        if kind in ("state", "last"):
            self._keep_state(link, fields, body, kind == "last")
        elif kind == "beat":
            link.peer_phase, link.peer_phase_age_s = fields["phase"], fields["age_ms"] / 1000
        elif kind == "welcome" and link.dials and link.phase == JOINING:
            link.phase, link.epoch = ACTIVE, fields["epoch"]
            self._send(link, "joined", epoch=link.epoch)
        elif kind == "joined" and not link.dials and link.phase == JOINING and fields["epoch"] == link.epoch:
            link.phase = ACTIVE
        elif kind == "bye":
            self._send(link, "seen")
            if fields["reason"] != "done":
                self._lose(link, f"it left: {fields['reason']}")
            elif link.phase == ACTIVE:
                link.phase, link.outbox = DONE, None
        elif kind == "seen":
            link.farewell_seen = True
        elif kind == "reject" and link.phase == JOINING:
            raise DifnetError(f"agent {link.neighbour} refuses agent {self.identity.agent}: {fields['what']} is "
                              f"{fields['got']!r} here and {fields['expected']!r} there; start both from the same "
                              f"configuration")  # fmt: skip
        else:
            raise WireError(f"a {kind!r} that does not belong here")

    def _keep_state(self, link: Link, fields: dict[str, Any], body: bytes, is_last: bool) -> None:
        if link.phase != ACTIVE or fields["epoch"] != link.epoch:
            raise WireError("a state of another epoch")
        link.peer_phase = ""
        if link.newest < fields["round"] < self.round and self._lag is None:
            self.counters.late += 1
            return
        try:
            state = wire.read_state(body, self._dtype, self.identity.length) if link.hears else None
        except WireError:
            link.spoilt_at = link.spoilt_at or self._serviced_at
            raise
        if not link.accept(fields["round"], state, self.round, self._lag):
            raise WireError("a stale, early or replayed state")
        link.spoilt_at, link.is_last = None, is_last

    # messages out

    def _send(self, link: Link, kind: str, body: bytes | memoryview = b"", must: bool = False, **fields: Any) -> bool:
        """Send now; a message that must arrive waits in the link's outbox while there is no room for it."""
        return self._push(link, [wire.pack(kind, **fields), body], must)

    def _push(self, link: Link, message: Frames, must: bool) -> bool:
        sending = self._sockets.send(link.neighbour, message)
        if sending is Sending.SENT:
            link.outbox = None if link.outbox is message else link.outbox
            link.sent_at = self._serviced_at
            for total in (self.counters, link.sent):
                total.messages += 1
                total.wire_bytes += len(message[0]) + len(message[1])
                total.payload_bytes += len(message[1])
                total.states += bool(len(message[1]))
        elif sending is Sending.FULL:
            link.outbox = message if must else link.outbox
        elif link.phase != JOINING:
            link.outbox = None
            self._lose(link, "the connection broke")
        return sending is Sending.SENT


def _split(frames: Frames) -> tuple[str, dict[str, Any]]:
    if len(frames) != 2:
        raise WireError(f"a message of {len(frames)} frames instead of 2")
    return wire.unpack(frames[0])
