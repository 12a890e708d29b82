"""What is to be broken in a run, and when? A schedule of faults, read from a file or drawn from a seed. Pure."""

import random
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from difnet.errors import ConfigError, did_you_mean

Edge = tuple[int, int]


class Kind(NamedTuple):
    """What one kind of fault takes, and what it does."""

    of: str  # "agents", "edges", "" for neither, "agents?" for agents or, without any, the launcher
    needs: tuple[str, ...]  # other keys
    may: tuple[str, ...]
    does: str


KINDS = {
    "kill": Kind("agents", (), (), "SIGKILL"),
    "stop": Kind("agents", ("for_s",), (), "SIGSTOP, and SIGCONT at the end"),
    "slow": Kind("agents", ("for_s", "share"), (), "runs for `share` of the time"),
    "cut": Kind("edges", ("for_s",), ("after_bytes",), "broken, and every new connection as well"),
    "silence": Kind("edges", ("for_s",), (), "nothing is handed on; it comes at the end"),
    "delay": Kind("edges", ("for_s", "delay_ms"), (), "everything comes later, both ways"),
    "corrupt": Kind("edges", ("for_s", "share"), ("flip_bits",), "garbles `share` of the pieces of the stream"),
    "disk": Kind("agents?", ("for_s",), (), "no byte more is taken, of the launcher or of agents"),
    "kill-host": Kind("", (), (), "SIGKILL of the host: ends a run on one machine"),
}
NUMBERS = {  # key -> (type, least, most, what it should be)
    "at_s": (float, 0, 1e9, "seconds after the run has begun, or after this has, if that is later"),
    "at_iteration": (int, 0, 1e15, "an iteration"),
    "for_s": (float, 0.001, 1e9, "seconds, more than 0"),
    "share": (float, 0, 1, "a number from 0 to 1"),
    "delay_ms": (float, 0, 1e7, "milliseconds"),
    "after_bytes": (int, 0, 1e15, "bytes"),
    "flip_bits": (int, 1, 1e6, "how many bits of a piece are flipped; without it, 16 bytes become ones"),
}
DRAWN = ("kill", "stop", "slow", "cut", "silence", "delay", "disk")  # what a network is to come back from by itself


@dataclass(frozen=True)
class Fault:
    """One thing that is broken, once."""

    kind: str
    at_s: float | None = None  # exactly one of these two is given
    at_iteration: int | None = None
    for_s: float = 0.0
    agents: tuple[int, ...] = ()
    edges: tuple[Edge, ...] = ()
    share: float = 0.0
    delay_ms: float = 0.0
    after_bytes: int = 0
    flip_bits: int = 0

    def __str__(self) -> str:
        numbers = {"share": self.share, "delay_ms": self.delay_ms, "after_bytes": self.after_bytes,
                   "flip_bits": self.flip_bits, "for_s": self.for_s}  # fmt: skip
        what = f"agents {_listed(self.agents)}" if self.agents else f"edges {_listed(self.edges)}" if self.edges else ""
        return " ".join([self.kind, what, *(f"{name} {value:g}" for name, value in numbers.items() if value)]).strip()


def _listed(of: Iterable[Any]) -> str:
    return ", ".join("-".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in of)


