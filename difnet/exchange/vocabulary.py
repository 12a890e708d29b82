"""What may be said on the control plane, and of which shape? Pure: two tables, and one way to read a message by them.

A kind of message is one line of a table: its fields, each of a shape, exactly these; the tensors that travel with it;
and how long its document may be. Whatever is not so is a WireError, before anybody acts on it.
"""

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from difnet.errors import ConfigError, WireError
from difnet.exchange.addresses import parse
from difnet.exchange.wire import DOCUMENT_LIMIT, LARGEST, LONGEST, kind_of, unpack_control
from difnet.record import events
from difnet.record.summary import Facts

SHORT, TALK = 2**16, 2**18  # bytes of a document, and of one that hands on what somebody printed
LONGEST_PATH, LONGEST_NUMBER, MOST_FIGURES, SHOWN = 107, 20, 1000, 80


@dataclass
class Known:
    """What is known of a run, by which its messages are measured; None is what nobody has told yet."""

    agents: Container[int]
    life: str | None = None  # one beginning of one run: "sines#5d01"; with it every message says what it is of
    hub: int | None = None
    iterations: int = LARGEST - 1
    eval_steps: list[str] | None = None
    dtype: str | None = None
    length: int | None = None  # values in a launch model
    has_accuracy: bool | None = None
    asked: set[tuple[int | None, str]] = field(default_factory=set)  # the models that an agent, or a host, is to score

    @classmethod
    def of(cls, agents: Container[int], run: dict[str, Any]) -> "Known":
        """What a run's description says of it."""
        config, hub = run["config"], run["topology"]["hub"]
        steps = [*map(str, config["eval_steps"])] if "eval_steps" in config else None
        return cls(agents, run["life"], hub, config.get("iterations", LARGEST - 1), steps, config.get("dtype"))

    def learn(self, kind: str, body: dict[str, Any]) -> None:
        """Take in what a message that fits tells of all that follow."""
        if kind == "prepared":
            self.length = body["facts"]["length"]
        elif kind == "Evaluated":
            self.has_accuracy = bool(body["accuracy"])
        elif kind == "scored":
            self.asked.discard((body["agent"], body["model"]))


ANYBODY = Known(range(LARGEST))


class EarlierLife(WireError):
    """Who speaks is of this run, and of processes that others have taken the place of: it went on from checkpoints."""

    def __init__(self) -> None:
        super().__init__("it is of this run as it was before it went on from checkpoints; it is told to end")


class Shape(NamedTuple):
    """What a field may be."""

    words: str
    fits: Callable[[Any, Known], bool]


Carried = Callable[[Sequence[np.ndarray], dict[str, Any], Known], str]  # what is wrong with a message's tensors, or ""


class Word(NamedTuple):
    """What a kind of message is made of."""

    fields: dict[str, Shape]
    carries: Carried
    limit: int  # bytes of its document


def is_plain(value: Any) -> bool:
    """Whether a value is what JSON can say.

    >>> is_plain({"a": [1, None, "x"]}), is_plain({"a": b"x"}), is_plain({1: 2}), is_plain(float("nan"))
    (True, False, False, False)
    """
    if type(value) is dict:
        return all(type(name) is str and is_plain(inner) for name, inner in value.items())
    if type(value) is list:
        return all(map(is_plain, value))
    return type(value) in (str, int, bool, type(None)) or (type(value) is float and math.isfinite(value))


def is_endpoint(value: Any) -> bool:
    """Whether somebody can be dialled there.

    >>> is_endpoint("tcp://10.0.0.1:5600"), is_endpoint("ipc:///tmp/x/3"), is_endpoint("tcp://here"), is_endpoint("x")
    (True, True, False, False)
    """
    if type(value) is not str or not value.isascii() or not value.isprintable() or len(value) > LONGEST:
        return False
    if value.startswith("ipc:///"):
        return len(value) <= len("ipc://") + LONGEST_PATH
    try:
        return bool(parse(value))
    except ConfigError:
        return False


def is_number(key: Any) -> bool:
    """Whether a table's key is an agent's number, of any run."""
    return type(key) is str and key.isascii() and key.isdecimal() and len(key) < LONGEST_NUMBER


def number_in(words: str, least: int, most: Callable[[Known], int]) -> Shape:
    """Whole numbers."""
    return Shape(words, lambda value, run: type(value) is int and least <= value <= most(run))


