"""MiniImagenet: small colour pictures, a hundred classes, in Ravi and Larochelle's three parts; a class is a group.

Source: Vinyals et al., "Matching Networks for One Shot Learning", 2016; Ravi, Larochelle, "Optimization as a Model for
Few-Shot Learning", 2017, for the parts (train.csv, val.csv, test.csv: filename, label).
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from difnet.data import Table
from difnet.data.cache import Writer, kept
from difnet.data.home import find
from difnet.data.images import Picture, decode, shelf
from difnet.data.rows import table
from difnet.errors import DataError, EnvironmentLacks
from difnet.system.progress import report_progress

PARTS = ("train", "val", "test")
FOLDERS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}  # of folders, one a class
PICTURES = (".jpg", ".jpeg", ".png")
SIZE = 84


def read(place: Path) -> Table:
    """The classes of "train", then of "val", then of "test", by name; a class's pictures in the order of its csv.

    Inputs (n, 84, 84, 3), uint8, red, green and blue; targets the groups' numbers. `facts["parts"]` tells how many
    classes each part has, `facts["missing"]` how many pictures its csv names that are not there: they are left out,
    so that the whole csv files go with a part of the pictures.

    The pictures lie in `images`, `images.zip`, or `images-train.zip`, `images-val.zip` and `images-test.zip`; the csv
    files may be gzipped, and be called `ravi-larochelle-train.csv` and so on. Without `images`, folders `train`,
    `val` and `test` with a folder for each class tell the parts, and a class's pictures come in the order of names.

    Raises: EnvironmentLacks, if a file is missing; DataError, if one is damaged, or a part has no pictures.
    """
    if folders := _folders(place):
        return _read(folders, [])
    shelves = _shelves(place)
    lists = {part: find(place, *(f"{stem}{part}.csv{gz}" for stem in ("", "ravi-larochelle-") for gz in ("", ".gz")))
             for part in PARTS}  # fmt: skip
    return _read(lists, shelves)


def _folders(place: Path) -> dict[str, Path]:
    """The folder of each part, if all three are there, and no pictures beside them that csv files tell of."""
    found = {part: place / name for part, names in FOLDERS.items() for name in names if (place / name).is_dir()}
    return found if len(found) == len(PARTS) and not any(place.glob("images*")) else {}


def _read(lists: dict[str, Path], shelves: list[Path]) -> Table:
    """The classes that a csv file tells of the pictures on the shelves, or a folder of folders, for each part."""

    def parse(writer: Writer) -> None:
        names: list[str] = []
        sizes: list[int] = []
        parts, missing = {}, {}
        with ExitStack() as stack:
            there = {name.rpartition("/")[2]: take for source in shelves
                     for name, take in stack.enter_context(shelf(source, ".jpg")).items()}  # fmt: skip
            for part, path in lists.items():
                if path.is_dir():
                    classes, missing[part] = _in_folders(stack.enter_context(shelf(path, *PICTURES))), 0
                else:
                    classes, missing[part] = _classes(path, there)
                parts[part] = len(classes)
                if not classes and path.is_dir():
                    raise DataError(f"{path} has no pictures; there must be a folder for each class in it, with "
                                    f"pictures that end in {', '.join(PICTURES)}")  # fmt: skip
                if not classes:
                    raise DataError(f"none of the {missing[part]} pictures that {path} names is in "
                                    f"{', '.join(map(str, shelves))}; they belong to different sets")  # fmt: skip
                if twice := classes.keys() & set(names):
                    raise DataError(f"{path}: class {min(twice)!r} is in an earlier part as well; a class is for "
                                    f"training, validation or tests. Take Ravi and Larochelle's files.")  # fmt: skip
                for label in sorted(classes):
                    for number, take in enumerate(classes[label], start=sum(sizes) + 1):
                        writer.add("inputs", decode(take(), "RGB", SIZE)[None])
                        report_progress("reading pictures", number)
                    writer.add("targets", np.full(len(classes[label]), len(names)))
                    names.append(label)
                    sizes.append(len(classes[label]))
        writer.add("sizes", np.array(sizes))
        writer.add("first", np.cumsum(sizes) - sizes)
        writer.facts = {"names": names, "parts": parts, "missing": missing}

    entry = kept("miniimagenet 1", [*shelves, *lists.values()], parse)
    a = entry.arrays
    return Table(a["inputs"], a["targets"], a["first"], a["sizes"], entry.facts["names"], entry.digest, entry.facts)


def _shelves(place: Path) -> list[Path]:
    whole = [place / "images", place / "images.zip"]
    for path in whole:
        if path.exists():
            return [path]
    if (place / f"images-{PARTS[0]}.zip").exists():
        return [find(place, f"images-{part}.zip") for part in PARTS]
    raise EnvironmentLacks(f"{place} has no pictures: neither a folder images, nor images.zip, nor images-train.zip "
                           f"and so on; `difnet data get miniimagenet` says where they are")  # fmt: skip


def _in_folders(there: dict[str, Callable[[], Picture]]) -> dict[str, list[Callable[[], Picture]]]:
    """The pictures of each folder of a part.

    Raises: DataError, for one that is in no folder of a class.
    """
    classes: dict[str, list[Callable[[], Picture]]] = {}
    for name, take in there.items():
        if name.count("/") != 2:
            raise DataError(f"the picture {name} lies where none should: not PART/CLASS/FILE")
        classes.setdefault(name.split("/")[1], []).append(take)
    return classes


def _classes(path: Path, there: dict[str, Callable[[], Picture]]) -> tuple[dict[str, list[Callable[[], Picture]]], int]:
    """The pictures of each class that a csv names and that are there, and how many are not."""
    classes: dict[str, list[Callable[[], Picture]]] = {}
    missing = 0
    with table(path) as rows:
        for _, (name, label) in rows("filename", "label"):
            if name in there:
                classes.setdefault(label, []).append(there[name])
            else:
                missing += 1
    return classes, missing
