"""The rooms of the package, from its own imports: `python docs/rooms.py` draws docs/rooms.svg anew.

A room is a folder of difnet/ or a file at its top. An arrow means "imports", also inside a function; one for the type
checker alone does not count. Drawn are the arrows that do not follow from others.
"""

import ast
import html
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import networkx as nx

PACKAGE = Path(__file__).parent.parent / "difnet"
PICTURE = Path(__file__).parent / "rooms.svg"
FRONT_DOOR = "difnet"  # difnet/__init__.py, which opens on use
DOORS = {("record", "report")}  # run.plot, which opens on use: a run's pictures are drawn from runs
WIDTH, HEIGHT, GAP, FLOOR = 176, 58, 22, 112


class Imports(ast.NodeVisitor):
    """What a file imports, as dotted names; `late` are those inside functions."""

    def __init__(self, tree: ast.AST) -> None:
        self.early: set[str] = set()
        self.late: set[str] = set()
        self._depth = 0
        self.visit(tree)

    @property
    def all(self) -> set[str]:
        return self.early | self.late

    def _add(self, name: str) -> None:
        (self.late if self._depth else self.early).add(name)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            raise SyntaxError("a relative import hides where an arrow points")
        for alias in node.names:
            self._add(f"{node.module}.{alias.name}")

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for other in node.orelse:
                self.visit(other)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1


def sources() -> list[Path]:
    """Every file of the package."""
    return sorted(path for path in PACKAGE.rglob("*.py") if not path.relative_to(PACKAGE).parts[0].startswith("_l"))


def room_of(path: Path) -> str:
    """The room a file is in: its folder, or itself at the top."""
    first = path.relative_to(PACKAGE).parts[0]
    return FRONT_DOOR if first == "__init__.py" else first.removesuffix(".py")


IMPORTS = {path: Imports(ast.parse(path.read_text(encoding="utf-8"))) for path in sources()}
ROOMS = sorted({room_of(path) for path in IMPORTS})


def ours(names: Iterable[str]) -> set[str]:
    """The rooms among dotted names; whoever asks for the version alone asks nothing of the front door."""
    inner = {name.split(".")[1] for name in names if name.startswith("difnet.") and name != "difnet.__version__"}
    return {name if name in ROOMS else FRONT_DOOR for name in inner} | ({FRONT_DOOR} if "difnet" in names else set())


def arrows() -> dict[str, set[str]]:
    """Room -> the rooms it imports, without the doors."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path, imports in IMPORTS.items():
        found[room_of(path)] |= ours(imports.all) - {room_of(path)}
    return {room: {other for other in others if (room, other) not in DOORS} for room, others in found.items()}


def question(room: str) -> str:
    """The first sentence of a room's docstring: what it answers."""
    path = PACKAGE / room / "__init__.py"
    path = path if path.exists() else PACKAGE / ("__init__.py" if room == FRONT_DOOR else f"{room}.py")
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
    end = min((place for mark in ("? ", ". ") if (place := text.find(mark)) > 0), default=len(text))
    return text[: end + 1].rstrip(".:").removeprefix("difnet: ")


class Place(NamedTuple):
    """Where a room is drawn: its upper left corner."""

    x: float
    y: float


def _graph(below: Mapping[str, set[str]]) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(sorted(below))
    graph.add_edges_from((room, other) for room in sorted(below) for other in sorted(below[room]))
    return graph


def floors(below: Mapping[str, set[str]]) -> list[list[str]]:
    """The rooms floor by floor, the lowest first: each stands above all that it imports."""
    graph = _graph(below)
    level: dict[str, int] = {}
    for room in reversed(list(nx.lexicographical_topological_sort(graph))):
        level[room] = max((level[other] + 1 for other in below[room]), default=0)
    by_level = defaultdict(list)
    for room in sorted(level):
        by_level[level[room]].append(room)
    return [by_level[n] for n in sorted(by_level)]


def places(levels: list[list[str]], shown: nx.DiGraph) -> dict[str, Place]:
    """Rooms of a floor side by side, each near the rooms it is connected to."""
    spot = {room: float(n) for level in levels for n, room in enumerate(level)}
    for _ in range(24):
        for level in levels:
            near = {room: [spot[other] for other in sorted({*shown.pred[room], *shown.succ[room]})] for room in level}
            wanted = {room: sum(spots) / len(spots) if spots else spot[room] for room, spots in near.items()}
            ordered = sorted(level, key=lambda room: (wanted[room], room))
            middle = sum(wanted.values()) / len(level)
            for n, room in enumerate(ordered):
                spot[room] = middle + n - (len(level) - 1) / 2
            for left, right in pairwise(ordered):
                spot[right] = max(spot[right], spot[left] + 1)
    leftmost = min(spot.values())
    return {
        room: Place(GAP + (spot[room] - leftmost) * (WIDTH + GAP), GAP + (len(levels) - 1 - n) * FLOOR)
        for n, level in enumerate(levels) for room in level
    }  # fmt: skip


def picture() -> str:
    """The rooms as SVG."""
    below = {room: others for room, others in arrows().items() if room not in ("__main__", "errors")}
    below = {room: others - {"errors"} for room, others in below.items()}  # everybody may raise an error
    shown = nx.transitive_reduction(_graph(below))
    levels = floors(below)
    at = places(levels, shown)
    width = max(place.x for place in at.values()) + WIDTH + GAP
    height = max(place.y for place in at.values()) + HEIGHT + GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="system-ui, sans-serif">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#7a8aa0"/></marker></defs>',
        *(_arrow(at[a], at[b]) for a, b in sorted(shown.edges)),
        *(_room(room, at[room]) for room in sorted(at)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _arrow(above: Place, below: Place) -> str:
    x0, y0, x1, y1 = above.x + WIDTH / 2, above.y + HEIGHT, below.x + WIDTH / 2, below.y
    bend = max(24.0, (y1 - y0) / 2)
    return (f'<path d="M{x0:.0f} {y0:.0f} C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}" '
            f'fill="none" stroke="#7a8aa0" stroke-width="1.3" marker-end="url(#head)"/>')  # fmt: skip


def _room(room: str, at: Place) -> str:
    is_file = not (PACKAGE / room).is_dir()
    name = ("difnet" if room == FRONT_DOOR else f"{room}.py") if is_file else f"{room}/"
    fill = "#fff4d6" if is_file else "#e8f1fb"
    words, rows = question(room).split(), [""]
    for word in words:
        if len(rows[-1]) + len(word) > 31:
            rows.append("")
        rows[-1] = f"{rows[-1]} {word}".strip()
    shown = [*rows[:3]] if len(rows) <= 3 else [*rows[:2], rows[2] + " …"]
    texts = "".join(f'<text x="{at.x + 8:.0f}" y="{at.y + 29 + 11 * n:.0f}" font-size="9" fill="#44546a">'
                    f"{html.escape(row)}</text>" for n, row in enumerate(shown))  # fmt: skip
    return (f'<rect x="{at.x:.0f}" y="{at.y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="7" fill="{fill}" '
            f'stroke="#4a6fa5"/><text x="{at.x + 8:.0f}" y="{at.y + 16:.0f}" font-size="12.5" font-weight="600" '
            f'fill="#1b2a41">{name}</text>{texts}')  # fmt: skip


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(f"{PICTURE}: {len(ROOMS)} rooms on {len(floors(arrows()))} floors", file=sys.stderr)
