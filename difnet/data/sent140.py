"""Sentiment140 by user: tweets as 25 word numbers, and whether each is positive; from its csv or LEAF's JSON.

Source: Go, Bhayani, Huang, "Twitter Sentiment Classification using Distant Supervision", 2009, for the csv; Caldas et
al., "LEAF", 2018, for how a tweet is split into 25 words.
"""

import csv
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from difnet.data import Array, Table, leaf
from difnet.data.cache import Writer, kept
from difnet.data.stream import REMEDY, lines
from difnet.errors import DataError, EnvironmentLacks
from difnet.system.progress import report_progress

LENGTH = 25  # words of a tweet
PADDING, UNKNOWN, RESERVED = 0, 1, 2  # word numbers; from RESERVED on they are those of the vocabulary
PATTERNS = {"train": "training*.csv*", "test": "testdata*.csv*"}
POLARITY = {"0": 0, "2": None, "4": 1}
TEXT, FIELDS = 4, 6  # where LEAF has the text, among so many fields
AT_ONCE = 2**16  # tweets

WORD = re.compile(r"[\w']+|[.,!?;]")


class Tweet(NamedTuple):
    """One row of the files."""

    user: str
    text: str
    label: int


class _Read(NamedTuple):
    """All tweets with words numbered as they first appear, from 1 on."""

    words: Array  # int32 (n, LENGTH)
    lexicon: list[str]
    labels: Array
    order: Array  # of the tweets, by user
    names: list[str]
    sizes: Array


def words_of(text: str) -> list[str]:
    """The first 25 words of a text in small letters: runs of letters, digits, _ and ', and each of . , ! ? ; by itself.

    >>> words_of("Don't STOP me now!!")
    ["don't", 'stop', 'me', 'now', '!', '!']
    """
    return WORD.findall(text.lower())[:LENGTH]


def numbers(text: str, vocabulary: Sequence[str]) -> Array:
    """A text as the reader has it: word numbers, int32 (25,), padded in front.

    >>> numbers("Now, or never", ["never", "now"])[-4:]
    array([3, 1, 1, 2], dtype=int32)
    """
    place = {word: n for n, word in enumerate(vocabulary, RESERVED)}
    return np.array(_padded([place.get(word, UNKNOWN) for word in words_of(text)]), dtype=np.int32)


def read(place: Path, part: str = "train", words: int = 10000) -> Table:
    """Tweets, by user in order of appearance; neutral ones (in the test file) are left out.

    Inputs (n, 25), int32: word numbers, 0 for padding, which stands in front so that a tweet ends at the last step, 1
    for unknown words, then 2 and more for the words of `facts["vocabulary"]`: the `words` most frequent ones of the
    training file. Targets: 1 positive, 0 negative. A line that is no UTF-8 is read as Latin-1, as the original file is.

    Args: `place`, a folder with training*.csv or training*.csv.gz (if there are several, the first by name), else
        LEAF's all_data*.json; or one file; `part`, "train" or "test" (testdata*.csv).
    Raises: EnvironmentLacks without a file; DataError, if one is not what it should be, naming its line.
    """
    train = _sources(place, "train")
    sources = train if part == "train" else _sources(place, part)
    vocabulary = None if part == "train" else read(place, "train", words).facts["vocabulary"]

    def parse(writer: Writer) -> None:
        left = Counter(without_data=0, miscounted=0) if _is_leaf(sources) else Counter(neutral=0)
        found = _collected(_tweets(sources, left))
        if not len(found.words):
            raise leaf.none_found(sources) if _is_leaf(sources) else DataError(f"{sources[0]} has no tweets. {REMEDY}.")
        known = _most_frequent(found, words) if vocabulary is None else vocabulary
        number = _renumbering(found.lexicon, known)
        for start in range(0, len(found.order), AT_ONCE):
            some = found.order[start : start + AT_ONCE]
            writer.add("inputs", number[found.words[some]])
            writer.add("targets", found.labels[some].astype(np.int64))
        writer.add("first", found.sizes.cumsum() - found.sizes)
        writer.add("sizes", found.sizes)
        writer.facts = {"names": found.names, "vocabulary": known, **left}

    options = {"part": part, "words": words}
    entry = kept("sent140 1", [*sources, *(train if part != "train" else [])], parse, options)
    a, facts = entry.arrays, entry.facts
    return Table(a["inputs"], a["targets"], a["first"], a["sizes"], facts["names"], entry.digest, facts)


