"""Who has what? A manifest as a table of agents, and as a picture of their classes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from difnet.errors import RunFolderError
from difnet.record.formatting import in_picture, number_text
from difnet.screen.charts import BARS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = ("validation", "test")
MOST_CLASSES = 100
WIDTH = 40  # characters of an interval in a table


class AgentData(NamedTuple):
    """What an agent has, or a part that is held out."""

    who: str  # the agent's number, "everyone", "validation" or "test"
    clients: int
    samples: int
    classes: Mapping[str, int]  # samples of each; {} where that is not known
    interval: tuple[float, float] | None = None  # of amplitudes, where tasks are drawn from a law


def agent_data(manifest: Mapping[str, Any]) -> list[AgentData]:
    """The agents in order, then what is held out.

    Raises: RunFolderError, if it is no manifest.

    >>> agent_data({"agents": [[{"client": "a", "samples": 3}, {"client": "b", "samples": 4}]]})
    [AgentData(who='0', clients=2, samples=7, classes={'a': 3, 'b': 4}, interval=None)]
    """
    try:
        counted = manifest.get("targets") or {}
        everyone = [("everyone", manifest["everyone"], None)] if "everyone" in manifest else []
        groups = everyone or [(str(k), entries, counted["agents"][k] if counted else None)
                              for k, entries in enumerate(manifest["agents"])]  # fmt: skip
        groups += [(part, manifest[part], counted.get(part)) for part in PARTS if part in manifest]
        named = {entry.get("client") for _, entries, _ in groups for entry in entries if "samples" in entry}
        return [_holding(who, entries, classes, len(named) <= MOST_CLASSES) for who, entries, classes in groups]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise RunFolderError(f"this is no manifest of who has what: {type(error).__name__}: {error}. Needed is "
                             f'{{"agents": [[{{"client": …, "support": …, "query": …}}, …], …]}}, as partition.json of '
                             f"a run has it") from error  # fmt: skip


def _holding(
    who: str, entries: Sequence[Mapping[str, Any]], classes: Mapping[str, int] | None, few: bool
) -> AgentData:  # fmt: skip
    """Of the entries of one agent: its clients with `support` and `query`, its classes with `samples`, or intervals."""
    if any("amplitude" in entry for entry in entries):
        ends = [float(x) for entry in entries for x in entry["amplitude"]]
        return AgentData(who, len(entries), 0, {}, (min(ends), max(ends)))
    samples = [int(entry["samples"] if "samples" in entry else entry["support"] + entry["query"]) for entry in entries]
    if classes is None and few and all("samples" in entry for entry in entries):
        classes = {str(entry["client"]): n for entry, n in zip(entries, samples, strict=True)}
    return AgentData(who, len(entries), sum(samples), {str(c): int(n) for c, n in (classes or {}).items()})


def classes_of(held: Sequence[AgentData]) -> list[str]:
    """Every class that somebody has, in order: numbers by size, other names by the alphabet."""
    named = {c for holding in held for c in holding.classes}
    return sorted(named, key=lambda c: (0, int(c), "") if c.lstrip("-").isdigit() else (1, 0, c))


def rows(held: Sequence[AgentData]) -> tuple[list[str], list[list[Any]]]:
    """The heading and the rows of a table: how many of each, and a bar for each class or an interval's place."""
    classes = classes_of(held)
    if any(holding.interval for holding in held):
        return ["agent", "amplitudes", ""], [[h.who, _span(h), _place(h, held)] for h in held]
    if not classes:
        return ["agent", "clients", "samples"], [[h.who, h.clients, h.samples] for h in held]
    shown = f"{classes[0]} … {classes[-1]}" if len(classes) > 1 else classes[0]
    heading = ["agent", "clients", "samples", "classes", shown]
    return heading, [[h.who, h.clients, h.samples, len(h.classes), bars(h, classes)] for h in held]


