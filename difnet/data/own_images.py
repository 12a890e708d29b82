"""Which pictures have this process's own clients, of which classes? Squares of pixels, read once and memory-mapped.

A folder is a class: CLASS/picture is one client's, CLIENT/CLASS/picture has a folder for each client.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from difnet.data.cache import Writer, kept
from difnet.data.meaning import PictureMeaning, agreed, check_square, pictures_from
from difnet.data.pictures import brightest_16, endings, grey, opened, square
from difnet.data.samples import Pair
from difnet.data.schema import in_order
from difnet.errors import ConfigError, DataError, EnvironmentLacks
from difnet.system.progress import report_progress

READER, SURVEYOR = "own-images 1", "own-image-survey 1"
MOST_NAMED = 5
DARK = 2**12  # a picture of 16 bits with nothing as bright as this was made with fewer bits
WIDE = 2  # times as long as wide
SIZE = 28  # unless told

Shelves = Mapping[str, Mapping[str, Sequence[Path]]]  # client -> class -> pictures, in the order of their names


class Found(NamedTuple):
    """Whose pictures lie in a folder."""

    root: Path
    clients: Shelves
    left_out: list[str]  # what lies beside them


class OwnImages(NamedTuple):
    """All clients' pictures; targets are the numbers of `classes`, or for episodes of the client's own."""

    clients: dict[str, Pair]  # inputs (n, channels, size, size), uint8
    classes: dict[str, tuple[str, ...]]  # by client
    cautions: list[str]


def find(data: str | Path) -> Found:
    """The pictures below a folder.

    Raises: EnvironmentLacks, if it is not there; DataError, if it holds none, or holds them in two ways.
    """
    root = Path(data).expanduser()
    if not root.is_dir():
        raise EnvironmentLacks(f"there is no folder {root}; give one with a folder of pictures for each class, or with "
                               f"one of these for each client")  # fmt: skip
    known, left_out = endings(), list[str]()
    shallow = {folder.name: _pictures(folder, known) for folder in _folders(root)}
    deep = {folder.name: {inner.name: _pictures(inner, known) for inner in _folders(folder)}
            for folder in _folders(root)}  # fmt: skip
    here = [name for name, paths in shallow.items() if paths]
    below = [name for name, its in deep.items() if any(its.values())]
    if here and below:
        raise DataError(f"{root / here[0]} holds pictures, and {root / below[0]} folders of pictures; all must be "
                        f"CLASS/picture, of one client, or CLIENT/CLASS/picture. Move one of them.")  # fmt: skip
    if not here and not below:
        loose = len(_pictures(root, known))
        raise DataError(f"{root} holds no folder of pictures" + (f", but {loose} pictures, of which nobody knows the "
                        f"class; put them into a folder for each class" if loose else ""))  # fmt: skip
    clients = {root.resolve().name: shallow} if here else deep
    taken = {path for classes in clients.values() for paths in classes.values() for path in paths}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path not in taken and not any(_hidden(part) for part in path.relative_to(root).parts):
            left_out.append(str(path.relative_to(root)))
    return Found(root, {name: {word: paths for word, paths in its.items() if paths} for name, its in clients.items()
                        if any(its.values())}, left_out)  # fmt: skip


def meaning_of(
    data: str | Path, size: int | None = None, channels: int | None = None, classes: Sequence[str] | None = None,
    ways: int | None = None,
) -> PictureMeaning:  # fmt: skip
    """What these pictures suggest: classes that are the folders' names, grey if all of them are.

    Raises: as `find`; ConfigError for words that cannot be; DataError, if a picture is none.
    """
    found = find(data)
    check_square(SIZE if size is None else size, channels or 1, "task images")

    def look(writer: Writer) -> None:
        everything = [path for its in found.clients.values() for paths in its.values() for path in paths]
        writer.facts = {"grey": _all_grey(everything)}

    if channels is None:
        channels = 1 if kept(SURVEYOR, [found.root], look).facts["grey"] else 3
    size = SIZE if size is None else size
    if ways is not None:
        words: dict[str, Any] = {"ways": ways} | ({"classes": list(classes)} if classes else {})
    else:
        words = {"classes": list(classes or in_order({word for its in found.clients.values() for word in its}))}
    return pictures_from({"size": size, "channels": channels, **words}, "task images")


def read(data: str | Path, meaning: PictureMeaning) -> OwnImages:
    """All pictures, as squares. What was read once is kept as long as neither they nor their size change.

    Raises: DataError, naming every picture that cannot be read, or a class that the schema lacks and its client;
        EnvironmentLacks without Pillow, or if what is read cannot be kept.
    """
    found = find(data)
    own = {name: meaning.classes or in_order(set(its)) for name, its in found.clients.items()}
    for name, its in found.clients.items():
        if beyond := sorted(set(its) - set(own[name])):
            raise DataError(f"client {name!r} has a class {beyond[0]!r} ({its[beyond[0]][0].parent}), which the schema "
                            f"lacks: it has {', '.join(map(repr, meaning.classes[:20]))}. Rename the folder, or have "
                            f"the schema have it.")  # fmt: skip

    def parse(writer: Writer) -> None:
        _Reading(meaning.size, meaning.channels, writer).all(found, own)

    options = {"size": meaning.size, "channels": meaning.channels, "classes": own}
    entry = kept(READER, [found.root], parse, options)
    clients, begin = {}, 0
    for name, facts in entry.facts["clients"].items():
        rows = slice(begin, begin + facts["pictures"])
        clients[name], begin = Pair(entry.arrays["pixels"][rows], entry.arrays["targets"][rows]), rows.stop
    cautions = [f"{name} is no picture in a folder of its class: left out" for name in found.left_out[:MOST_NAMED]]
    if (more := len(found.left_out) - MOST_NAMED) > 0:
        cautions.append(f"{more} more files are left out")
    for name, facts in entry.facts["clients"].items():
        if lacking := [] if meaning.ways else sorted(set(own[name]) - set(found.clients[name])):
            cautions.append(f"{name} has no picture of {len(lacking)} of {len(own[name])} classes: "
                            f"{', '.join(map(repr, lacking[:MOST_NAMED]))}")  # fmt: skip
        cautions += [f"{name}: {n} of {facts['pictures']} pictures {what}" for what, n in facts["odd"].items()]
    return OwnImages(clients, own, cautions)


class _Reading:
    """One reading of all pictures."""

    def __init__(self, size: int, channels: int, writer: Writer) -> None:
        self._size, self._channels, self._writer = size, channels, writer
        self._broken: list[str] = []

    def all(self, found: Found, own: Mapping[str, Sequence[str]]) -> None:
        """Read every one, or raise."""
        many = sum(len(paths) for its in found.clients.values() for paths in its.values())
        done, told = 0, {}
        for client, its in found.clients.items():
            odd: dict[str, int] = {}
            seen: set[bytes] = set()
            for word in own[client]:
                for path in its.get(word, ()):
                    self._one(path, own[client].index(word), odd, seen)
                    done += 1
                    report_progress("reading pictures", done, many)
            told[client] = {"pictures": sum(map(len, its.values())), "odd": odd}
        if self._broken:
            more = f"; and {len(self._broken) - MOST_NAMED} more" if len(self._broken) > MOST_NAMED else ""
            raise DataError(f"{'; '.join(self._broken[:MOST_NAMED])}{more}. Mend or remove what cannot be read: "
                            f"a picture that is left out unseen may be a whole class.")  # fmt: skip
        self._writer.facts = {"clients": told}

    def _one(self, path: Path, number: int, odd: dict[str, int], seen: set[bytes]) -> None:
        """Keep one picture, and count what may surprise."""
        try:
            with opened(path) as picture:
                brightest = brightest_16(picture)
                long, short = max(picture.size), min(picture.size)
                frames = getattr(picture, "n_frames", 1)
                made = square(picture, self._size, self._channels, str(path))
        except DataError as error:
            self._broken.append(str(error))
            return
        digest = hashlib.sha256(made.tobytes()).digest()
        for what, is_so in (("have several frames: the first is taken", frames > 1),
                            ("are twice as long as wide: the middle is taken", long > WIDE * short),
                            ("of 16 bits are dark throughout: were they made with fewer?", brightest is not None
                             and brightest < DARK),
                            ("look like another one of theirs, so some may be learnt from and tested on",
                             digest in seen)):  # fmt: skip
            if is_so:
                odd[what] = odd.get(what, 0) + 1
        seen.add(digest)
        self._writer.add("pixels", made[None])
        self._writer.add("targets", np.array([number], np.int64))


def _all_grey(paths: Sequence[Path]) -> bool:
    for n, path in enumerate(paths):
        report_progress("looking at pictures", n, len(paths))
        with opened(path) as picture:
            if not grey(picture):
                return False
    return True


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not _hidden(entry.name)]


def _pictures(folder: Path, known: frozenset[str]) -> list[Path]:
    return [path for path in sorted(folder.iterdir())
            if path.suffix.lower() in known and path.is_file() and not _hidden(path.name)]  # fmt: skip


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def given(
    data: str | Path | None, schema: Mapping[str, Any] | None, words: Mapping[str, Any]
) -> PictureMeaning:  # fmt: skip
    """The meaning that a schema says; else what the pictures suggest, where `words` do not say it.

    Raises: ConfigError, if nothing or two things say it.
    """

    def suggest(**said: Any) -> PictureMeaning:
        if data is None:
            raise ConfigError("task images: neither pictures nor a schema are here, so nobody knows the classes; say "
                              "--data DIR, or --schema FILE with classes (or ways), size and channels")  # fmt: skip
        return meaning_of(data, **said)

    return agreed("images", schema, words, pictures_from, suggest)
