"""Who used what, and when? A table of ratings or usage records, as in MovieLens: a user is a client.

Source: Chen et al., "Federated Meta-Learning with Fast Convergence and Efficient Communication" (FedMeta), section 4.3
and appendix A.4: each client has a classifier of its own items among 40 classes.
"""

from array import array
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from difnet.data import Array, Table
from difnet.data.cache import Writer, kept
from difnet.data.rows import OWN, Row, table
from difnet.data.stream import REMEDY
from difnet.errors import ConfigError, DataError, EnvironmentLacks
from difnet.system.progress import report_progress

RATINGS = ("ratings.csv", "ratings.csv.gz", "ratings.dat", "u.data")
FILMS = ("movies.csv", "movies.csv.gz", "movies.dat")
GENRE, GENRES = "genre", "genres"
# the columns of files that do not name them
PLAIN, PLAIN_FILMS = ("userId", "movieId", "rating", "timestamp"), ("movieId", "title", GENRES)
NONE = -1  # in place of the last item, or of the time since the last record: this is the client's first
GAPS = 8 ** np.arange(1, 8)  # seconds: 8, a minute, 8.5 minutes, 1.1 hours, 9 hours, 3 days, 24 days
EVERY = 50_000  # lines between two reports of progress


class Columns(NamedTuple):
    """What the columns of a table are called."""

    user: str
    item: str
    time: str


def read(
    place: Path, item: str = GENRE, classes: int = 40, file: str | None = None, user: str = "userId",
    time: str = "timestamp",
) -> Table:  # fmt: skip
    """The records of each user in order of time, those of one time in the file's order.

    A record's class is its item, numbered in the order in which this user first used it, so that a number says nothing
    of what comes later; all items after the 39th (of 40 classes) are the last class. Inputs (n, 4 + classes), int32,
    are made of the user's records before this one alone, and of this one's time: the class used last; the eighth of the
    day (three hours each, UTC); the weekday (0 is Monday); the time since the last record, floor(log_8 seconds) from 0
    to 7; then how often each class was used so far. What a first record has not is -1.

    Nobody rates a film twice, so that with films as items every class but the last were used once, and there would be
    nothing to learn: with MovieLens `item` is "genre", the film's first genre in movies.csv (MovieLens names them in
    alphabetical order). `item = "movieId"` takes films all the same; with a table of your own it is the column of what
    was used. Ratings themselves play no part.

    Args: `file`, the table's name in the folder `place`; unless told, ratings.csv, ratings.dat or u.data there, in a
        folder below it, or in the zip there; `user`, `time`: its columns (seconds since 1970, or ISO 8601).
    Raises: EnvironmentLacks, if there is no table; DataError, if it is damaged or has no such columns.
    """
    if not (type(classes) is int and classes >= 2):
        raise ConfigError(f"task.classes is {classes!r}; it must be a whole number, 2 or more, such as 40")
    source, columns = _source(place, file), Columns(user, item, time)
    films, remedy = _films(source), OWN if file else REMEDY

    def parse(writer: Writer) -> None:
        users, items, users_of, items_of, times = _records(source, films, columns, remedy)
        order = np.lexsort((times, users_of))
        sizes = np.bincount(users_of, minlength=len(users))
        later = 0
        for number, rows in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
            used = numbered(items_of[rows])
            later += int((used >= classes).sum())
            writer.add("inputs", past(np.minimum(used, classes - 1), times[rows], classes))
            writer.add("targets", np.minimum(used, classes - 1))
            report_progress("sorting records by user", number + 1, len(users))
        writer.add("sizes", sizes.astype(np.int64))
        writer.add("first", (np.cumsum(sizes) - sizes).astype(np.int64))
        writer.facts = {"names": [f"user-{u}" for u in users], "item": item, "items": len(items), "classes": classes,
                        "beyond the classes": later}  # fmt: skip

    sources = [source] if films in (None, source) else [source, films]
    entry = kept("ratings 1", sources, parse, {**columns._asdict(), "classes": classes})
    a = entry.arrays
    return Table(a["inputs"], a["targets"], a["first"], a["sizes"], entry.facts["names"], entry.digest, entry.facts)


def numbered(items: Array) -> Array:
    """Items (n,) as the numbers 0, 1, … in the order in which each is first met; int64.

    >>> numbered(np.array([7, 3, 7, 9])).tolist()
    [0, 1, 0, 2]
    """
    _, first, which = np.unique(items, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which]


