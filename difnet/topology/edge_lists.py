"""Which edges do the lines of a text tell? Edge lists, tables of edges and adjacency lists, as people write them.

What can be read in two ways is refused with both, since a graph that lost edges looks as good as any.
"""

import ast
import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx

from difnet.errors import TopologyError
from difnet.system.texts import read_text
from difnet.topology.graphs import checked, from_edges, numbered, refuse_agents, short, whole

READ = "What is read is two agents a line and perhaps a weight, separated by blanks, tabs, ',' or ';'"
ENDS = tuple(tuple(pair.split()) for pair in (
    "source target", "from to", "src dst", "src dest", "u v", "i j", "l k", "node1 node2", "fromnodeid tonodeid",
))  # fmt: skip
WEIGHTS = ("weight", "value", "w")
_ADJACENCY = "If a line is an agent and its neighbours, call the file NAME.adjlist"


class Line(NamedTuple):
    """A line that is neither empty nor a comment."""

    number: int  # from 1 on
    text: str
    cells: list[str]

    def odd(self, why: str) -> TopologyError:
        """What to say of a line that does not fit."""
        return TopologyError(f"line {self.number}, {short(self.text)!r}: {why}.")


class Columns(NamedTuple):
    """Where in a line is what; None, where it is told nowhere."""

    source: int = 0
    target: int = 1
    weight: int | None = 2
    type: int | None = None


Edge = tuple[str, str, float | None]


def read_edges(path: Path) -> nx.Graph:
    """The graph of an edge list, or of a table of edges with names of columns, such as Gephi's.

    Raises: TopologyError, quoting the first line that does not fit; NotText.
    """
    lines, directed = _lines(path)
    columns, lines = _columns(lines)
    alone: list[Line] = []
    if columns is None:
        columns, lines = Columns(), _without_counts(lines)
        _refuse_blanks(lines)
        _refuse_adjacency(lines)
        alone = [line for line in lines if len(line.cells) == 1]
    pairs: list[Edge] = []
    agents = dict[str, None]()
    for line in lines if not alone else [line for line in lines if len(line.cells) > 1]:
        pairs.append(_edge(line, columns))
        agents.update(dict.fromkeys(pairs[-1][:2]))
        refuse_agents(len(agents))
    if lost := [line for line in alone if pairs and line.cells[0] not in agents]:
        raise lost[0].odd(f"one word, which is neither an agent of an edge nor how many agents there are, "
                          f"{len(agents)}. {READ}")  # fmt: skip
    _refuse_mixture(lines, {cell for edge in pairs for cell in edge[:2]})
    one_way = _is_directed(lines, columns, directed)
    return checked(numbered(from_edges(pairs, dict.fromkeys(line.cells[0] for line in alone), directed=one_way)))


def read_adjacency(path: Path) -> nx.Graph:
    """The graph of an adjacency list: in each line an agent, then those who hear it, as networkx writes them.

    Raises: TopologyError, if it is none; NotText.
    """
    lines, directed = _lines(path)
    rows = [[word for word in re.split(r"[\s,;]+", line.text) if word] for line in lines]
    pairs: list[Edge] = []
    agents = dict[str, None]()
    for row in rows:
        row[0] = row[0].removesuffix(":") or row[0]
        agents.update(dict.fromkeys(row))
        refuse_agents(len(agents))
        pairs += [(row[0], other, None) for other in row[1:]]
    _refuse_mixture([line._replace(cells=row) for line, row in zip(lines, rows, strict=True)], agents.keys())
    return checked(numbered(from_edges(pairs, agents, directed=directed)))


def _lines(path: Path) -> tuple[list[Line], bool]:
    """The lines that say something, cut into cells, and whether a first line "# directed" says that they go one way."""
    found: list[tuple[int, str]] = []
    directed = False
    for number, line in enumerate(read_text(path).split("\n"), 1):
        text = line.strip()
        if number == 1 and text.startswith("#"):
            directed = text[1:].strip().lower().startswith("directed")
        if text and text[0] not in "#%":
            found.append((number, text))
    separator = next((mark for _, text in found[:2] if (mark := _separator(text))), None)  # a count has none
    if separator is None and found and whole(found[0][1].split()[0]) is not None:
        refuse_agents(len({text.split(None, 1)[0] for _, text in found}) - 1)  # at once, before they are looked at
    comment = "#" if separator is None else " #"  # in a table it may be part of a name, or of a colour
    found = [(number, text.partition(comment)[0].rstrip()) for number, text in found]
    return [Line(number, text, _cells(number, text, separator)) for number, text in found], directed


def _separator(text: str) -> str | None:
    """What separates the cells of a line; None: blanks."""
    plain = re.split("[{#]", text)[0]
    return next((mark for mark in ";\t," if mark in plain), None)


