"""What can happen in a run: one stream of frozen values, from the runtimes up to the record and the screen.

Agents (or the simulator) speak the first group; the recorder gathers it and speaks the second, which is what
`events.jsonl` holds and all that a dashboard or a report ever sees. Losses are task means of the query loss.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

Statistics = dict[str, float]  # over agents: "mean", "median", "worst"
Amount = float | int | None  # unknown is None
LAUNCH_MODEL, LOCAL_AVERAGE = "launch model", "average of the local models"  # what is tested when a run is over,
OWN_MODELS = "agents' own models"  # and these, where they differ


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    def to_dict(self) -> dict[str, Any]:
        """The event as plain values, its kind under "event".

        >>> Note("compiling").to_dict()
        {'event': 'Note', 'text': 'compiling', 'seconds': 0.0}
        """
        return {"event": type(self).__name__, **asdict(self)}


# From one agent to the recorder.


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """Where agent `agent` stands after `iteration` iterations; counters are totals since its start."""

    agent: int
    iteration: int
    loss: float | None  # query loss after the inner steps, mean over the iterations since the last Progress
    cpu_s: float
    pss_bytes: int | None  # proportional set size; None where the system does not tell
    steps: int  # adapt steps done
    figures: dict[str, float]  # what else the algorithm reports, means like `loss`
    peak_bytes: int | None  # the most memory it ever held (resident set)
    payload_bytes: int  # of states sent, headers and framing not counted
    wire_bytes: int  # of all frames sent
    messages: int  # sent, of every kind
    uploads: int  # states sent; a hub's own not counted
    missed: int  # exchanges in which an expected neighbour stayed silent
    refused: int  # messages that were dropped as malformed, stale or non-finite
    late: int = 0  # answers that came to a hub after it had gone on
    abandoned: int = 0  # rounds in which a hub had too few answers
    answered: int = 0  # answers to its calls that a hub heard in time
    heard_payload_bytes: int = 0
    heard_wire_bytes: int = 0
    longest_wait_s: float = 0.0  # that a round was waited for, by this process; while it was stopped itself not counted


@dataclass(frozen=True, slots=True)
class Snapshot(Event):
    """Agent `agent`'s launch model after so many iterations travels beside this, for the consensus error."""

    agent: int
    iteration: int


@dataclass(frozen=True, slots=True)
class Submitted(Snapshot):
    """A snapshot of which a validation is due: it is tested by whoever has tasks for it; and what it had taken."""

    payload_bytes: int  # sent so far; by a hub: sent and heard, i.e. by the whole star
    steps: int  # adapt steps so far; by a hub: of all its clients
    uploads: int


@dataclass(frozen=True, slots=True)
class Evaluated(Submitted):
    """A snapshot with which agent `agent` was also tested: on the network's validation tasks, or on its own."""

    before: float  # loss without adaptation
    after: dict[str, float]  # inner steps ("1", "10") -> loss
    accuracy: dict[str, float]  # inner steps, "0" for without adaptation -> accuracy; {} where a family has none


@dataclass(frozen=True, slots=True)
class Judged(Event):
    """Agent `agent` has tested the network's launch model of an iteration with its own data; see Evaluated."""

    agent: int
    iteration: int
    before: float
    after: dict[str, float]
    accuracy: dict[str, float]


@dataclass(frozen=True, slots=True)
class NeighbourLost(Event):
    """Agent `agent` goes on without `neighbour`, whose weight stays with the agent itself from now on."""

    agent: int
    neighbour: int
    iteration: int
    used: int  # the last iteration in which this end used the edge; -1 for never
    reason: str
    epoch: int = 1  # counts how often the two had joined


@dataclass(frozen=True, slots=True)
class NeighbourBack(Event):
    """Agents `agent` and `neighbour` have joined again, and use their edge from iteration `first` on."""

    agent: int
    neighbour: int
    iteration: int
    first: int
    epoch: int