def past(used: Array, times: Array, classes: int) -> Array:
    """What is known before each record of one client: see `read`; int32, (n, 4 + classes).

    Args: `used`, the classes of its records (n,) in order of time; `times` in seconds since 1970, UTC.

    >>> past(np.array([0, 0, 1]), np.array([0.0, 100.0, 100.0]), 2).tolist()
    [[-1, 0, 3, -1, 0, 0], [0, 0, 3, 2, 1, 0], [0, 0, 3, 0, 2, 0]]
    """
    known = np.empty((len(used), 4 + classes), np.int32)
    known[:, 0] = np.concatenate([[NONE], used[:-1]])
    known[:, 1] = times // 10_800 % 8
    known[:, 2] = (times // 86_400 + 3) % 7  # the first of January 1970 was a Thursday
    known[:, 3] = np.concatenate([[NONE], np.searchsorted(GAPS, np.diff(times), side="right")])
    once = used[:, None] == np.arange(classes)
    known[:, 4:] = once.cumsum(0) - once
    return known


def _source(place: Path, file: str | None) -> Path:
    if file is not None:
        if (place / file).is_file():
            return place / file
        raise EnvironmentLacks(f"{place} lacks the table {file}; give task.file the name of one that is there")
    found = [path for name in (*RATINGS, "ml-*.zip") for path in sorted(place.glob(f"**/{name}"))]
    if found:
        return min(found, key=lambda path: len(path.parts))  # of those as near, the first in this order
    if zips := sorted(place.glob("**/*.zip")):
        return zips[0]
    raise EnvironmentLacks(f"{place} has none of {', '.join(RATINGS)}, and no zip of them; `difnet data get "
                           f"{place.name}` fetches it, and task.file names a table of your own")  # fmt: skip


def _films(source: Path) -> Path | None:
    """Where films and their genres are told, if anywhere."""
    beside = (source.parent / name for name in FILMS)
    return source if source.suffix == ".zip" else next((path for path in beside if path.is_file()), None)


def _records(
    source: Path, films: Path | None, columns: Columns, remedy: str
) -> tuple[dict, dict, Array, Array, Array]:
    """Users and items, numbered as they are met; and of every record its user's and its item's number, and its time."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    users_of, items_of, times = array("l"), array("l"), array("d")
    with table(source, RATINGS, PLAIN, remedy) as rows:
        by_genre = columns.item == GENRE and GENRE not in rows.columns
        genres = _first_genres(rows.where, films, remedy) if by_genre else {}
        item = "movieId" if by_genre else columns.item
        for row in rows(columns.user, item, columns.time):
            who, what, when = row.values
            if not (who and what):
                column = item if who else columns.user
                raise DataError(f"{rows.where}, line {row.line}: nothing in the column {column!r}; a record is of a "
                                f"user and an item. Fill it in, or take the line out")  # fmt: skip
            if by_genre and what not in genres:
                raise DataError(f"{rows.where}, line {row.line}: film {what!r} is not in {films}; the two belong to "
                                f"different sets. {remedy}")  # fmt: skip
            users_of.append(users.setdefault(who, len(users)))
            items_of.append(items.setdefault(genres.get(what, what), len(items)))
            times.append(_seconds(when, rows.where, row))
            if row.line % EVERY == 0:
                report_progress(f"reading {source.name}", row.line)
    if not users:
        raise DataError(f"{rows.where} has no records below the names of its columns. {remedy}")
    return users, items, np.array(users_of), np.array(items_of), np.array(times)


def _first_genres(where: str, films: Path | None, remedy: str) -> dict[str, str]:
    if films is None:
        raise DataError(f"{where} has no column {GENRE!r}, and no {FILMS[0]} lies beside it that tells films' genres; "
                        f"put it there, or name another column of the table in task.item")  # fmt: skip
    first: dict[str, str] = {}
    with table(films, FILMS, PLAIN_FILMS, remedy) as rows:
        for line, (film, genres) in rows("movieId", GENRES):
            first[film] = genres.partition("|")[0].strip()
            if not first[film]:
                raise DataError(f"{rows.where}, line {line}: film {film!r} has no first genre; MovieLens writes (no "
                                f"genres listed) there. {remedy}")  # fmt: skip
    return first


def _seconds(text: str, where: str, row: Row) -> float:
    try:
        seconds = float(text)
    except ValueError:
        try:
            when = datetime.fromisoformat(text)
            seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        except ValueError:
            seconds = np.nan
    if not abs(seconds) < 1e12:
        raise DataError(f"{where}, line {row.line}: time {text!r}; it must be a number of seconds since 1970, or a "
                        f"date and time as 2026-01-31 12:00:00")  # fmt: skip
    return seconds