def one_of(*values: str) -> Shape:
    """One of some texts."""
    return Shape(f"one of {values}", lambda value, run: type(value) is str and value in values)


def maybe(shape: Shape) -> Shape:
    """That, or None."""
    return Shape(f"{shape.words} or None", lambda value, run: value is None or shape.fits(value, run))


def table(**inner: Shape) -> Shape:
    """A table of exactly these fields."""
    def fits(value: Any, run: Known) -> bool:
        return (type(value) is dict and value.keys() == inner.keys()
                and all(shape.fits(value[name], run) for name, shape in inner.items()))  # fmt: skip

    return Shape("a table of " + ", ".join(f"{name} ({shape.words})" for name, shape in inner.items()), fits)


def map_to(shape: Shape) -> Shape:
    """A table of anything to that."""
    return Shape(f"a table of {shape.words}s", lambda value, run: type(value) is dict and len(value) <= MOST_FIGURES
                 and all(type(name) is str and shape.fits(inner, run) for name, inner in value.items()))  # fmt: skip


def list_of(shape: Shape, least: int = 0) -> Shape:
    """A list of that."""
    return Shape(f"a list of {shape.words}s", lambda value, run: type(value) is list and len(value) >= least
                 and all(shape.fits(inner, run) for inner in value))  # fmt: skip


NATURAL = Shape("a natural number", lambda value, run: type(value) is int and 0 <= value < LARGEST)
ITERATION = number_in("an iteration of this run", 0, lambda run: run.iterations)
USED = number_in("a round or -1", -1, lambda run: LARGEST - 1)
STATUS = number_in("an exit status", 0, lambda run: 255)
AGENT = Shape("an agent of this run", lambda value, run: type(value) is int and value in run.agents)
NUMBER = Shape("a number", lambda value, run: type(value) is float or type(value) is int)
TRUTH = Shape("true or false", lambda value, run: type(value) is bool)
NAME = Shape(f"a text of at most {LONGEST} characters", lambda value, run: type(value) is str and len(value) <= LONGEST)
LIFE = Shape("a short text", lambda value, run: type(value) is str and len(value) <= LONGEST + 10)
TEXT = Shape("a text", lambda value, run: type(value) is str)
PLAIN = Shape("a plain table", lambda value, run: type(value) is dict and is_plain(value))
LIST = Shape("a plain list", lambda value, run: type(value) is list and is_plain(value))
ENDPOINT = Shape("an endpoint", lambda value, run: is_endpoint(value))
FIGURES = map_to(NUMBER)
ITERATIONS = list_of(NATURAL)
AGENTS = Shape("a list of different agents", lambda value, run: type(value) is list and len(value) > 0
               and all(AGENT.fits(k, run) for k in value) and len(set(value)) == len(value))  # fmt: skip
LENGTH = Shape("the length of a launch model, the same at all hosts",
               lambda value, run: type(value) is int and 0 < value < LARGEST and run.length in (None, value))
SERVER = Shape("the hub of this run's star, or None", lambda value, run: value is None
               or (type(value) is int and value == run.hub))  # fmt: skip
AFTER = Shape("losses after the run's eval_steps", lambda value, run: FIGURES.fits(value, run)
              and (run.eval_steps is None or [*value] == run.eval_steps))  # fmt: skip
ACCURACY = Shape("accuracies after the run's eval_steps, of all agents or of none", lambda value, run:
                 FIGURES.fits(value, run) and run.has_accuracy in (None, bool(value))
                 and (not value or run.eval_steps is None or [*value] == ["0", *run.eval_steps]))  # fmt: skip
BY_NUMBER = Shape("endpoints by agent", lambda value, run: type(value) is dict and all(
    is_number(k) and is_endpoint(endpoint) for k, endpoint in value.items()))  # fmt: skip
NUMBERED = Shape("natural numbers by agent", lambda value, run: type(value) is dict and all(
    is_number(k) and NATURAL.fits(n, run) for k, n in value.items()))  # fmt: skip
BY_AGENT = Shape("iterations by agent", lambda value, run: type(value) is dict and all(
    is_number(k) and int(k) in run.agents and ITERATIONS.fits(told, run) for k, told in value.items()))  # fmt: skip

BY_NAME = {"agent": AGENT, "neighbour": AGENT, "iteration": ITERATION, "used": USED, "after": AFTER,
           "accuracy": ACCURACY, "state": one_of("done", "stopped", "failed"), "length": LENGTH,
           "server": SERVER}  # fmt: skip
