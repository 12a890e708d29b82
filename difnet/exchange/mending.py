"""What becomes of a link whose connection broke? For a moment both ends try to go on where they were, as if it had not.

Whoever dials dials again at once. Each end says what it lacks of the epoch that both are in, and is told that again:

    dials -> resume {who, epoch, attempt, lacks}    -> resumed {epoch, lacks}, and what is lacking
          -> what is lacking there

Nothing is lost then, and rounds have waited for it as for a slow neighbour. The link is given up if nobody listens at
the other end any more, if it is in another epoch or another process, or if it was in vain for too long.
"""

from collections.abc import Callable

from difnet.exchange import wire
from difnet.exchange.knocking import Knock
from difnet.exchange.links import ACTIVE, DONE, JOINING, Identity, Link
from difnet.exchange.outgoing import Outgoing
from difnet.exchange.sockets import Frames, Sockets

GRACE_S = 1.0  # for a connection to be back, from when it was seen to be broken
TURN_S = 0.01  # between two looks at it
AGAIN_S = 0.03  # before it is dialled again, when that was in vain
MOST_CUTS = 40  # one after the other, without a state between: such a connection carries nothing
BROKE = "the connection broke"

Healed = Callable[[Link, float, int], None]  # (link, seconds, states that are sent again)


class Mending:
    """The links of an agent whose connections are broken at this moment.

    Args: `dial`, `receive` and `lose` are the agent's own ways to do so; `healed` hears of every link that was broken
        and is not any more.
    """

    def __init__(
        self, identity: Identity, sockets: Sockets, out: Outgoing, dial: Callable[[Link], None],
        receive: Callable[[int, Frames], None], lose: Callable[[Link, str], None], healed: Healed,
    ) -> None:  # fmt: skip
        self._identity, self._sockets, self._out = identity, sockets, out
        self._dial, self._receive, self._lose, self._on_healed = dial, receive, lose, healed
        self._broken: dict[int, tuple[Link, Knock]] = {}

    @property
    def is_at_work(self) -> bool:
        """Whether any connection is broken."""
        return bool(self._broken)

    def close(self) -> None:
        """Let go of all of them."""
        for _, knock in self._broken.values():
            knock.close()

    def cut(self, link: Link, now: float) -> None:
        """The connection of a link that is in use broke."""
        if link.cut_at is not None:
            return
        link.cut_at, link.cuts = now, link.cuts + 1
        link.outbox.clear()  # it is kept among what was told
        self._forget(link)
        self._broken[link.neighbour] = link, Knock(link.endpoint)
        if link.dials:
            for frames in self._sockets.rest(link.neighbour):  # what came before, a goodbye perhaps
                self._receive(link.neighbour, frames)
            if link.cut_at is not None:  # it was no goodbye
                self._sockets.hang_up(link.neighbour)
                link.is_dialled, link.greeted, link.dial_at = False, False, 0.0

    def try_again(self, link: Link, now: float) -> None:
        """What was dialled for a broken link was in vain, for now."""
        link.is_dialled, link.greeted, link.dial_at = False, False, now + AGAIN_S

    def look(self, now: float) -> None:
        """Do what there is to do for those that are broken; give up those that do not come back."""
        for link, knock in [*self._broken.values()]:
            if link.cut_at is None:  # it is mended, or was lost for another reason
                self._forget(link)
            elif link.is_gone or link.cuts > MOST_CUTS or now - link.cut_at > GRACE_S or knock.is_refused(now):
                self.give_up(link)
            elif link.dials:
                if not link.is_dialled and now >= link.dial_at:
                    self._dial(link)
                if link.is_dialled and not link.greeted:
                    link.greeted = self._out.push(link, [wire.pack(
                        "resume", **self._identity.greeting(), epoch=link.epoch, attempt=link.attempt, lacks=link.lacks
                    ), b""])  # fmt: skip

    def give_up(self, link: Link) -> None:
        """It does not come back; of one that had said goodbye nothing more was to come."""
        if link.phase == DONE:
            link.cut_at = None
            self._sockets.hang_up(link.neighbour)
        else:
            self._lose(link, BROKE)

    def answer(self, stranger: bytes, link: Link, lacks: int, now: float) -> None:
        """Go on with whoever dialled us again."""
        self._sockets.adopt(stranger, link.neighbour)
        link.heard_at = now
        self._out.push(link, [wire.pack("resumed", epoch=link.epoch, lacks=link.lacks), b""], True)
        if link.phase != JOINING:  # else the third message of its handshake went under, and comes now
            self.heal(link, lacks, now)

    def heal(self, link: Link, lacks: int, now: float) -> None:
        """Both ends are there again, and in the same epoch: send again what the other one lacks."""
        assert link.cut_at is not None, "only a broken link is healed"
        seconds, link.cut_at = now - link.cut_at, None
        lacking = [told for told in link.told if told.step >= lacks]
        self._on_healed(link, seconds, sum(told.sends > 0 and len(told.message[1]) > 0 for told in lacking))
        for told in lacking:
            self._out.deliver(link, told)
        if link.bye and not link.farewell_seen:
            self._out.push(link, [wire.pack("bye", reason=link.bye), b""], True)

    def goes_on(self, link: Link, epoch: int, incarnation: int) -> bool:
        """Whether the other end of a link means the epoch that this end is in, and is the same process."""
        return link.phase in (ACTIVE, DONE, JOINING) and epoch == link.epoch and incarnation == link.newest_hello[0]

    def _forget(self, link: Link) -> None:
        _, knock = self._broken.pop(link.neighbour, (link, None))
        if knock is not None:
            knock.close()