@dataclass(frozen=True, slots=True)
class LinkHealed(Event):
    """The connection of agents `agent` and `neighbour` broke and came back, and both go on as if it had not.

    Each end tells so of each time; nothing was missed, and the epoch is the same.
    """

    agent: int
    neighbour: int
    iteration: int
    epoch: int  # see NeighbourLost
    seconds: float  # from when this end saw it to be broken
    resent: int  # states that this end sends again, as the first ones went under


@dataclass(frozen=True, slots=True)
class AgentReturned(Event):
    """Agent `agent` had lost everybody, or is a new process of an agent that died, and goes on where the others are.

    Or it is one of several that had been cut off, and were too far behind to do every iteration.
    """

    agent: int
    incarnation: int  # 0: the process that it began with
    iteration: int  # with which it goes on
    left_out: int | None  # iterations between, which it has not done; None: of a new process, unknown
    model: str  # where its launch model is from


@dataclass(frozen=True, slots=True)
class TrainedAlone(Event):
    """Agent `agent` has its local model, before the first exchange."""

    agent: int
    steps: int
    loss: float
    gradient_norm: float  # at which it ended: how far from a stationary point it may be


@dataclass(frozen=True, slots=True)
class Saved(Event):
    """Agent `agent` has a checkpoint of itself after so many iterations on its host's disk."""

    agent: int
    iteration: int
    seconds: float  # that it took, beside the training
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Edge(Event):
    """What agent `agent` has sent to `neighbour` in the whole run, and what it has used of the edge.

    None where nobody knows, as in a simulation, which has no edges that break.
    """

    agent: int
    neighbour: int
    payload_bytes: int
    wire_bytes: int
    messages: int
    combined: int | None = None  # rounds in which a state of the neighbour was combined
    epoch: int | None = None  # the last; see NeighbourLost
    used: int | None = None  # the last round of that epoch in which this end used the edge
    resent: int | None = None  # states that are counted twice in the above, since a connection broke: see LinkHealed


@dataclass(frozen=True, slots=True)
class Finished(Event):
    """Agent `agent` ended its loop; its launch model and optimiser state travel beside it."""

    agent: int
    iteration: int
    state: str  # "done" | "stopped" | "failed"
    reason: str = ""


# From the recorder to the record and the screen.


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """What is about to run, as far as a reader of the stream needs it."""

    run: str
    command: str  # "launch" | "simulate"
    folder: str
    topology: str
    agents: int
    edges: int
    mixing_rate: float
    doubly_stochastic: bool
    strategy: str
    algorithm: str
    task: str
    model: str
    iterations: int
    outer_lr: float
    seed: int
    started_at: str  # ISO 8601, UTC
    combine: str = "mean"  # by A; any other rule is one that the theory of A says nothing of

    @property
    def promised_rate(self) -> float | None:
        """The mixing rate by which theory has the agents agree; None where they combine by another rule than A."""
        return self.mixing_rate if self.combine == "mean" else None


@dataclass(frozen=True, slots=True)
class Note(Event):
    """Something a person wants to know while waiting."""

    text: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ready(Event):
    """Every agent is connected and the first iteration begins."""

    seconds: float  # since the command began
    engine: str  # "aot" | "traced" | "eager"
    parameters: int
    server: int | None  # the hub that serves, or None: then there is no server
    mixing_rate: float  # of the exchange as it will be: 0 with a server


@dataclass(frozen=True, slots=True)
class Pulse(Event):
    """How the network is doing right now."""

    seconds: float  # since Ready
    iteration: int  # of the slowest living agent
    rounds_per_s: float  # lately
    training_loss: float | None  # mean over agents, lately
    payload_bytes: int
    wire_bytes: int
    messages: int
    pss_mb: float | None  # mean over agents
    alive: int
    missed: int


@dataclass(frozen=True, slots=True)
class Measured(Event):
    """How far apart all living agents were at the same iteration."""

    iteration: int
    seconds: float
    disagreement: float  # mean over agents of ||w_k - centroid||^2, i.e. the consensus error
    distances: dict[str, float]  # agent -> ||w_k - centroid||^2


@dataclass(frozen=True, slots=True)
class Validated(Measured):
    """A measurement at which every living agent was also tested."""

    before: Statistics
    after: dict[str, Statistics]  # inner steps -> statistics over agents
    accuracy: dict[str, Statistics]  # inner steps, "0" first; {} where a family has none
    spent: dict[str, Amount]  # so far: see `costs.spent`