def _cells(number: int, text: str, separator: str | None) -> list[str]:
    if separator is None:
        return text.split(None, 2 if "{" in text else -1)  # networkx writes a table of an edge's properties in braces
    try:
        row = next(csv.reader([text], delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise TopologyError(f"line {number}, {short(text)!r}: {error}.") from error
    cells = [cell.strip() for cell in row]
    while len(cells) > 2 and not cells[-1]:
        cells.pop()
    return cells


def _columns(lines: list[Line]) -> tuple[Columns | None, list[Line]]:
    """Where the first line says that things are, and the lines after it; None, if it is no line of names."""
    if not lines:
        return None, lines
    first, *rest = lines
    names = [cell.casefold().replace("_", "").replace(" ", "") for cell in first.cells]
    for source, target in ENDS:
        if source in names and target in names:
            weight = next((names.index(word) for word in WEIGHTS if word in names), None)
            if weight is None and len(names) == 3 and names[:2] == [source, target] and "type" not in names:
                weight = 2
            return Columns(names.index(source), names.index(target), weight,
                           names.index("type") if "type" in names else None), rest  # fmt: skip
    if "id" in names and "label" in names:
        raise first.odd(f"these are columns of a table of nodes; a table of edges has Source and Target. {READ}")
    is_of_words = len(names) in (2, 3) and all(whole(cell) is None for cell in first.cells)
    if is_of_words and rest and all(whole(cell) is not None for line in rest for cell in line.cells[:2]):
        return None, rest
    return None, lines


def _without_counts(lines: list[Line]) -> list[Line]:
    """The lines without a first one that tells how many agents, or agents and edges, follow.

    Raises: TopologyError, if it may be an edge as well.
    """
    if len(lines) < 2 or any(whole(cell) is None for cell in lines[0].cells):
        return lines
    first, *rest = lines
    said = [whole(cell) for cell in first.cells]
    if len(said) > 1 and said[-1] != len(rest):
        return lines
    agents = {cell for line in rest for cell in line.cells[:2]}
    if said in ([len(agents)], [len(agents), len(agents), len(rest)]):
        return rest
    if said == [len(agents), len(rest)] and first.cells[0] not in agents:
        raise first.odd(f"it tells that {len(agents)} agents and {len(rest)} edges follow, or is an edge itself. Take "
                        f"it out in the first case, and put it below another line in the second")  # fmt: skip
    return lines


def _refuse_blanks(lines: Sequence[Line]) -> None:
    """Raises: TopologyError, where the last of a few cells is a name and a number with a blank between them."""
    for line in lines:
        blanks = [len(cell.split()) > 1 for cell in line.cells]
        if blanks == [False, True] and '"' not in line.text and re.search(r"\s[-+.\d]\S*$", line.cells[1]):
            raise line.odd("blanks beside another mark between cells. Separate all alike, or put names with blanks in "
                           "quotes")  # fmt: skip


def _refuse_adjacency(lines: Sequence[Line]) -> None:
    """Raises: TopologyError, if lines have neighbours, or may have, where an edge list has a weight."""
    pairs = [line for line in lines if len(line.cells) > 1]
    if wide := next((line for line in lines if len(line.cells) > 3), None):
        raise wide.odd(f"{len(wide.cells)} columns. {READ}. {_ADJACENCY}; a matrix goes into a TOML file, matrix = "
                       f"[[...], ...]; other columns need a first line that names source and target")  # fmt: skip
    three = [line for line in pairs if len(line.cells) == 3 and whole(line.cells[2]) is not None]
    if three and len({len(line.cells) for line in lines}) > 1:
        other = next(line for line in lines if len(line.cells) != 3)
        raise three[0].odd(f"3 columns, but line {other.number} has {len(other.cells)}, so that the third may be an "
                           f"agent or a weight. {_ADJACENCY}; if it is a weight, write one in every line")  # fmt: skip
    agents = {cell for line in pairs for cell in line.cells[:2]}
    thirds = {line.cells[2] for line in three}
    if (len(three) == len(pairs) > 1 < len(thirds) and thirds <= agents and len({line.cells[0] for line in three}) ==
            len(three) and all(line.cells[2] not in line.cells[:2] for line in three)):  # fmt: skip
        raise three[0].odd(f"the third column may be weights, or all neighbours of an agent are in its line. "
                           f"{_ADJACENCY}; if they are weights, write {three[0].cells[2]}.0 and so on")  # fmt: skip


def _edge(line: Line, columns: Columns) -> Edge:
    cells = dict(enumerate(line.cells))
    l, k = cells.get(columns.source, ""), cells.get(columns.target, "")
    if not l or not k:
        raise line.odd(f"an edge lacks one of its two agents. {READ}")
    text = cells.get(columns.weight, "") if columns.weight is not None else ""
    return l, k, _weight(line, text) if text else None


def _weight(line: Line, text: str) -> Any:
    try:
        if text.startswith("{"):
            return ast.literal_eval(text).get("weight")
        return float(text if "." in text else text.replace(",", "."))
    except (SyntaxError, ValueError) as error:
        raise line.odd(f"{short(text)!r} after the two agents is not a weight. {READ}. {_ADJACENCY}") from error


def _is_directed(lines: Sequence[Line], columns: Columns, said: bool) -> bool:
    """As the column of types says, if there is one, else as the first line did."""
    if columns.type is None:
        return said
    told = {line.cells[columns.type].lower(): line for line in lines if len(line.cells) > columns.type}
    if strange := [word for word in told if word not in ("directed", "undirected")]:
        raise told[strange[0]].odd(f"the type {strange[0]!r} is neither Directed nor Undirected")
    if len(told) > 1:
        raise told["directed"].odd("a directed edge in a graph that has undirected ones. Write each of those twice, "
                                   "once in each direction, as Directed")  # fmt: skip
    return "directed" in told


def _refuse_mixture(lines: Iterable[Line], agents: Iterable[str]) -> None:
    """Raises: TopologyError, for a few words among agents that are numbers: a line of another kind, read as an edge."""
    numbers = {number for cell in agents if (number := whole(cell)) is not None}
    words = {cell for cell in agents if whole(cell) is None}
    in_turn = {*range(len(numbers))}, {*range(1, len(numbers) + 1)}
    if words and len(numbers) > max(2, len(words)) and numbers in in_turn:
        line = next(line for line in lines if words & set(line.cells))
        word = min(words & set(line.cells))
        raise line.odd(f"{word!r} is a word, and {len(numbers)} agents are numbers. {READ}; call all agents by "
                       f"numbers, or all by words, and let comments begin with '#' or '%'")  # fmt: skip
