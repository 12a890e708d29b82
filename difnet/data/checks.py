"""Is a data set here, and is it whole? Files are compared with their checksums, then really read and counted."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from difnet.data import Table
from difnet.data.fetch import sums_of
from difnet.data.home import place_of
from difnet.data.sources import File, Reading, Source, forms
from difnet.errors import DataError, EnvironmentLacks

WHOLE, PART, ANOTHER = "whole", "a part", "another version"
DAMAGED, INCOMPLETE, ABSENT = "damaged", "incomplete", "absent"
GOOD = (WHOLE, PART, ANOTHER)


class Verdict(NamedTuple):
    """What there is of one data set."""

    name: str
    folder: str
    state: str
    files: Mapping[str, str]  # as found -> WHOLE, PART, or why that is not known
    found: str = ""  # what the reader counted
    why: str = ""  # what is wrong, or worth a warning

    @property
    def good(self) -> bool:
        """Whether it can be used."""
        return self.state in GOOD


def look(source: Source, base: Path, *, asked: bool = False) -> Verdict:
    """What there is, by checksums alone; "another version" may be damaged as well, since nothing is read.

    Args: `base`, the folder of all sets, or this one's own; `asked`, as `home.place_of`.
    """
    place = place_of(source.name, base, asked=asked) or base / source.name
    files: dict[str, str] = {}
    lacking = []
    if not place.is_dir():
        return Verdict(source.name, str(place), ABSENT, files)
    for file in source.files:
        found = forms(place, file)
        for path in found:
            if path.name not in files:
                files[path.name] = _state(path, file)
        if file.needed and not found:
            lacking.append(file.name)
    if lacking:
        return Verdict(source.name, str(place), INCOMPLETE, files, why=f"there is no {', no '.join(lacking)}")
    strange = [name for name, state in files.items() if state not in (WHOLE, PART)]
    why = f"{', '.join(strange)}: {files[strange[0]]}" if strange else ""
    state = ANOTHER if strange else PART if PART in files.values() else WHOLE
    return Verdict(source.name, str(place), state, files, why=why)


def _state(path: Path, file: File) -> str:
    if path.is_dir():
        return "unpacked, so without a checksum"
    sums = sums_of(path) if file.sums or file.parts else set()
    return WHOLE if sums & set(file.sums) else PART if sums & set(file.parts) else "of no known checksum"


def check(source: Source, base: Path, *, asked: bool = False) -> Verdict:
    """What there is, by checksums, and by reading and counting all of it, also where it lies otherwise.

    Args: as `look`.
    Raises: EnvironmentLacks, if this machine lacks what the reader needs.
    """
    seen = look(source, base, asked=asked)
    if seen.state == ABSENT:
        return seen
    told = []
    for reading in source.readings:
        try:
            told.append(_read(source, reading, Path(seen.folder)))
        except EnvironmentLacks as error:
            if not seen.good:
                return seen
            if not isinstance(error, DataError):
                raise
            return seen._replace(state=DAMAGED, why=str(error))
    if not seen.good:
        return seen._replace(state=ANOTHER, found="; ".join(told),
                             why=f"{seen.why}; laid out otherwise, without checksums, it reads well")  # fmt: skip
    return seen._replace(found="; ".join(told), why=f"{seen.why}, but reads well" if seen.why else "")


def _read(source: Source, reading: Reading, place: Path) -> str:
    """What a reader finds, in words.

    Raises: DataError, if that is not what it must find.
    """
    table: Table = importlib.import_module(f"difnet.data.{source.reader}").read(place, **reading.options)
    groups, samples = table.groups, int(np.sum(table.sizes))
    words = " ".join([*map(str, reading.options.values()), f"{samples} samples in {groups} groups"])
    fitting = [c for c in reading.counts if (c.groups, c.samples) == (groups, samples)]
    if reading.counts and not fitting:
        wanted = " or ".join(f"{c.samples} in {c.groups}" for c in reading.counts)
        raise DataError(f"{place} reads as {words}, but {source.title} has {wanted}: it is cut off, or another set. "
                        f"`difnet data get {source.name}` fetches it, or says where to get it")  # fmt: skip
    return words + (f" ({fitting[0].note})" if fitting and fitting[0].note else "")


def check_all(sources: Mapping[str, Source], base: Path, *, asked: bool = False) -> list[Verdict]:
    """A verdict on every one of these sets that has a folder in `base`, or whose own folder that is.

    Args: as `look`.
    Raises: EnvironmentLacks, if there is none at all.
    """
    here = [source for source in sources.values() if place_of(source.name, base, asked=asked)]
    if not here:
        raise EnvironmentLacks(f"there is no data set in {base}: no folder {' or '.join(sources)}. `difnet data get "
                               f"mnist` fetches one; elsewhere they are found by $DIFNET_DATA or --data-dir")
    return [check(source, base, asked=asked) for source in here]


def to_dict(verdict: Verdict) -> dict[str, Any]:
    """A verdict for JSON."""
    return {**verdict._asdict(), "good": verdict.good}