@dataclass(frozen=True, slots=True)
class Checkpointed(Event):
    """Everybody who carries something from one iteration to the next has a checkpoint of the same one."""

    iteration: int
    seconds: float
    took_s: float  # by the slowest agent
    file_bytes: int  # of all
    energy: dict[str, Any]  # that the run had taken by then: joules, source, quality


@dataclass(frozen=True, slots=True)
class Resumed(Event):
    """A run that had ended, or was killed, goes on after so many iterations, with what every agent had then.

    What was recorded of later ones before this stands no more: see `standing`.
    """

    iteration: int
    iterations: int  # to do in all
    seconds: float
    redone: int  # iterations that were known to be done and are done again


@dataclass(frozen=True, slots=True)
class Tested(Event):
    """A model was scored, once, on tasks or clients that had no part in training; the rows are in test.csv.

    Of OWN_MODELS each was scored on all tasks, and the scores are mean, median and worst over the agents, each of which
    has its rows in test-agents.csv.
    """

    model: str  # LAUNCH_MODEL | LOCAL_AVERAGE | OWN_MODELS
    iteration: int  # after which it was taken
    tasks: int
    loss: dict[str, dict[str, Amount]]  # inner steps, "0" first -> scores over tasks
    accuracy: dict[str, dict[str, Amount]]
    agents: int | None = None  # of OWN_MODELS: how many were scored


@dataclass(frozen=True, slots=True)
class AgentLost(Event):
    """An agent's process ended before the run did."""

    agent: int
    status: str  # "exit status 1", "killed by SIGKILL"
    iteration: int
    log_tail: str


@dataclass(frozen=True, slots=True)
class Pieces(Event):
    """The agents that live hear of each other in other groups than before; a single one: the network is whole again."""

    iteration: int  # with which the last of them came or went
    seconds: float
    pieces: list[list[int]]  # agents that are joined, by whatever detour; the biggest first


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """The run is over and its folder is complete; `summary` is what run.json holds."""

    state: str  # "done" | "stopped" | "failed"
    summary: dict[str, Any]


KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        Progress, Snapshot, Submitted, Evaluated, Judged, NeighbourLost, NeighbourBack, LinkHealed, AgentReturned,
        TrainedAlone, Saved, Edge, Finished, RunStarted, Note, Ready, Pulse, Measured, Validated, Checkpointed,
        Resumed, Tested, AgentLost, Pieces, RunEnded,
    )
}  # fmt: skip


def from_dict(record: dict[str, Any]) -> Event:
    """The event that `to_dict` wrote.

    Raises: KeyError for an unknown kind, TypeError for missing or unknown fields.

    >>> from_dict({"event": "Note", "text": "hello", "seconds": 1.5})
    Note(text='hello', seconds=1.5)
    """
    kind = KINDS[record["event"]]
    names = {f.name for f in fields(kind)}
    unknown = set(record) - names - {"event"}
    if unknown:
        raise TypeError(f"{kind.__name__} has no field {sorted(unknown)}")
    return kind(**{name: value for name, value in record.items() if name != "event"})


def standing(events: Iterable[Event]) -> list[Event]:
    """What counts of a record, in order: a run that was resumed has done some iterations twice, and ended twice.

    >>> [e.iteration for e in standing([Snapshot(0, 10), Snapshot(0, 20), Resumed(20, 30, 1.0, 3), Snapshot(0, 20)])]
    [10, 20, 20]
    """
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Resumed):
            kept = [e for e in kept if not _is_undone(e, event.iteration)]
        kept.append(event)
    return kept


def _is_undone(event: Event, after: int) -> bool:
    """Whether an event tells of what a run that goes on after an iteration will tell of again."""
    match event:
        case Measured() | Snapshot():
            return event.iteration >= after
        case Progress() | Pulse() | Checkpointed():
            return event.iteration > after
        case Tested() | RunEnded() | Edge() | Finished():
            return True
    return False
