"""Who of an agent's neighbours is there? Dialled, greeted, watched; left behind when silent; joined again on return.

The identity of a sender is its link, never a header field. A neighbour that is gone (its connection broke, and does not
come back: `mending.py`), silent (no beat) or stuck in one step (its beats say so) is left behind, at both ends. Whoever
was left behind dials again, and a handshake begins a new epoch of the edge, from a round on that both can still reach:

    dials -> hello {who, epoch, round}     -> welcome {epoch, round} + state
          -> joined {epoch, round} + state    (the later of the two rounds; each state is where its sender stands)
"""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from difnet.errors import DifnetError, WireError
from difnet.exchange import wire
from difnet.exchange.addresses import Lookup
from difnet.exchange.links import ACTIVE, DONE, JOINING, LOST, Identity, Link, Patience
from difnet.exchange.mending import BROKE, TURN_S, Healed, Mending
from difnet.exchange.outgoing import Outgoing
from difnet.exchange.sockets import Frames, Sockets

BEAT_S = 0.25
STOPPED_S = 4 * BEAT_S  # without having looked at the links: then it is we who were stopped
REDIAL_S, RETURN_S = 5.0, 0.25  # between two attempts to reach a neighbour; and before the first one to get it back
ENDED, JOINED = "an edge that is needed", "an edge"  # why a hello is refused: for good, or to come again
OTHER = "an epoch"  # and why a resume is: only a new epoch can follow
MOST_READS = 64  # of what came while we were stopped: more than links can hold
HANDSHAKE = ("hello", "welcome", "joined", "resumed", "reject")

Heard = Callable[[Link, str, dict[str, Any], bytes], None]  # (link, kind, fields, body) of a message about rounds
Lost = Callable[[Link, str], None]
Back = Callable[[Link], None]


