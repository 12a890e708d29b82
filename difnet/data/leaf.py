"""LEAF's JSON as it is: users and what each of them has, streamed, so that files of several GB fit; FEMNIST's pictures.

A file is one object, its keys in any order: `users`, `num_samples`, perhaps `hierarchies`, and `user_data`, which has
{"x": [...], "y": [...]} for every user. What `num_samples` says is never trusted, only compared.
Source: Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018, and the format that its programs write.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from difnet.data import Array, Table
from difnet.data.cache import Writer, kept
from difnet.data.stream import REMEDY, utf8_pieces
from difnet.errors import DataError, EnvironmentLacks

CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # FEMNIST's, by number
PIXELS = 784
ENOUGH = 0.01  # of a grey level: what rounding a grey level / 255 to decimal digits may cost
FOLDERS = (".", "all_data", "data/all_data")
PARTS = ("train", "test")  # where LEAF's scripts leave the two parts of each user's data
PATTERNS = ("*all_data*.json", "*all_data*.json.gz")


class User(NamedTuple):
    """One user's samples as they stand in the file; as many inputs as targets, at least one."""

    name: str
    inputs: list[Any]
    targets: list[Any]
    where: str  # for an error


class _Inexact(Exception):
    """A pixel that is no whole grey level."""


def files(place: Path) -> list[Path]:
    """The LEAF files of a data set: the one given, or those in its folder called *all_data*.json, packed or not.

    Looks into the sub-folders of LEAF's own layout as well. Where only its parts for training and tests are left, the
    files of both are one data set.
    Raises: EnvironmentLacks, if there is none.
    """
    if place.is_file():
        return [place]
    for folder in FOLDERS:
        if found := sorted(path for pattern in PATTERNS for path in (place / folder).glob(pattern)):
            return found
    for above in (place, place / "data"):
        parts = [sorted(path for end in ("json", "json.gz") for path in (above / part).glob(f"*.{end}"))
                 for part in PARTS]  # fmt: skip
        if all(parts):
            return [path for part in parts for path in part]
        if any(parts):
            raise EnvironmentLacks(f"{above} has one of LEAF's folders {' and '.join(PARTS)}, and lacks the files of "
                                   f"the other; a user's data is in both")  # fmt: skip
    raise EnvironmentLacks(f"{place} has no LEAF files: none is called all_data*.json or all_data*.json.gz, there or "
                           f"in {' or '.join(FOLDERS[1:])}, nor are there data/train and data/test; LEAF's "
                           f"preprocess.sh makes them")  # fmt: skip


def users(paths: Sequence[Path], left: Counter[str]) -> Iterator[User]:
    """All users that have data, file after file, one in memory at a time.

    Where files lie in folders "train" and "test" side by side, a user has what both say, the part for training first;
    the parts for tests wait on disk meanwhile.

    Counts in `left` those it leaves out, as "without_data", and those with another number of samples than their file
    says, as "miscounted"; these are kept, with what there is.

    Raises: DataError, if a file is damaged or no LEAF file, or if a user is in two files (of one part) or twice in one.
    """
    later = [path for path in paths if path.parent.name == PARTS[1]]
    first = [path for path in paths if path not in later]
    if not any(path.parent.name == PARTS[0] for path in first) or not later:
        yield from _users(paths, left)
        return
    with tempfile.TemporaryFile() as aside:
        places: dict[str, int] = {}
        for user in _users(later, left):
            places[user.name] = aside.tell()
            aside.write(json.dumps([user.inputs, user.targets, user.where]).encode() + b"\n")

        def waiting(name: str) -> User:
            aside.seek(places.pop(name))
            return User(name, *json.loads(aside.readline()))

        for user in _users(first, left):
            if user.name in places:
                more = waiting(user.name)
                user = User(user.name, user.inputs + more.inputs, user.targets + more.targets, user.where)
            yield user
        for name in list(places):
            yield waiting(name)


def _users(paths: Sequence[Path], left: Counter[str]) -> Iterator[User]:
    """The users of files that have none in common."""
    seen: dict[str, Path] = {}
    for path in paths:
        counted: dict[str, int] = {}
        said: dict[str, list[Any]] = {"users": [], "num_samples": []}
        for name, value in _user_data(path, said):
            user = _user(path, name, value)
            if name in seen:
                other = "twice" if seen[name] == path else f"also in {seen[name]}"
                raise DataError(f"{path}: user {name!r} is there {other}; a user belongs to one file, as in LEAF's "
                                f"all_data, before it is split in train and test. Leave one of them away.")  # fmt: skip
            seen[name] = path
            counted[name] = len(user.inputs)
            if user.inputs:
                yield user
        told = dict(zip(map(str, said["users"]), said["num_samples"], strict=False))
        left["without_data"] += sum(not counted.get(name) for name in counted.keys() | set(map(str, said["users"])))
        left["miscounted"] += sum(told.get(name, n) != n for name, n in counted.items())


def read(place: Path, duplicates: bool = False) -> Table:
    """FEMNIST's pictures, by writer.

    Inputs (n, 784): uint8 grey levels where every value is one over 255, as LEAF writes them, else float32 from 0 to 1;
    ink is as it stands there (LEAF: dark on 1 for paper). Targets: the class numbers of `facts["classes"]`. The facts
    also count `duplicates` and what `users` counts.

    Args: `duplicates`, whether to keep a picture that its writer has once more, with the same class: FEMNIST is known
        to hold such copies.
    Raises: EnvironmentLacks without the files or ijson; DataError, if one is not what it should be.
    """
    paths = files(place)

    def parse(writer: Writer) -> None:
        try:
            name, found = "grey", _pictures(paths, duplicates, lambda a: writer.add("grey", _grey(a)))
        except _Inexact:
            name, found = "floats", _pictures(paths, duplicates, lambda a: writer.add("floats", a))
        names, targets, left = found
        sizes = np.array([len(y) for y in targets])
        writer.add("targets", np.concatenate(targets))
        writer.add("first", sizes.cumsum() - sizes)
        writer.add("sizes", sizes)
        writer.facts = {"names": names, "inputs": name, "classes": CLASSES, **left}

    entry = kept("leaf 1", paths, parse, {"duplicates": duplicates})
    a, facts = entry.arrays, entry.facts
    return Table(a[facts["inputs"]], a["targets"], a["first"], a["sizes"], facts["names"], entry.digest, facts)


