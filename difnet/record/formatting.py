"""How do figures become text? Pure functions, shared by the screen, the tables and the report."""

import math
import re
from collections.abc import Mapping
from typing import Any


def number_text(value: float | None) -> str:
    """Three significant digits, counts in full; "unknown" for None and NaN.

    >>> number_text(0.00031234), number_text(3.1e-7), number_text(80_000), number_text(None)
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
    return f"{number_text(energy['joules'])} J ({source}, {energy.get('quality') or 'quality unknown'})"


def harmless(text: str) -> str:
    """The text line by line, a blank in the place of what would move a cursor, colour a screen or turn writing round.

    >>> harmless("a red" + chr(27) + "[31m name")
    'a red [31m name'
    """
    return "\n".join("".join(c if c.isprintable() else " " for c in line.expandtabs()) for line in text.split("\n"))


def printable(text: str) -> str:
    """The same on one line."""
    return " ".join(harmless(text).split())


def markdown(text: str) -> str:
    """The same as words of Markdown that stay words: no tag, link, picture, emphasis, code or cell of a table.

    >>> markdown("<b> | ![x](y)")
    '&lt;b> \\\\| !\\\\[x\\\\](y)'
    """
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*\[\]|]", r"\\\g<0>", text)


def in_picture(text: str) -> str:
    """The same as a picture's words, which are no mathematics of matplotlib's.

    >>> in_picture("a $b$")
    'a \\\\$b\\\\$'
    """
    return printable(text).replace("$", "\\$")
