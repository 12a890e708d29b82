"""How do numbers and curves become text? Pure functions, shared by the screen, the tables and the report."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"
Point = tuple[float, float]


def figure(value: float | None) -> str:
    """Three significant digits, counts in full; "unknown" for None and NaN.

    >>> figure(0.00031234), figure(3.1e-7), figure(80_000), figure(None)
    ('0.000312', '3.1e-07', '80000', 'unknown')
    """
    if value is None or math.isnan(value):
        return "unknown"
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def bytes_text(count: float | None) -> str:
    """A number of bytes in decimal units.

    >>> bytes_text(563_520_000), bytes_text(401), bytes_text(None)
    ('564 MB', '401 B', 'unknown')
    """
    if count is None:
        return "unknown"
    power = min(int(math.log10(max(count, 1)) // 3), 5)
    return f"{count / 1000**power:.{3 if power else 6}g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


def time_text(seconds: float | None) -> str:
    """A duration in the two units that matter.

    >>> time_text(8.73), time_text(125), time_text(7380), time_text(None)
    ('8.7 s', '2 min 05 s', '2 h 03 min', 'unknown')
    """
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def steps_text(steps: str) -> str:
    """How often a model was adapted before it was tested.

    >>> steps_text("1"), steps_text("10")
    ('after 1 inner step', 'after 10 inner steps')
    """
    return f"after {steps} inner step{'' if steps == '1' else 's'}"


def energy_text(energy: Mapping[str, Any] | None) -> str:
    """A summary's energy with where it comes from and how good it is.

    >>> energy_text({"joules": 812.0, "source": "RAPL", "quality": "measured"}), energy_text(None)
    ('812 J (RAPL, measured)', 'unknown (no meter)')
    """
    energy = energy or {}
    source = energy.get("source") or "no meter"
    if energy.get("joules") is None:
        return f"unknown ({source})"
    return f"{figure(energy['joules'])} J ({source}, {energy.get('quality') or 'quality unknown'})"


def promised(curve: Sequence[Point], rate: float | None, points: int = 200) -> list[Point]:
    """The theory's line for a measured curve: from its first point falling with rate² per iteration to its floor.

    The floor is the median of the curve's last third.

    >>> promised([(0, 1.0), (1, 0.4), (2, 0.1)], rate=0.5, points=2)
    [(0.0, 1.0), (1.0, 0.25), (2.0, 0.1)]
    """
    if len(curve) < 3 or not rate or rate >= 1:
        return []
    (x0, y0), x1 = curve[0], curve[-1][0]
    floor = median(y for _, y in curve[-max(len(curve) // 3, 1) :])
    xs = [x0 + (x1 - x0) * i / points for i in range(points + 1)]
    return [(x, max(y0 * rate ** (2 * (x - x0)), floor)) for x in xs]


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
