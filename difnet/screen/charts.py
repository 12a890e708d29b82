"""How does a curve become text? Braille over a logarithmic axis, and bars of one line. Pure."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from rich.text import Text

from difnet.maths.theory import Point

BARS = "▁▂▃▄▅▆▇█"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille cell, [row][column]


def log_chart(
    curve: Sequence[Point], guide: Sequence[Point], x_max: float, width: int, height: int, style: str
) -> list[Text]:
    """A curve of positive values in braille over a logarithmic y axis, `height` lines with the x axis.

    `guide` is a second, dim curve, drawn where the first leaves cells free.
    """
    rows, columns = height - 1, max(width - 10, 4)
    logs = [math.log10(y) for _, y in [*curve, *guide]]
    low, high = min(logs), max(logs)
    if high - low < 0.5:
        low, high = low - 0.25, high + 0.25

    def dot(point: Point) -> tuple[int, int]:
        across = round(point[0] / x_max * (2 * columns - 1))
        return min(across, 2 * columns - 1), round((high - math.log10(point[1])) / (high - low) * (4 * rows - 1))

    front, back = _cells(_segments([dot(p) for p in curve])), _cells(_segments([dot(p) for p in guide]))
    ticks = {r: 10 ** (high - (high - low) * (r + 0.5) / rows) for r in {0, rows // 2, rows - 1}}
    lines = []
    for row in range(rows):
        line = Text().append(f"{ticks[row]:8.2g} ┤" if row in ticks else " " * 9 + "│", "dim")
        for column in range(columns):
            cell = (row, column)
            line.append(chr(0x2800 + (front.get(cell) or back.get(cell, 0))), style if cell in front else "dim")
        lines.append(line)
    end = f"{x_max:.0f} iterations"
    return [*lines, Text().append(f"{'0':>10}{end:>{columns}}", "dim")]


def _segments(dots: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """Every dot on the straight lines from each dot to the next."""
    yield from dots[:1]
    for (x0, y0), (x1, y1) in pairwise(dots):
        n = max(abs(x1 - x0), abs(y1 - y0), 1)
        yield from ((x0 + round((x1 - x0) * i / n), y0 + round((y1 - y0) * i / n)) for i in range(1, n + 1))


def _cells(dots: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    cells: dict[tuple[int, int], int] = {}
    for x, y in dots:
        cells[y // 4, x // 2] = cells.get((y // 4, x // 2), 0) | _DOTS[y % 4][x % 2]
    return cells


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last `width` values as bars between their own least and greatest.

    >>> sparkline([3.0, 2.0, 1.0, None], 10)
    '█▅▁ '
    """
    shown = [v if v is not None and math.isfinite(v) else None for v in values[-width:]] if width > 0 else []
    low, high = min((v for v in shown if v is not None), default=0), max((v for v in shown if v is not None), default=0)
    scale = 7 / (high - low) if high > low else 0
    return "".join(" " if v is None else BARS[round((v - low) * scale)] for v in shown)
