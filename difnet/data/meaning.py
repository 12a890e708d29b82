"""What do owners' samples mean that are no tables: pictures, arrays? All owners agree about it, in plain values.

Of arrays, as TOML: `shape = [2]`, `inputs = "numbers"` (or "pixels", uint8 that become 0 to 1, or "codes", of words or
characters), `kind = "classification"` (or "regression"), `outputs = 3`: how many classes, or how many numbers. Of
pictures: `classes = ["cat", "dog"]`, `size = 28`, `channels = 1`. For episodes of an owner's own classes, `ways = 5`
stands in the place of the classes.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from difnet.errors import ConfigError, DataError, did_you_mean
from difnet.system.texts import NotText, read_text

INPUTS = ("numbers", "pixels", "codes")
KINDS = ("classification", "regression")
MOST_SIZE = 4096
Agreed = TypeVar("Agreed")


class Meaning(NamedTuple):
    """Of arrays, and of whatever becomes arrays."""

    shape: tuple[int, ...]  # of one input
    inputs: str
    kind: str
    outputs: int  # of a model: classes, or numbers
    ways: int | None = None  # classes of an episode, numbered anew in each; then `outputs` is the same
    names: tuple[str, ...] = ()  # of the classes, where they have any

    def to_dict(self) -> dict[str, Any]:
        """As plain values; names of classes are no part of them."""
        of = {"ways": self.ways} if self.ways else {"kind": self.kind, "outputs": self.outputs}
        return {"shape": list(self.shape), "inputs": self.inputs, **of}


class PictureMeaning(NamedTuple):
    """Of pictures: `classes` that all owners share, or episodes of `ways` classes of an owner's own."""

    size: int
    channels: int
    classes: tuple[str, ...] = ()
    ways: int | None = None

    @property
    def meaning(self) -> Meaning:
        """Of the arrays that pictures become."""
        shape = (self.channels, self.size, self.size)
        return Meaning(shape, "pixels", "classification", self.ways or len(self.classes), self.ways, self.classes)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        of = {"ways": self.ways} if self.ways else {"classes": list(self.classes)}
        return {"size": self.size, "channels": self.channels, **of}


def meaning_from(words: Mapping[str, Any], where: str = "task.schema") -> Meaning:
    """The meaning of arrays in plain values.

    Raises: ConfigError, naming what is wrong.
    """
    _known(words, ("shape", "inputs", "kind", "outputs", "ways"), where)
    shape, inputs = words.get("shape"), words.get("inputs")
    if not isinstance(shape, list | tuple) or not all(_is_count(n) for n in shape) or not shape:
        raise ConfigError(f"{where}: shape is {shape!r}; it must be the sizes of one input, such as [2] or [1, 28, 28]")
    if inputs not in INPUTS:
        raise ConfigError(f"{where}: inputs is {inputs!r}; it must be {', '.join(INPUTS)}")
    if words.get("ways") is not None:
        _check_ways(words["ways"], where, words.get("outputs"))
        return Meaning(tuple(shape), inputs, "classification", words["ways"], words["ways"])
    kind, outputs = words.get("kind"), words.get("outputs")
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind is {kind!r}; it must be {' or '.join(KINDS)}")
    if type(outputs) is not int or outputs < (2 if kind == "classification" else 1):
        raise ConfigError(f"{where}: outputs is {outputs!r}; it must be how many classes (2 or more), or for "
                          f"regression how many numbers")  # fmt: skip
    return Meaning(tuple(shape), inputs, kind, outputs)


def pictures_from(words: Mapping[str, Any], where: str = "task.schema") -> PictureMeaning:
    """The meaning of pictures in plain values.

    Raises: ConfigError, naming what is wrong.
    """
    _known(words, ("size", "channels", "classes", "ways"), where)
    check_square(words.get("size"), words.get("channels"), where)
    classes, ways = words.get("classes"), words.get("ways")
    if ways is not None:
        _check_ways(ways, where, classes)
        return PictureMeaning(words["size"], words["channels"], (), ways)
    listed = classes if isinstance(classes, list | tuple) else []
    if len({*map(str, listed)}) != len(listed) or len(listed) < 2:
        raise ConfigError(f"{where}: classes is {classes!r}; it must be the names of 2 classes or more, none twice, "
                          f"which are folders of every owner; or give ways, for episodes")  # fmt: skip
    return PictureMeaning(words["size"], words["channels"], tuple(map(str, listed)))


def check_square(size: Any, channels: Any, where: str) -> None:
    """Raises: ConfigError for sizes that no picture can have."""
    if not _is_count(size) or not 4 <= size <= MOST_SIZE:
        raise ConfigError(f"{where}: size is {size!r}; it must be from 4 to {MOST_SIZE}, the pixels along an edge")
    if type(channels) is not int or channels not in (1, 3):
        raise ConfigError(f"{where}: channels is {channels!r}; it must be 1 (grey) or 3 (colours)")


def read(path: Path) -> dict[str, Any]:
    """The plain values in a TOML file.

    Raises: DataError, if it cannot be read.
    """
    try:
        return tomllib.loads(read_text(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except NotText as error:
        raise DataError(f"{path}: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path} is no TOML: {error}. Mend it, as `difnet data describe` writes it.") from error


def agreed(
    task: str, schema: Mapping[str, Any] | None, words: Mapping[str, Any], parse: Callable[[Mapping[str, Any]], Agreed],
    suggest: Callable[..., Agreed],
) -> Agreed:  # fmt: skip
    """What a schema says, by `parse`; else what the data suggests, by `suggest`, where the words do not say it.

    Raises: ConfigError, if two things say it, and as these.
    """
    said = {name: value for name, value in words.items() if value is not None}
    if schema is None:
        return suggest(**said)
    if said:
        raise ConfigError(f"task {task}: {', '.join(said)} given beside a schema, which says it already; say it there")
    return parse(schema)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _check_ways(ways: Any, where: str, beside: Any) -> None:
    if type(ways) is not int or ways < 2:
        raise ConfigError(f"{where}: ways is {ways!r}; it must be 2 or more, the classes of one task")
    if beside is not None:
        raise ConfigError(f"{where}: both ways and classes are given; ways is for episodes, whose classes are each "
                          f"owner's own. Leave one away.")  # fmt: skip


def _known(words: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(words, Mapping):
        raise ConfigError(f"{where} is {type(words).__name__}; it must be a table with {', '.join(known)}")
    if strange := [word for word in words if word not in known]:
        raise ConfigError(f"{where}: no word {strange[0]!r}{did_you_mean(strange[0], known)} It may have "
                          f"{', '.join(known)}.")  # fmt: skip