def parse(text: str, agents: int, edges: Iterable[Edge], source: str = "the plan") -> list[Fault]:
    """The faults in a TOML document of [[fault]] tables, for a network of so many agents with these edges.

    Raises: ConfigError, with all that is wrong.

    >>> [fault] = parse('fault = [{at_s = 2, kind = "stop", agents = [1], for_s = 4}]', 6, [(0, 1)])
    >>> str(fault), fault.at_s
    ('stop agents 1 for_s 4', 2.0)
    >>> parse('fault = [{at_s = 2, kind = "kill", agent = [3]}, {kind = "kill", agents = [7]}]', 6, [(0, 1)])
    Traceback (most recent call last):
        ...
    difnet.errors.ConfigError: the plan has 4 errors:
      fault 1: 'kill' needs agents: [0, 3], say
      fault 1: 'kill' takes no agent; did you mean 'agents'?
      fault 2: it needs at_s or at_iteration, one of them
      fault 2: no agent 7; there are agents 0 to 5
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is no TOML: {error}; a plan is a list of [[fault]] tables") from error
    tables, wrong = document.get("fault"), [f"no key {key!r}; a plan has [[fault]] tables alone"
                                            for key in document if key != "fault"]  # fmt: skip
    known = {frozenset(edge) for edge in edges}
    faults = []
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        wrong.append("there is no [[fault]] in it; one is: [[fault]], at_s = 5, kind = \"kill\", agents = [0]")
        tables = []
    for number, table in enumerate(tables, start=1):
        errors = _errors(table, agents, known)
        wrong += [f"fault {number}: {error}" for error in errors]
        faults += [] if errors else [_fault(table)]
    if wrong:
        count = f"{len(wrong)} errors" if len(wrong) > 1 else "an error"
        raise ConfigError("\n  ".join([f"{source} has {count}:", *wrong]))
    return faults


def _fault(table: Mapping[str, Any]) -> Fault:
    values = {key: NUMBERS[key][0](value) if key in NUMBERS else value for key, value in table.items()}
    values["agents"] = tuple(table.get("agents", ()))
    values["edges"] = tuple((min(edge), max(edge)) for edge in table.get("edges", ()))
    return Fault(**values)


def _errors(table: Mapping[str, Any], agents: int, edges: set[frozenset[int]]) -> list[str]:
    """All that is wrong with one table."""
    name = table.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        near = did_you_mean(str(name), KINDS)
        return [f"no kind {name!r}{near or ';'} Kinds: {', '.join(KINDS)}"]
    kind, found = KINDS[name], []
    of = kind.of.removesuffix("?")
    allowed = {"kind", "at_s", "at_iteration", *kind.needs, *kind.may, *([of] if of else [])}
    for key in table.keys() - allowed:
        found.append(f"{name!r} takes no {key}{did_you_mean(key, allowed)}")
    if ("at_s" in table) == ("at_iteration" in table):
        found.append("it needs at_s or at_iteration, one of them")
    for key in kind.needs:
        if key not in table:
            found.append(f"{name!r} needs {key}: {NUMBERS[key][3]}")
    for key in NUMBERS.keys() & table.keys() & allowed:
        type_, least, most, what = NUMBERS[key]
        value = table[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most or (type_ is int and int(value) != value):
            found.append(f"{key} is {value!r}; it should be {what}")
    if kind.of in ("agents", "edges") and not table.get(of):
        found.append(f"{name!r} needs {of}: {'[0, 3]' if of == 'agents' else '[[0, 1]]'}, say")
    found += _strangers(table, of, agents, edges)
    return sorted(found)


def _strangers(table: Mapping[str, Any], of: str, agents: int, edges: set[frozenset[int]]) -> list[str]:
    """Agents and edges that the network has not."""
    given = table.get(of, []) if of else []
    if not isinstance(given, list):
        return [f"{of} is {given!r}; it should be a list"]
    if of == "agents":
        return [f"no agent {k!r}; there are agents 0 to {agents - 1}" for k in given if k not in range(agents)]
    return [f"no edge {edge!r}; the network has {_listed(sorted(tuple(sorted(e)) for e in edges)[:12])}"
            f"{', …' if len(edges) > 12 else ''}"
            for edge in given if not isinstance(edge, list) or len(edge) != 2
            or not all(isinstance(end, int) for end in edge) or frozenset(edge) not in edges]  # fmt: skip


def draw(
    seed: int, agents: int, edges: Sequence[Edge], *, faults: int = 10, seconds: float = 60.0,
    kinds: Sequence[str] = DRAWN,
) -> list[Fault]:  # fmt: skip
    """A plan from a seed, the same one everywhere: one fault after the other, with time to come back between them.

    A host replaces an agent three times in ten minutes; no agent is killed more than twice.

    >>> draw(1, 6, [(0, 1)], faults=3, seconds=30) == draw(1, 6, [(0, 1)], faults=3, seconds=30)
    True
    """
    rng, drawn, killed = random.Random(seed), list[Fault](), dict[int, int]()
    kinds = [kind for kind in kinds if edges or KINDS[kind].of != "edges"]

    def one(of: Sequence[Any]) -> Any:
        return of[int(rng.random() * len(of))]

    span = seconds / max(1, faults)
    for number in range(faults):
        kind, k, edge = one(kinds), int(rng.random() * agents), one(edges or [(0, 0)])
        at_s, for_s, share = round(span * (number + 0.2 * rng.random()), 2), span * 0.6 * rng.random(), rng.random()
        if kind == "kill" and killed.get(k, 0) == 2:
            kind = "stop"
        killed[k] = killed.get(k, 0) + (kind == "kill")
        drawn.append(Fault(
            kind, at_s, for_s=0.0 if kind == "kill" else max(0.1, round(for_s, 2)),
            agents=(k,) if KINDS[kind].of == "agents" else (), edges=(edge,) if KINDS[kind].of == "edges" else (),
            share=round(0.2 + 0.6 * share, 2) if kind == "slow" else 0.0,
            delay_ms=float(round(5 + 95 * share)) if kind == "delay" else 0.0,
        ))  # fmt: skip
    return drawn


def to_toml(faults: Iterable[Fault]) -> str:
    """The plan as `parse` reads it.

    >>> print(to_toml([Fault("stop", 2.0, for_s=4.0, agents=(1,))]), end="")
    [[fault]]
    kind = "stop"
    at_s = 2
    for_s = 4
    agents = [1]
    """
    texts = []
    for fault in faults:
        lines = ["[[fault]]", f'kind = "{fault.kind}"']
        for key in ("at_s", "at_iteration", "for_s", "agents", "edges", *sorted({*NUMBERS} - {"at_s", "at_iteration",
                                                                                              "for_s"})):  # fmt: skip
            value = getattr(fault, key)
            if value or (value == 0 and key in ("at_s", "at_iteration", *KINDS[fault.kind].needs)):
                lines.append(f"{key} = {_toml(value)}")
        texts.append("\n".join(lines) + "\n")
    return "\n".join(texts)


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f"{value:.12g}" if isinstance(value, float) else str(value)
