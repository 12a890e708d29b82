"""Which graph is the matrix in a Matrix Market file? An entry is an edge, which the row's agent is heard over.

Source: Boisvert, Pozo, Remington, "The Matrix Market Exchange Formats: Initial Design", NISTIR 5935, 1996.
"""

import math
from pathlib import Path

import networkx as nx

from difnet.errors import TopologyError
from difnet.system.texts import read_text
from difnet.topology.graphs import checked, from_edges, refuse_agents, short

VALUES = {"real": 1, "integer": 1, "pattern": 0}  # how many numbers follow row and column
SYMMETRIES = ("general", "symmetric")


def read_matrix(path: Path) -> nx.Graph:
    """The graph of a matrix of coordinates: an entry (l, k), counted from 1, is the edge l - 1 -> k - 1.

    It is directed unless the matrix is symmetric, by its first line or its entries; an entry of 0 is no edge.

    Raises: TopologyError, naming the line that is wrong; NotText.
    """
    (_, head), *numbered_lines = enumerate(read_text(path).split("\n"), 1)
    words = head.lower().split()
    if len(words) != 5 or words[:3] != ["%%matrixmarket", "matrix", "coordinate"] or words[3] not in VALUES or (
        words[4] not in SYMMETRIES
    ):  # fmt: skip
        raise TopologyError(f"line 1, {short(head)!r}: what is read is '%%MatrixMarket matrix coordinate', then "
                            f"{', '.join(VALUES)}, then {' or '.join(SYMMETRIES)}.")  # fmt: skip
    lines = [(number, line.split()) for number, line in numbered_lines if line.strip() and not line.startswith("%")]
    if not lines:
        raise TopologyError("the line with rows, columns and entries is missing: is the file whole?")
    rows, columns, entries = _sizes(*lines.pop(0))
    refuse_agents(rows)
    if rows != columns:
        raise TopologyError(f"the matrix has {rows} rows and {columns} columns; that of a graph has as many.")
    if len(lines) != entries:
        raise TopologyError(f"{entries} entries are announced, and {len(lines)} are there: is the file whole?")
    found: dict[tuple[int, int], float | None] = {}
    for number, cells in lines:
        l, k, weight = _entry(number, cells, rows, VALUES[words[3]])
        if (l, k) in found:
            raise TopologyError(f"line {number}: the entry {l + 1} {k + 1} is there twice. Leave one of them.")
        if weight != 0:
            found[l, k] = weight
    directed = words[4] == "general" and any(found.get((k, l), math.inf) != weight for (l, k), weight in found.items())
    return checked(from_edges(((l, k, weight) for (l, k), weight in found.items()), range(rows), directed=directed))


def _sizes(number: int, cells: list[str]) -> list[int]:
    if len(cells) != 3 or not all(cell.isascii() and cell.isdigit() for cell in cells):
        raise TopologyError(f"line {number}, {short(' '.join(cells))!r}: it must tell rows, columns and entries.")
    return [int(cell) for cell in cells]


def _entry(number: int, cells: list[str], agents: int, values: int) -> tuple[int, int, float | None]:
    try:
        (row, column), weights = map(int, cells[:2]), [float(cell) for cell in cells[2:]]
    except ValueError:
        row = 0
    if not (len(cells) == 2 + values and 1 <= row <= agents and 1 <= column <= agents):
        raise TopologyError(f"line {number}, {short(' '.join(cells))!r}: an entry is a row and a column from 1 to "
                            f"{agents}{' and a number' if values else ''}.")  # fmt: skip
    return row - 1, column - 1, weights[0] if values else None
