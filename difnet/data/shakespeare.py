"""Shakespeare by speaking role: every window of 80 letters and the one that follows, from the plays or LEAF's JSON.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017, for the
roles; Caldas et al., "LEAF", 2018, for the rules: its preprocessing of Project Gutenberg's Etext 100 of 1994.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from difnet.data import Array, Table, leaf
from difnet.data.cache import Writer, kept
from difnet.data.home import find
from difnet.data.stream import REMEDY, lines
from difnet.errors import DataError, EnvironmentLacks

ALL_LETTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
UNKNOWN = " "  # what any other letter is read as
WINDOW = 80
TEXTS = ("shakespeare.txt.gz", "shakespeare.txt")

AUTHOR = "by William Shakespeare"  # stands at the head of every work, some lines below its title
UNINDENTED = "THE COMEDY OF ERRORS"
FIRST, LAST = 5, 124195  # plays begin so many lines above the second AUTHOR; poems follow this line, counted from 0
SPEECH, UNINDENTED_SPEECH = re.compile(r"  ([A-Za-z][A-Za-z ]*)\. (.*)"), re.compile(r"([A-Za-z][A-Za-z ]*)\. (.*)")
FEWEST = 3  # a role with fewer lines is left out

Plays = list[tuple[str, dict[str, list[str]]]]  # (title, role -> its lines)


def read(place: Path) -> Table:
    """All windows of the roles that speak more than 80 letters; a role is a group, named as in LEAF, "PLAY_ROLE".

    Inputs (n, 80), targets (n,), both uint8, numbers into `facts["letters"]`. From the text (LEAF's rules: 1130 roles
    in 36 plays, 4226206 windows) the inputs are views of one array in which the roles stand one after another. Letters
    that LEAF does not have become blanks; `facts["unknown"]` counts them.

    Args: `place`, a folder with shakespeare.txt, packed or not, else LEAF's all_data*.json; or one such file.
    Raises: EnvironmentLacks without a file; DataError, if one is not what it should be.
    """
    if place.is_file() and ".json" not in place.suffixes:
        return _from_text(place)
    if not place.is_file() and any((place / name).is_file() for name in TEXTS):
        return _from_text(find(place, *TEXTS))
    try:
        return _from_leaf(leaf.files(place))
    except EnvironmentLacks as error:
        if isinstance(error, DataError) or place.is_file():
            raise
        raise EnvironmentLacks(f"{place} lacks {TEXTS[0]} (or {TEXTS[1]}), and {error}") from error


def numbers(text: str, unknown: Counter[str]) -> Array:
    """A text's letters as numbers into ALL_LETTERS, uint8; counts the letters that are not there.

    >>> numbers("a b~", Counter()).tolist()
    [53, 1, 54, 1]
    """
    letters, table = np.array([ALL_LETTERS]).view(np.uint32), np.full(128, len(ALL_LETTERS), dtype=np.uint8)
    table[letters] = np.arange(len(ALL_LETTERS))
    found = table[np.minimum(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32), 127)]
    strange = found == len(ALL_LETTERS)
    unknown["unknown"] += int(strange.sum())
    return np.where(strange, np.uint8(ALL_LETTERS.index(UNKNOWN)), found)


def plays(text: Sequence[str]) -> Plays:
    """The plays in the lines of the Complete Works, and what every role of them says, line by line.

    A role is known by its name in capitals. What no role says (stage directions, sonnets, the poems at the end) is
    left out, and so is a work with fewer than two roles.
    """
    authors = [n for n, line in enumerate(text) if AUTHOR in line]
    found: Plays = []
    role, loose = "", False
    for n in range(authors[1] - FIRST if authors[1:] else len(text), min(len(text), LAST + 1)):
        line = text[n]
        if AUTHOR in line:
            title = next((text[n - k].strip() for k in range(2, 7) if text[n - k].strip()), text[n - 7].strip())
            found.append((title, {}))
            role, loose = "", title == UNINDENTED
        elif found:
            role, said = _said(line, role, loose)
            if role and said is not None:
                found[-1][1].setdefault(role, []).append(said)
    return [play for play in found if len(play[1]) > 1]


def _said(line: str, role: str, loose: bool) -> tuple[str, str | None]:
    """Who speaks after this line, and what of it is said; `loose`, in the play whose lines are not indented."""
    if speech := (UNINDENTED_SPEECH if loose else SPEECH).match(line):
        name = speech[1].upper()
        return ("", None) if loose and name.startswith("ACT ") else (name, speech[2])
    if loose:
        return ("", None) if line.startswith("<") else (role, line)
    return role, line[4:] if line.startswith("    ") else None


def _texts(works: Plays) -> Mapping[str, str]:
    """What each role says, as one line; roles in order of appearance, those with too few lines left out."""
    said: dict[str, list[str]] = {}
    for title, roles in works:
        for role, spoken in roles.items():
            if len(spoken) >= FEWEST:
                said.setdefault(re.sub(r"\W+", "_", f"{title}_{role}".replace(" ", "_")), []).extend(spoken)
    return {role: re.sub("   *", " ", "".join(f"{line} " for line in spoken)) for role, spoken in said.items()}


def _from_text(path: Path) -> Table:
    def parse(writer: Writer) -> None:
        text = list(lines(path))[1:]
        works = plays(text)
        if not works:
            raise DataError(f"{path}: no plays in its {len(text) + 1} lines; needed is Project Gutenberg's Etext 100 "
                            f"of 1994, where {AUTHOR!r} stands above every work and a speech begins with two blanks "
                            f"and 'NAME. '. {REMEDY}.")  # fmt: skip
        roles = {role: text for role, text in _texts(works).items() if len(text) > WINDOW}
        if not roles:
            raise DataError(f"{path}: {len(works)} plays, but no role speaks more than {WINDOW} letters. {REMEDY}.")
        unknown = Counter(unknown=0)
        for said in roles.values():
            writer.add("letters", numbers(said, unknown))
        letters = np.array([len(said) for said in roles.values()])
        writer.add("first", letters.cumsum() - letters)
        writer.add("sizes", letters - WINDOW)
        writer.facts = {"names": list(roles), "letters": ALL_LETTERS, "plays": [title for title, _ in works], **unknown}

    entry = kept("shakespeare 1", [path], parse)
    a, facts = entry.arrays, entry.facts
    windows = sliding_window_view(a["letters"], WINDOW)[:-1]
    return Table(windows, a["letters"][WINDOW:], a["first"], a["sizes"], facts["names"], entry.digest, facts)


def _from_leaf(paths: list[Path]) -> Table:
    def parse(writer: Writer) -> None:
        counts = Counter(unknown=0, without_data=0, miscounted=0)
        names, sizes = [], []
        for user in leaf.users(paths, counts):
            writer.add("inputs", _letters(user, "x", user.inputs, WINDOW, counts))
            writer.add("targets", _letters(user, "y", user.targets, 1, counts)[:, 0])
            names.append(user.name)
            sizes.append(len(user.inputs))
        if not names:
            raise leaf.none_found(paths)
        writer.add("first", np.cumsum(sizes) - sizes)
        writer.add("sizes", np.array(sizes))
        writer.facts = {"names": names, "letters": ALL_LETTERS, **counts}

    entry = kept("shakespeare-leaf 1", paths, parse)
    a = entry.arrays
    return Table(a["inputs"], a["targets"], a["first"], a["sizes"], entry.facts["names"], entry.digest, entry.facts)


def _letters(user: leaf.User, name: str, texts: list[object], length: int, unknown: Counter[str]) -> Array:
    def whole() -> Iterator[str]:
        for n, text in enumerate(texts):
            if not isinstance(text, str) or len(text) != length:
                what = f"has {len(text)} letters" if isinstance(text, str) else f"is a {type(text).__name__}"
                raise DataError(f"{user.where}, {name}[{n}] {what}; it must be a text of {length}. {REMEDY}.")
            yield text

    return numbers("".join(whole()), unknown).reshape(-1, length)
