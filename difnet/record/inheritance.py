"""What did a launcher that died know of its run, as far as its record tells it? Events in, tally out.

Agents say again whatever may not have been recorded; what was is not taken twice.
"""

from collections import deque
from dataclasses import dataclass, field

from difnet.record.events import (
    AgentLost,
    AgentReturned,
    Checkpointed,
    Edge,
    Event,
    Finished,
    Judged,
    LinkHealed,
    Measured,
    NeighbourBack,
    NeighbourLost,
    Note,
    Pieces,
    Progress,
    Pulse,
    Ready,
    Resumed,
    Saved,
    Snapshot,
    TrainedAlone,
    Validated,
)  # fmt: skip
from difnet.record.files import json_line
from difnet.record.past import Past
from difnet.record.tally import Tally

OF_TWO = (NeighbourLost, NeighbourBack, LinkHealed, AgentReturned)  # what is told in the network's record alone
MOST_KNOWN = 5000  # of an agent's last words, that it may say again: it has waited for a receipt for a second or so


@dataclass
class Recorded:
    """What stands in the record already."""

    measured: int = -1  # the last iteration whose measurement does
    checkpointed: Checkpointed | None = None
    ready_s: float = 0.0
    seconds: float = 0.0  # the last time that was told
    deaths: dict[int, int] = field(default_factory=dict)  # agent -> how many of its processes are known to have ended
    notes: set[str] = field(default_factory=set)
    _words: set[str] = field(default_factory=set)

    def holds(self, event: Event) -> bool:
        """Whether an agent's word is one that was recorded, and counted, before."""
        match event:
            case Snapshot() | Judged():
                return event.iteration <= self.measured
            case Saved():
                return self.checkpointed is not None and event.iteration <= self.checkpointed.iteration
        return self.has_words(event)

    def has_words(self, event: Event) -> bool:
        """Whether this very word stands in a file."""
        return _key(event) in self._words

    def know(self, events: list[Event]) -> None:
        """Take in words that stand in a file."""
        self._words |= {_key(e) for e in events}


def _key(event: Event) -> str:
    return json_line(event.to_dict())


def recall(past: Past, g: Tally) -> Recorded:
    """Have the tally know what the record of a run tells that goes on with the same processes."""
    known, events = Recorded(), past.events
    begin = max((n for n, e in enumerate(events) if isinstance(e, Resumed)), default=0)
    g.validations = past.of(Validated)
    g.returned = {e.agent for e in past.of(AgentReturned)}
    for event in events[begin:]:
        match event:
            case Resumed():
                g.resumed_at = event.iteration
            case Ready():
                known.ready_s = event.seconds
            case NeighbourLost():
                g.left(event)
            case NeighbourBack():
                g.joined(event)
            case LinkHealed():
                g.healed, g.resent = g.healed + 1, g.resent + event.resent
            case AgentReturned():
                g.came_back(event)
            case AgentLost():
                g.died(event, None)
                known.deaths[event.agent] = known.deaths.get(event.agent, 0) + 1
            case Pieces():
                g.recall_pieces(event.pieces)
            case Checkpointed():
                known.checkpointed = event
        if isinstance(event, Measured | Pulse | Checkpointed):
            known.seconds = max(known.seconds, event.seconds)
    known.notes = {e.text for e in past.of(Note)}
    known.measured = max((e.iteration for e in past.of(Measured)), default=-1)
    known.know([e for e in events[begin:] if isinstance(e, OF_TWO)])
    for k in range(g.agents + past.config.hold_out.count):
        told = deque[Event](maxlen=MOST_KNOWN)
        for event in past.of_agent(k):
            told.append(event)
            match event:
                case Progress():
                    g.progressed(event, may_be_new=True)
                case TrainedAlone():
                    g.alone[k] = event
                case Edge():
                    g.edges.append(event)
                case Finished():
                    g.finished[k] = event
        known.know([*told])
    return known