def bars(holding: AgentData, classes: Sequence[str]) -> str:
    """One character per class: as high as its samples beside the most that this one has of any; a dot for none.

    >>> bars(AgentData("0", 1, 12, {"cat": 8, "dog": 4}), ["cat", "cow", "dog"])
    '█·▄'
    """
    most = max(holding.classes.values(), default=0)
    counts = [holding.classes.get(c, 0) for c in classes]
    return "".join(BARS[-(-len(BARS) * n // most) - 1] if n else "·" for n in counts)


def _span(holding: AgentData) -> str:
    low, high = holding.interval or (0.0, 0.0)
    return number_text(low) if low == high else f"{number_text(low)} to {number_text(high)}"


def _place(holding: AgentData, held: Sequence[AgentData]) -> str:
    ends = [x for h in held if h.interval for x in h.interval]
    low, width = min(ends), (max(ends) - min(ends)) or 1.0
    a, b = (round((x - low) / width * WIDTH) for x in holding.interval or (low, low))
    a = min(a, WIDTH - 1)
    return "·" * a + "█" * max(b - a, 1) + "·" * (WIDTH - max(b, a + 1))


def picture(held: Sequence[AgentData], title: str) -> "Figure":
    """Agents from left to right, then what is held out: samples above, classes (or amplitudes) below.

    A circle's area is how many samples of that class it stands for, beside the most of any circle of its kind.

    Raises: EnvironmentLacks, without matplotlib.
    """
    from difnet.report.plots import figure_of, finish, new_figure

    classes, wide = classes_of(held), min(max(len(held) * 0.3 + 2, 6.5), 17)
    if any(holding.interval for holding in held):
        ax = new_figure(wide, 4).add_subplot()
        _draw_intervals(ax, held)
        finish(ax, title, "agent", "amplitude")
    elif not classes:
        ax = new_figure(wide, 4).add_subplot()
        _draw_samples(ax, held)
        finish(ax, title, "agent", "samples")
    else:
        high = min(max(len(classes) * 0.28, 2), 9)
        above, ax = new_figure(wide, high + 2.6).subplots(2, 1, sharex=True, height_ratios=[1.6, high])
        _draw_samples(above, held)
        finish(above, title, "", "samples")
        _draw_classes(ax, held, classes, min(wide / (len(held) + 1), high / len(classes)))
        finish(ax, "", "agent", "class", grid="both")
    _name_columns(ax, held)
    return figure_of(ax)


def _columns(held: Sequence[AgentData]) -> list[float]:
    """Where each stands: agents at their numbers, what is held out beyond a gap."""
    return [n + (0.6 if holding.who in PARTS else 0) for n, holding in enumerate(held)]


def _colours(held: Sequence[AgentData]) -> list[str]:
    from difnet.report.plots import COLOURS

    return [COLOURS[1] if holding.who in PARTS else COLOURS[0] for holding in held]


def _draw_samples(ax: "Axes", held: Sequence[AgentData]) -> None:
    ax.bar(_columns(held), [holding.samples for holding in held], width=0.75, color=_colours(held))


def _draw_intervals(ax: "Axes", held: Sequence[AgentData]) -> None:
    for x, colour, holding in zip(_columns(held), _colours(held), held, strict=True):
        low, high = holding.interval or (0.0, 0.0)
        marker = "o" if low == high else ""
        ax.plot([x, x], [low, high], color=colour, linewidth=4, solid_capstyle="butt", marker=marker)


def _draw_classes(ax: "Axes", held: Sequence[AgentData], classes: Sequence[str], cell: float) -> None:
    """Circles that fill a cell of so many inches where they are largest."""
    for who in (PARTS, ()):
        chosen = [h for h in held if (h.who in PARTS) == bool(who)]
        most = max((n for h in chosen for n in h.classes.values()), default=1)
        for x, colour, holding in zip(_columns(held), _colours(held), held, strict=True):
            if holding in chosen and holding.classes:
                places = [classes.index(c) for c in holding.classes]
                sizes = [(72 * cell * 0.85) ** 2 * n / most for n in holding.classes.values()]
                ax.scatter([x] * len(places), places, s=sizes, color=colour, linewidths=0)
    every = -(-len(classes) // 30)
    ax.set_yticks(range(0, len(classes), every), [in_picture(c.rpartition("/")[2]) for c in classes[::every]])
    ax.set_ylim(-0.7, len(classes) - 0.3)


def _name_columns(ax: "Axes", held: Sequence[AgentData]) -> None:
    agents = [h for h in held if h.who not in PARTS]
    every = -(-len(agents) // 50)
    columns = enumerate(zip(_columns(held), held, strict=True))
    shown = [(x, h) for n, (x, h) in columns if h.who in PARTS or not n % every]
    ax.set_xticks([x for x, _ in shown], [in_picture(h.who) for _, h in shown])
    for label, (_, holding) in zip(ax.get_xticklabels(), shown, strict=True):
        label.set_rotation(90 if holding.who in PARTS or len(agents) > 25 else 0)
    ax.set_xlim(-0.7, len(held) + 0.3)