class Neighbours:
    """An agent's links and their sockets; whoever calls it holds the transport's lock."""

    def __init__(
        self, identity: Identity, links: list[Link], patience: Patience, heard: Heard, lost: Lost, back: Back,
        healed: Healed, in_step: bool,
    ) -> None:  # fmt: skip
        self.identity, self.links = identity, {link.neighbour: link for link in links}
        self.dtype = wire.DTYPES[identity.dtype]
        self.sockets = Sockets(identity.length * self.dtype.itemsize)
        self.next_round = 0  # the first that nobody was told yet
        self.offer: np.ndarray | None = None  # where we stand: what one that comes back may begin from
        self.computing_since: float | None = None
        self.stopped_s = 0.0  # for which this process was stopped, in all
        self.in_doubt_until = 0.0  # we were stopped for long: who has gone on without us shows until then
        self.is_leaving = False
        self.is_changed = False  # somebody came or went ahead since the rounds looked last
        self.is_alone = identity.incarnation > 0  # everybody was lost, and nobody whom the rounds know of came back
        self.now = self._next_beat = time.monotonic()
        self._patience, self._on_heard, self._on_lost, self._on_back = patience, heard, lost, back
        self._has_begun = False
        self.out = Outgoing(self.sockets, in_step, lambda link: self.mending.cut(link, self.now))
        self.send, self.tell, self.counters = self.out.send, self.out.tell, self.out.counters
        self.mending = Mending(identity, self.sockets, self.out, self._dial, self._receive, self.lose, healed)
        self._lookups: dict[int, Lookup] = {}  # of the numbers of neighbours that are to be dialled

    @property
    def _is_returning(self) -> bool:
        """Whether the network is there already: nobody need be given time to get ready."""
        return self._has_begun or self.identity.incarnation > 0

    @property
    def active(self) -> list[Link]:
        """The links whose other end is there."""
        return [link for link in self.links.values() if link.phase == ACTIVE]

    def join(self, endpoints: Mapping[int, str], timeout_s: float) -> None:
        """Dial whom we are to dial, greet each, and return when all are there; or, come back, when somebody is.

        Raises: DifnetError, if a neighbour refuses (naming both values) or is not there in time (naming it).
        """
        for link in self.links.values():
            link.heard_at, link.endpoint = time.monotonic(), endpoints.get(link.neighbour, "")
            link.is_gone = link.neighbour not in endpoints and self.identity.incarnation > 0
        deadline = time.monotonic() + timeout_s
        while waiting := [link for link in self.links.values() if link.phase == JOINING]:
            if self.identity.incarnation and self.active:
                break
            if all(link.is_gone for link in waiting):
                raise DifnetError(f"agent {self.identity.agent} came back when all its neighbours had ended")
            if time.monotonic() > deadline:
                missing = {link.neighbour: f"{link.endpoint or 'unknown'} {link.unreachable}".rstrip()
                           for link in waiting}  # fmt: skip
                raise DifnetError(f"agent {self.identity.agent} waited {timeout_s:.0f} s in vain for its neighbours "
                                  f"{missing}; are they running and reachable?")  # fmt: skip
            self._call(waiting)
            self.service(0.02)
        self._has_begun = True
        for link in self.links.values():
            link.phase = LOST if link.phase == JOINING else link.phase

    def moved(self, neighbour: int, endpoint: str) -> None:
        """A neighbour has started anew, and listens elsewhere."""
        if link := self.links.get(neighbour):
            if link.cut_at is not None:
                self.mending.give_up(link)
            link.endpoint, link.dial_at, link.is_gone = endpoint, 0.0, False
            self._lookups.pop(neighbour, None)

    def gone(self, neighbour: int) -> None:
        """A neighbour will not come back."""
        if link := self.links.get(neighbour):
            link.is_gone = True

    def is_time_to_beat(self) -> bool:
        """Whether a beat is due, for rounds so fast that they never wait."""
        return time.monotonic() >= self._next_beat

    def was_stopped(self) -> bool:
        """Whether the links have not been looked at for so long that this process must have been stopped."""
        return time.monotonic() - self.now > STOPPED_S

    def has_beaten(self) -> bool:
        """Whether the last `service` has beaten, and judged: four times a second."""
        return self._next_beat == self.now + BEAT_S

    def service(self, timeout_s: float) -> None:
        """Read what there is, or wait for it until the next beat is due; then beat, and judge who is silent."""
        if any(link.outbox for link in self.links.values()):
            timeout_s = min(timeout_s, 0.005)
        if self.mending.is_at_work:
            timeout_s = min(timeout_s, TURN_S)
        timeout_s = min(timeout_s, max(0.0, self._next_beat - time.monotonic()))
        arrived = self.sockets.receive(timeout_s)
        first = next(arrived, None)
        now = time.monotonic()
        away_s, self.now = now - self.now, now
        while first is not None:
            self._receive(*first)
            first = next(arrived, None)
        if away_s > STOPPED_S:
            self._was_stopped(away_s)
        for link in self.links.values():
            if link.outbox:
                self.out.flush(link)
        is_time, is_broken = now >= self._next_beat, self.mending.is_at_work
        if is_time or is_broken:
            for neighbour in self.sockets.broken_off():
                self._broke_off(self.links[neighbour])
            self.mending.look(now)
        if is_time:
            self._next_beat = now + BEAT_S
            self._beat(now)
            self._judge(now)
            if self._has_begun and not self.is_leaving:
                self._call([link for link in self.links.values() if link.may_return])

    def _was_stopped(self, away_s: float) -> None:
        """It is we who were silent: read what came meanwhile, and forgive everybody.

        After so long a stop they may have given us up. Until it has had time to reach us that they did, no further
        round may use what they told before.
        """
        for _ in range(MOST_READS):
            if not (arrived := [*self.sockets.receive(0.0)]):
                break
            for source, frames in arrived:
                self._receive(source, frames)
        self.stopped_s += away_s
        for link in self.links.values():
            link.heard_at = self.now
            link.cut_at = None if link.cut_at is None else self.now
        if away_s > self._patience.silence_s and self._has_begun:
            self.in_doubt_until = self.now + 2 * BEAT_S

    def lose(self, link: Link, reason: str) -> None:
        """Go on without a neighbour, and tell it so; it may come back."""
        if link.phase in (DONE, LOST):
            return
        was_active, is_cut = link.phase == ACTIVE, link.cut_at is not None
        link.leave(self.next_round)
        if not is_cut:
            self.send(link, "bye", reason=f"left behind: {reason}"[:256])
        self.sockets.hang_up(link.neighbour)
        link.dial_at = self.now + RETURN_S * (1 + random.SystemRandom().random())
        if was_active and not self.is_leaving:
            self.is_changed, self.is_alone = True, self.is_alone or not self.active
            self._on_lost(link, reason)

    def go_ahead(self, link: Link) -> None:
        """Tell the other end so, and where we stand, if we are in a later round than that in which it waits for us."""
        if link.first < self.next_round:
            link.postpone(self.next_round)
            self.tell(link, "ahead", self.next_round + 1, self._standing(), round_=self.next_round)

    # who is there

    def _call(self, away: list[Link]) -> None:
        """Dial, and anew every few seconds as long as nobody is there: its name may mean another address by now."""
        for link in away:
            if not link.dials or not link.endpoint:
                continue
            if time.monotonic() >= link.dial_at and (not link.greeted or self._is_returning):
                self._dial(link)
            if link.is_dialled and not link.greeted:
                who = self.identity.greeting()
                link.greeted = self.send(link, "hello", **who, epoch=link.epoch, attempt=link.attempt,
                                         round=self.next_round)  # fmt: skip

    def _dial(self, link: Link) -> None:
        """Dial a neighbour, once the number of its name is known; nobody is kept waiting for that."""
        if link.neighbour not in self._lookups:
            self._lookups[link.neighbour] = Lookup(link.endpoint)
        try:
            if (endpoint := self._lookups[link.neighbour].answer()) is None:
                return
            self.sockets.hang_up(link.neighbour)
            self.sockets.dial(link.neighbour, endpoint)
            link.greeted, link.is_dialled, link.attempt = False, True, link.attempt + 1
        except OSError as error:
            link.unreachable = str(error)
        del self._lookups[link.neighbour]
        link.dial_at = time.monotonic() + REDIAL_S

    def _beat(self, now: float) -> None:
        since = self.computing_since
        phase, age_ms = ("waiting", 0) if since is None else ("computing", int(1000 * (now - since)))
        for link in self.active:
            if not link.outbox and link.cut_at is None and now - link.sent_at >= BEAT_S:
                self.send(link, "beat", phase=phase, age_ms=age_ms, told=self.next_round)

    def _is_connected(self, link: Link) -> bool:
        """Whether the sockets still know of the connection of a link that is in use: found out by sending."""
        if link.cut_at is None:
            self.send(link, "beat", phase="waiting", age_ms=0, told=self.next_round)
        return link.cut_at is None

    def _judge(self, now: float) -> None:
        for link in self.links.values():
            silent_s = now - link.heard_at
            if link.phase == JOINING and self._has_begun and silent_s > self._patience.silence_s:
                self.lose(link, "its handshake was not completed")
            elif link.phase != ACTIVE or link.cut_at is not None:  # that has a shorter end
                continue
            elif silent_s > self._patience.silence_s:
                self.lose(link, f"silent for {silent_s:.1f} s")
            elif link.peer_phase == "computing" and link.peer_phase_age_s > self._patience.step_s:
                self.lose(link, f"in one step for {link.peer_phase_age_s:.0f} s")
            elif link.spoilt_at is not None and now - link.spoilt_at > self._patience.silence_s:
                self.lose(link, "what it sent was refused, and nothing better came")

    def _broke_off(self, link: Link) -> None:
        if link.cut_at is not None:
            self.mending.try_again(link, self.now)
        elif link.phase in (ACTIVE, DONE):
            self.mending.cut(link, self.now)
        else:
            link.is_dialled, link.greeted, link.dial_at = False, False, min(link.dial_at, self.now + RETURN_S)

    # messages in

    def _receive(self, source: int | bytes, frames: Frames) -> None:
        link = self.links.get(source) if isinstance(source, int) else None
        try:
            if link is None:
                self._meet(bytes(source), *_split(frames))
                return
            kind, fields = _split(frames)
            if link.phase != LOST or kind in HANDSHAKE:
                link.heard_at = self.now
                self.counters.heard_wire_bytes += sum(map(len, frames))
                self._understand(link, kind, fields, frames[1])
        except WireError:
            self.counters.refused += 1

    def _meet(self, stranger: bytes, kind: str, hello: dict[str, Any]) -> None:
        """The first message of a connection must be a hello that fits; it ties the connection to its link.

        While the other end is there, nobody else can be it.
        """
        if kind not in ("hello", "resume"):
            raise WireError(f"a {kind!r} before any hello")
        link = self.links.get(hello["agent"])
        wrong = self.identity.mismatch(hello)
        if not wrong and (link is None or link.dials):
            wrong = "agent", f"one of {sorted(self.links)}"[:256], str(hello["agent"])
        elif not wrong and link is not None:
            if (hello["incarnation"], hello["attempt"]) <= link.newest_hello:
                raise WireError("a hello of a connection that another one has replaced")
            wrong = self._unfit(link, kind, hello)
        if wrong or link is None:
            what, expected, got = wrong or ("agent", "", "")
            self.sockets.send(stranger, [wire.pack("reject", what=what, expected=expected, got=got), b""])
            raise WireError(f"a hello that does not fit: {what}")
        link.newest_hello = hello["incarnation"], hello["attempt"]
        if kind == "resume":
            self.mending.answer(stranger, link, hello["lacks"], self.now)
            return
        if link.phase == ACTIVE:  # there it has been given up already, or it is a new process
            self.lose(link, BROKE)
        begun = link.epoch + (link.phase != JOINING)  # an epoch that was offered in vain is offered again
        link.epoch = max(begun, hello["epoch"] + 1)
        link.phase, link.first, link.heard_at = JOINING, max(self.next_round, hello["round"]), self.now
        self.sockets.adopt(stranger, link.neighbour)
        self.send(link, "welcome", self._standing(), epoch=link.epoch, round=link.first)

    def _unfit(self, link: Link, kind: str, hello: dict[str, Any]) -> tuple[str, str, str] | None:
        """Why the other end of a link cannot join it now, or go on with it: what, expected, got."""
        if kind == "hello" and self._has_ended(link, hello["incarnation"]):
            return ENDED, "one that goes on", "one that has ended"
        if kind == "resume" and not self.mending.goes_on(link, hello["epoch"], hello["incarnation"]):
            return OTHER, str(link.epoch), str(hello["epoch"])
        if link.phase in (ACTIVE, DONE) and self._is_connected(link):
            return JOINED, "an edge not yet joined", link.phase
        return None

    def _has_ended(self, link: Link, incarnation: int) -> bool:
        """Whether we no longer wait for this neighbour, unless it is a new process."""
        return link.phase == DONE or self.is_leaving or (link.is_gone and incarnation <= link.newest_hello[0])

    def _understand(self, link: Link, kind: str, fields: dict[str, Any], body: bytes) -> None:
        if kind == "beat":
            link.peer_phase, link.peer_phase_age_s = fields["phase"], fields["age_ms"] / 1000
            link.peer_round = fields["told"] - 1
        elif kind in ("state", "last", "answer", "ahead"):
            self._on_heard(link, kind, fields, body)
        elif kind == "welcome" and link.dials and link.phase in (JOINING, LOST) and fields["epoch"] > link.epoch:
            link.epoch = fields["epoch"]
            self._begin(link, max(fields["round"], self.next_round), body)
            self.tell(link, "joined", link.first, self._standing(), round_=link.first)
        elif kind == "joined" and not link.dials and link.phase == JOINING and fields["epoch"] == link.epoch:
            self._begin(link, max(fields["round"], link.first), body)
            self.go_ahead(link)
        elif kind == "resumed" and link.dials and link.cut_at is not None and fields["epoch"] == link.epoch:
            self.mending.heal(link, fields["lacks"], self.now)
        elif kind == "bye":
            self.send(link, "seen")
            if fields["reason"] != "done":
                self.lose(link, f"it left: {fields['reason']}")
            elif link.phase == ACTIVE:
                link.phase = DONE
                link.outbox.clear()
        elif kind == "seen":
            link.farewell_seen = True
        elif kind == "reject" and link.cut_at is not None:
            self._not_resumed(link, fields)
        elif kind == "reject" and link.phase in (JOINING, LOST):
            self._refused(link, fields)
        else:
            raise WireError(f"a {kind!r} that does not belong here")

    def _begin(self, link: Link, first: int, body: bytes) -> None:
        """Both ends are there: a new epoch of this edge."""
        offered = wire.read_state(body, self.dtype, self.identity.length) if len(body) else None
        link.join(first, offered, self.now)
        self.is_changed = True
        if link.epoch > 1 or self.identity.incarnation > 0:  # of two new processes neither knows of an epoch before
            self._on_back(link)

    def _refused(self, link: Link, fields: dict[str, Any]) -> None:
        if fields["what"] in (ENDED, JOINED):
            link.is_gone = fields["what"] == ENDED
            link.is_dialled, link.greeted, link.dial_at = False, False, self.now + RETURN_S
            return
        raise DifnetError(f"agent {link.neighbour} refuses agent {self.identity.agent}: {fields['what']} is "
                          f"{fields['got']!r} here and {fields['expected']!r} there; start both from the same "
                          f"configuration")  # fmt: skip

    def _not_resumed(self, link: Link, fields: dict[str, Any]) -> None:
        if fields["what"] == JOINED:  # it has yet to see that the connection broke
            self.mending.try_again(link, self.now)
        else:
            self.mending.give_up(link)

    def _standing(self) -> bytes | memoryview:
        return b"" if self.offer is None else self.offer.data.cast("B")


def _split(frames: Frames) -> tuple[str, dict[str, Any]]:
    if len(frames) != 2:
        raise WireError(f"a message of {len(frames)} frames instead of 2")
    return wire.unpack(frames[0])