def _is_leaf(sources: Sequence[Path]) -> bool:
    return ".json" in sources[0].suffixes


def _sources(place: Path, part: str) -> list[Path]:
    if place.is_file():
        return [place]
    if found := sorted(path for path in place.glob(PATTERNS[part]) if path.name.endswith((".csv", ".csv.gz"))):
        return found[:1]
    if part == "train":
        try:
            return leaf.files(place)
        except EnvironmentLacks as error:
            raise EnvironmentLacks(f"{place} lacks {PATTERNS[part]}, and {error}") from error
    raise EnvironmentLacks(f"{place} lacks {PATTERNS[part]}, such as testdata.manual.2009.06.14.csv")


def _tweets(sources: list[Path], left: Counter[str]) -> Iterator[Tweet]:
    if not _is_leaf(sources):
        yield from _rows(sources[0], left)
        return
    for user in leaf.users(sources, left):
        for n, (x, y) in enumerate(zip(user.inputs, leaf.classes_of(user, 2), strict=True)):
            if not isinstance(x, list) or len(x) != FIELDS or not isinstance(x[TEXT], str):
                raise DataError(f"{user.where}, x[{n}] must be a list of {FIELDS} texts, with the tweet's at place "
                                f"{TEXT}, counted from 0. {REMEDY}.")  # fmt: skip
            yield Tweet(user.name, x[TEXT], int(y))


def _rows(path: Path, left: Counter[str]) -> Iterator[Tweet]:
    """The tweets in a csv of six columns: polarity, id, date, query, user, text."""
    last = ""

    def heard() -> Iterator[str]:
        nonlocal last
        for line in lines(path):
            last = line if line.strip() else last
            yield line

    rows = csv.reader(heard())
    try:
        for row in rows:
            if not any(map(str.strip, row)):
                continue
            if len(row) != FIELDS or row[0] not in POLARITY:
                what = f"polarity {row[0]!r}" if len(row) == FIELDS else f"{len(row)} columns"
                raise DataError(f"{path}, line {rows.line_num}: {what}; a row is polarity (0, 2 or 4), id, date, "
                                f"query, user, text, in quotes. {REMEDY}.")  # fmt: skip
            if (label := POLARITY[row[0]]) is None:
                left["neutral"] += 1
            else:
                yield Tweet(row[4], row[5], label)
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: {error}. {REMEDY}.") from error
    if last.startswith('"') and not last.endswith('"'):
        raise DataError(f"{path} is cut off: its last line, {rows.line_num}, ends within quotes. {REMEDY}.")


def _collected(tweets: Iterable[Tweet]) -> _Read:
    """All tweets as numbers: 104 bytes each and every distinct word once are what must fit into memory."""
    lexicon: dict[str, int] = {}
    users: dict[str, int] = {}
    words, who, labels = array("i"), array("i"), array("b")
    for n, tweet in enumerate(tweets):
        words.extend(_padded([lexicon.setdefault(word, len(lexicon) + 1) for word in words_of(tweet.text)]))
        who.append(users.setdefault(tweet.user, len(users)))
        labels.append(tweet.label)
        if n % AT_ONCE == 0:
            report_progress("numbering words", n)
    owner = np.array(who, dtype=np.int32)
    return _Read(np.frombuffer(words, dtype=np.int32).reshape(-1, LENGTH), list(lexicon), np.array(labels),
                 np.argsort(owner, kind="stable"), list(users), np.bincount(owner))  # fmt: skip


def _padded(numbers: list[int]) -> list[int]:
    return [PADDING] * (LENGTH - len(numbers)) + numbers


def _most_frequent(found: _Read, words: int) -> list[str]:
    """So many words, the most frequent first; of two alike, the one that appeared first."""
    counts = np.bincount(found.words.ravel(), minlength=len(found.lexicon) + 1)[1:]
    return [found.lexicon[n] for n in np.argsort(-counts, kind="stable")[:words]]


def _renumbering(lexicon: Sequence[str], vocabulary: Sequence[str]) -> Array:
    """Of every word of the lexicon, by its number from 1 on, the number in the vocabulary; padding stays what it is."""
    place = {word: n for n, word in enumerate(vocabulary, RESERVED)}
    return np.array([PADDING, *(place.get(word, UNKNOWN) for word in lexicon)], dtype=np.int32)
