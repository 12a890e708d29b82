"""Owners with tables of their own, in which something is planted that nobody else may ever have."""

from pathlib import Path

import numpy as np

PLANTED = ["31337.5", "27182.75"]  # cells of rows, which nobody but their owner may have


def clinics(folder: Path, count: int, first: int = 0) -> Path:
    """Tables of so many clinics; each sees other patients, and has its own rule for who is ill."""
    folder.mkdir(parents=True)
    for k in range(first, first + count):
        rng = np.random.default_rng(k)
        rule, rows = rng.normal(size=2), rng.normal(size=(50 + 10 * k, 2)) + k
        ill = np.where((rows - k) @ rule > 0, "yes", "no")
        ill[:2] = "yes", "no"
        lines = [f"{age:.4f},{dose:.4f},{word}" for (age, dose), word in zip(rows, ill, strict=True)]
        lines[7] = f"{PLANTED[0]},1.5,no"
        lines[8] = f"0.5,{PLANTED[1]},yes"
        (folder / f"clinic-{k:02d}.csv").write_text("age,dose,ill\n" + "\n".join(lines) + "\n")
    return folder


def traces_of(planted: str) -> list[bytes]:
    """How a value would be written: as text, as numbers of either length, in either order of bytes."""
    value = float(planted)
    return [planted.encode(), *(np.array(value, kind).tobytes() for kind in ("<f4", ">f4", "<f8", ">f8"))]


def holds(haystack: bytes) -> list[str]:
    return [value for value in PLANTED if any(trace in haystack for trace in traces_of(value))]