def none_found(paths: Sequence[Path]) -> DataError:
    """What to say where no user has any data."""
    others = f" and {len(paths) - 1} other files" if paths[1:] else ""
    return DataError(f"{paths[0]}{others}: no user has data; needed is "
                     f'{{"users": [...], "num_samples": [...], "user_data": {{USER: {{"x": [...], "y": [...]}}}}}}. '
                     f"{REMEDY}.")  # fmt: skip


def classes_of(user: User, classes: int) -> Array:
    """A user's targets, numbers or texts of them, as class numbers, int64.

    Raises: DataError, if one is no whole number from 0 to `classes` - 1.
    """
    number = {str(y): y for y in range(classes)}
    for n, y in enumerate(user.targets):
        if str(y) not in number:
            raise DataError(f"{user.where}, y[{n}] is {y!r}; it must be a class from 0 to {classes - 1}. {REMEDY}.")
    return np.array([number[str(y)] for y in user.targets], dtype=np.int64)


def _user_data(path: Path, said: dict[str, list[Any]]) -> Iterator[tuple[str, Any]]:
    """What stands under `user_data`, entry by entry; the lists under the other keys go into `said`."""
    try:
        import ijson
    except ImportError as error:
        raise EnvironmentLacks("reading LEAF files needs ijson; install it with: pip install 'difnet[data]'") from error
    entries, lists = ijson.sendable_list(), {name: ijson.sendable_list() for name in said}
    parsers = {name: ijson.items_coro(lists[name], name) for name in said}
    parsers["user_data"] = ijson.kvitems_coro(entries, "user_data", use_float=True)
    done = 0
    try:
        for piece in utf8_pieces(path):
            for name, parser in list(parsers.items()):
                parser.send(piece)
                if lists.get(name):
                    del parsers[name]  # it is found; every parser reads the whole file anew
            done += len(piece)
            yield from entries
            entries.clear()
        for parser in parsers.values():
            parser.close()
    except (ijson.JSONError, UnicodeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is no whole JSON file: {why}, after byte {done} of its (unpacked) text. "
                        f"{REMEDY}.") from error  # fmt: skip
    yield from entries
    for name, found in lists.items():
        if found and not isinstance(found[0], list):
            raise DataError(f"{path}: {name} is a {type(found[0]).__name__}; it must be a list. {REMEDY}.")
        said[name] = found[0] if found else []


def _user(path: Path, name: str, value: Any) -> User:
    where = f"{path}, user_data[{name!r}]"
    x, y = (value.get("x"), value.get("y")) if isinstance(value, dict) else (None, None)
    if value in ({}, None):
        x, y = [], []
    if not isinstance(x, list) or not isinstance(y, list):
        raise DataError(f'{where} must be {{"x": [...], "y": [...]}}, with a list each. {REMEDY}.')
    if len(x) != len(y):
        raise DataError(f"{where} has {len(x)} x and {len(y)} y; they must be as many. {REMEDY}.")
    return User(name, x, y, where)


def _pictures(
    paths: Sequence[Path], duplicates: bool, add: Callable[[Array], None]
) -> tuple[list[str], list[Array], Counter[str]]:
    names: list[str] = []
    targets: list[Array] = []
    left = Counter(without_data=0, miscounted=0, duplicates=0)
    for user in users(paths, left):
        x, y = _pixels(user), classes_of(user, len(CLASSES))
        if not duplicates:
            first: dict[tuple[bytes, int], int] = {}
            for n, picture in enumerate(x):
                first.setdefault((picture.tobytes(), int(y[n])), n)
            left["duplicates"] += len(x) - len(first)
            x, y = x[list(first.values())], y[list(first.values())]
        add(x)
        names.append(user.name)
        targets.append(y)
    if not names:
        raise none_found(paths)
    return names, targets, left


def _pixels(user: User) -> Array:
    """A user's pictures, float32 (n, 784)."""
    for n, x in enumerate(user.inputs):
        if not isinstance(x, list) or len(x) != PIXELS:
            what = f"{len(x)} values" if isinstance(x, list | str) else f"a {type(x).__name__}"
            raise DataError(f"{user.where}, x[{n}] has {what}; a picture is a list of {PIXELS} numbers. {REMEDY}.")
    try:
        pixels = np.array(user.inputs, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(f"{user.where}, x holds something that is no number: {error}. {REMEDY}.") from error
    if not ((pixels >= 0) & (pixels <= 1)).all():
        n = int(np.flatnonzero(~((pixels >= 0) & (pixels <= 1)).all(1))[0])
        raise DataError(f"{user.where}, x[{n}] has values from {pixels[n].min()} to {pixels[n].max()}; pixels are from "
                        f"0 to 1. {REMEDY}.")  # fmt: skip
    return pixels


def _grey(pixels: Array) -> Array:
    levels = np.rint(pixels * 255)
    if np.abs(pixels * 255 - levels).max() > ENOUGH:
        raise _Inexact
    return levels.astype(np.uint8)