BY_TYPE: dict[Any, Shape] = {
    int: NATURAL, float: NUMBER, str: TEXT, bool: TRUTH, int | None: maybe(NATURAL), float | None: maybe(NUMBER),
    dict[str, float]: FIGURES, dict[str, Any]: PLAIN, dict[str, Any] | None: maybe(PLAIN), list[Any]: LIST,
}  # fmt: skip


def shapes(types: dict[str, Any]) -> dict[str, Shape]:
    """The shapes of a record's fields, by their names, or else by their types."""
    return {name: BY_NAME.get(name) or BY_TYPE[type_] for name, type_ in types.items()}


def nothing(tensors: Sequence[np.ndarray], body: dict[str, Any], run: Known) -> str:
    """No tensor."""
    return f"{len(tensors)} tensors with it, instead of none" if tensors else ""


def one_model(tensors: Sequence[np.ndarray], body: dict[str, Any], run: Known) -> str:
    """A launch model."""
    return f"{len(tensors)} tensors with it, instead of one" if len(tensors) != 1 else state(tensors, body, run)


def state(tensors: Sequence[np.ndarray], body: dict[str, Any], run: Known) -> str:
    """A launch model, and whatever an optimiser keeps beside it."""
    if not tensors:
        return "no launch model with it"
    size, dtype = tensors[0].size, tensors[0].dtype.name
    if size == run.length and run.dtype in (None, dtype):
        return ""
    return f"a launch model of {size} {dtype} values with it, instead of {run.length} {run.dtype}"


def figures(tensors: Sequence[np.ndarray], body: dict[str, Any], run: Known) -> str:
    """A model's figures on each test task, and the samples of each."""
    if (body["agent"], body["model"]) not in run.asked:
        return "a model that it was not to score"
    tasks, steps, kinds = body["shape"]
    sizes = [t.size for t in tensors]
    return "" if sizes == [tasks * steps * kinds, tasks] else f"tensors of {sizes} values do not fit its shape"


def models(tensors: Sequence[np.ndarray], body: dict[str, Any], run: Known) -> str:
    """As many models as are named."""
    return "" if len(tensors) == len(body["models"]) else f"{len(tensors)} tensors for {len(body['models'])} models"


TEST = Shape("(tasks, steps, 1 or 2)", lambda value, run: type(value) is list and len(value) == 3
             and all(type(n) is int and 0 < n < LARGEST for n in value) and value[2] <= 2
             and (run.eval_steps is None or value[1] == 1 + int(run.eval_steps[-1])))  # fmt: skip


def word(carries: Carried = nothing, limit: int = SHORT, **fields_: Shape) -> Word:
    """A kind of message."""
    return Word(fields_, carries, limit)


def event(kind: type[events.Event], carries: Carried = nothing) -> dict[str, Word]:
    """An event as a kind of message."""
    return {kind.__name__: word(carries, SHORT, **shapes({f.name: f.type for f in fields(kind)}))}


TOLD = [name for name in Facts.__annotations__ if name not in ("environment", "ready_s")]
FACTS = table(**shapes({name: Facts.__annotations__[name] for name in TOLD}))
ENERGY = table(joules=maybe(NUMBER), source=TEXT, quality=one_of("measured", "estimated", "unknown"))

