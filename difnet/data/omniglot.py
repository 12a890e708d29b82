"""Omniglot's drawings in its own zips or folders: a character is a class, drawn once by each of twenty people.

Source: Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic program induction", 2015.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from difnet.data import Table
from difnet.data.cache import Writer, kept
from difnet.data.images import Picture, decode, pictures
from difnet.errors import DataError, EnvironmentLacks
from difnet.system.progress import report_progress

SETS = ("images_background", "images_evaluation")


def read(place: Path, size: int = 28) -> Table:
    """All characters, those of the background set first; each is a group, named "set/alphabet/character".

    Inputs (n, size, size), uint8, 255 for paper and 0 for ink; targets the groups' numbers. `facts["background"]` is
    how many groups the background set has.

    Raises: EnvironmentLacks, if a set is missing; DataError, if a file is damaged or lies where it does not belong.
    """
    sources = [_source(place, name) for name in SETS]

    def parse(writer: Writer) -> None:
        names: list[str] = []
        sizes: list[int] = []
        for source, name in zip(sources, SETS, strict=True):
            for character, drawings in groupby(_drawings(source, name), key=lambda p: p.name.rpartition("/")[0]):
                pixels = np.stack([decode(drawing, "L", size) for drawing in drawings])
                writer.add("inputs", pixels)
                writer.add("targets", np.full(len(pixels), len(names)))
                names.append(character)
                sizes.append(len(pixels))
                report_progress(f"reading {name}", len(names))
            if not names or not names[-1].startswith(f"{name}/"):
                raise DataError(f"{source} holds no drawings, such as {name}/ALPHABET/character01/0001_01.png; `difnet "
                                f"data get omniglot` fetches it anew")  # fmt: skip
        writer.add("sizes", np.array(sizes))
        writer.add("first", np.cumsum(sizes) - sizes)
        writer.facts = {"names": names, "background": sum(name.startswith(SETS[0]) for name in names)}

    entry = kept("omniglot 1", sources, parse, {"size": size})
    a = entry.arrays
    return Table(a["inputs"], a["targets"], a["first"], a["sizes"], entry.facts["names"], entry.digest, entry.facts)


def _source(place: Path, name: str) -> Path:
    for path in (place / f"{name}.zip", place / name):
        if path.exists():
            return path
    raise EnvironmentLacks(f"{place} has neither {name}.zip nor a folder {name}; `difnet data get omniglot` fetches it")


def _drawings(source: Path, name: str) -> Iterator[Picture]:
    for picture in pictures(source, ".png"):
        if picture.name.count("/") != 3 or not picture.name.startswith(f"{name}/"):
            raise DataError(f"{picture.where} lies where no drawing should: not {name}/ALPHABET/CHARACTER/FILE.png")
        yield picture
