"""Omniglot's drawings in its own zips or folders, or a folder a class: a character is drawn by each of twenty people.

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
ABOVE = ("", "omniglot-py/", "python/")  # where torchvision leaves them, and where they are in the owners' repository


def read(place: Path, size: int = 28) -> Table:
    """All characters, those of the background set first; each is a group, named "set/alphabet/character".

    Where there is neither of the two sets, every folder with drawings is a character, and none is of the background.

    Inputs (n, size, size), uint8, 255 for paper and 0 for ink; targets the groups' numbers. `facts["background"]` is
    how many groups the background set has.

    Raises: EnvironmentLacks, if a set is missing; DataError, if a file is damaged or lies where it does not belong.
    """
    whole = _has_folders_of_classes(place)
    sources = [place] if whole else [_source(place, name) for name in SETS]

    def parse(writer: Writer) -> None:
        names: list[str] = []
        sizes: list[int] = []
        for source, name in zip(sources, ("",) if whole else SETS, strict=True):
            for character, drawings in groupby(_drawings(source, name), key=_folder_of):
                pixels = np.stack([decode(drawing, "L", size) for drawing in drawings])
                writer.add("inputs", pixels)
                writer.add("targets", np.full(len(pixels), len(names)))
                names.append(character.partition("/")[2] if whole else character)
                sizes.append(len(pixels))
                report_progress(f"reading {source.name}", len(names))
            if not names or not names[-1].startswith(f"{name}/" if name else ""):
                raise DataError(f"{source} holds no drawings, such as {name}/ALPHABET/character01/0001_01.png; `difnet "
                                f"data get omniglot` fetches it anew")  # fmt: skip
        writer.add("sizes", np.array(sizes))
        writer.add("first", np.cumsum(sizes) - sizes)
        writer.facts = {"names": names, "background": sum(name.startswith(SETS[0]) for name in names)}

    entry = kept("omniglot 1", sources, parse, {"size": size})
    a = entry.arrays
    return Table(a["inputs"], a["targets"], a["first"], a["sizes"], entry.facts["names"], entry.digest, entry.facts)


def _has_folders_of_classes(place: Path) -> bool:
    """Whether there are drawings in folders, and neither of the two sets by its name."""
    named = any((place / f"{above}{name}{end}").exists() for above in ABOVE for name in SETS for end in (".zip", ""))
    return not named and any(next(place.glob(pattern), None) is not None for pattern in ("*/*.png", "*/*/*.png"))


def _source(place: Path, name: str) -> Path:
    for path in (place / f"{above}{name}{end}" for above in ABOVE for end in (".zip", "")):
        if path.exists():
            return path
    raise EnvironmentLacks(f"{place} has neither {name}.zip nor a folder {name}; `difnet data get omniglot` fetches it")


def _drawings(source: Path, name: str) -> Iterator[Picture]:
    deep = set[int]()
    for picture in pictures(source, ".png"):
        deep.add(picture.name.count("/"))
        if not deep <= {2, 3} or len(deep) > 1 or not picture.name.startswith(f"{name}/" if name else source.name):
            raise DataError(f"{picture.where} lies where no drawing should: not {name or source.name}/ALPHABET/"
                            f"CHARACTER/FILE.png, or all of them as {name or source.name}/CHARACTER/FILE.png")
        yield picture


def _folder_of(picture: Picture) -> str:
    return picture.name.rpartition("/")[0]