TO_REGISTRY: dict[str, Word] = {
    # from agents
    "register": word(agent=NATURAL, incarnation=NATURAL, endpoint=maybe(ENDPOINT), pid=NATURAL),
    "joined": word(agent=AGENT),
    "at": word(agent=AGENT, iteration=ITERATION),
    "doing": word(agent=AGENT, step_s=maybe(NUMBER)),
    "leave": word(),
    "mark": word(said=NATURAL),  # hosts too
    **event(events.Progress),
    **event(events.Snapshot, one_model),
    **event(events.Submitted, one_model),
    **event(events.Evaluated, one_model),
    **event(events.Judged),
    **event(events.NeighbourLost),
    **event(events.NeighbourBack),
    **event(events.LinkHealed),
    **event(events.AgentReturned),
    **event(events.TrainedAlone),
    **event(events.Saved),
    **event(events.Edge),
    **event(events.Finished, state),
    # from hosts
    "configuration?": word(agents=list_of(NATURAL, 1), name=NAME, version=NAME, run=maybe(NAME)),
    "note": word(limit=TALK, text=TEXT),
    "failed": word(limit=TALK, reason=TEXT, exit_code=STATUS, host=NAME),
    "prepared": word(limit=DOCUMENT_LIMIT, host=NAME, agents=AGENTS, environment=PLAIN, facts=FACTS,
                     checkpoints=BY_AGENT),
    "beat": word(name=NAME, machine=NAME, energy=ENERGY),
    "log": word(limit=TALK, agent=AGENT, text=TEXT),
    "exited": word(limit=TALK, agent=AGENT, incarnation=NATURAL, status=TEXT, log_tail=TEXT, returns=TRUTH),
    # from hosts, and from agents that have data of their own
    "scored": word(figures, agent=maybe(AGENT), model=NAME, iteration=ITERATION, shape=TEST),
    "all scored": word(agent=maybe(AGENT)),
    "not scored": word(limit=TALK, agent=maybe(AGENT), reason=TEXT),
}
FROM_REGISTRY: dict[str, Word] = {
    # to agents
    "peers": word(limit=DOCUMENT_LIMIT, endpoints=BY_NUMBER, first=NATURAL),
    "go": word(),
    "stop": word(),
    "until": word(iteration=NATURAL),
    "save": word(iteration=NATURAL),
    "where": word(),
    "moved": word(agent=NATURAL, endpoint=ENDPOINT),
    "gone": word(agent=NATURAL),
    "left": word(),
    "stay": word(),
    # to hosts
    "run": word(limit=DOCUMENT_LIMIT, run=NAME, id=NAME, life=LIFE, folder=TEXT, resumes=TRUTH, version=NAME,
                config=PLAIN, topology=PLAIN, incarnations=NUMBERED, hashes=table(topology=NAME, weights=NAME)),
    "beat": word(started=TRUTH),
    "end": word(),
    # to both
    "score": word(models, models=map_to(NATURAL), part=one_of("validation", "test")),
    "refused": word(reason=TEXT),
    "recorded": word(said=NATURAL),
    "who": word(),
}  # fmt: skip


def read(
    words: dict[str, Word], frames: Sequence[bytes], run: Known
) -> tuple[str, dict[str, Any], list[np.ndarray]]:
    """A message's kind, body and tensors, as one of these words.

    Raises: WireError, if it is none, or of another shape than its kind's.

    >>> from difnet.exchange.wire import pack_control
    >>> read(TO_REGISTRY, pack_control("joined", {"agent": 3}, []), Known(range(40)))
    ('joined', {'agent': 3}, [])
    >>> read(TO_REGISTRY, pack_control("joined", {"agent": 40}, []), Known(range(40)))
    Traceback (most recent call last):
      ...
    difnet.errors.WireError: joined: agent is 40, not an agent of this run
    """
    kind = kind_of(frames[0]) if frames else ""
    if (known := words.get(kind)) is None:
        raise WireError(f"{_shown(kind)} is no kind of message here")
    try:
        _, body, tensors = unpack_control(frames, known.limit)
        if (of := body.pop("of", run.life)) != run.life:  # of one that had the same token
            name, sign, _ = str(run.life).rpartition("#")
            is_earlier = type(of) is str and sign and of.rpartition("#")[0] == name
            raise EarlierLife() if is_earlier else WireError("it is of another run")
        check(known, body, tensors, run)
    except EarlierLife:
        raise
    except WireError as error:
        raise WireError(f"{kind}: {error}") from error
    return kind, body, tensors


def check(known: Word, body: dict[str, Any], tensors: Sequence[np.ndarray], run: Known) -> None:
    """Raises: WireError, if a message is not of its kind's shape."""
    if body.keys() != known.fields.keys():
        more, less = (sorted(map(_shown, a - b)) for a, b in ((body.keys(), known.fields.keys()),
                                                              (known.fields.keys(), body.keys())))  # fmt: skip
        raise WireError("; ".join([*([f"without {', '.join(less)}"] if less else []),
                                   *([f"with {', '.join(more[:5])}"] if more else [])]))  # fmt: skip
    for name, shape in known.fields.items():
        if not shape.fits(body[name], run):
            raise WireError(f"{name} is {_shown(body[name])}, not {shape.words}")
    if wrong := known.carries(tensors, body, run):
        raise WireError(wrong)


def _shown(value: Any) -> str:
    """A value in a few characters that a terminal can bear."""
    if type(value) is str:
        return ascii(value[:SHOWN])
    return str(value) if type(value) in (int, float, bool, type(None)) else f"a {type(value).__name__}"
