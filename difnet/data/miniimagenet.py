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
SIZE = 84


def read(place: Path) -> Table:
    """The classes of "train", then of "val", then of "test", by name; a class's pictures in the order of its csv.

    Inputs (n, 84, 84, 3), uint8, red, green and blue; targets the groups' numbers. `facts["parts"]` tells how many
    classes each part has, `facts["missing"]` how many pictures its csv names that are not there: they are left out,
    so that the whole csv files go with a part of the pictures.

    The pictures lie in `images`, `images.zip`, or `images-train.zip`, `images-val.zip` and `images-test.zip`; the csv
    files may be gzipped, and be called `ravi-larochelle-train.csv` and so on.

    Raises: EnvironmentLacks, if a file is missing; DataError, if one is damaged, or a part has no pictures.
    """
    shelves = _shelves(place)
    lists = {part: find(place, *(f"{stem}{part}.csv{gz}" for stem in ("", "ravi-larochelle-") for gz in ("", ".gz")))
             for part in PARTS}  # fmt: skip

    def parse(writer: Writer) -> None:
        names: list[str] = []
        sizes: list[int] = []
        parts, missing = {}, {}
        with ExitStack() as stack:
            there = {name.rpartition("/")[2]: take for source in shelves
                     for name, take in stack.enter_context(shelf(source, ".jpg")).items()}  # fmt: skip
            for part, path in lists.items():
                classes, missing[part] = _classes(path, there)
                parts[part] = len(classes)
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
