"""Which runs go on at this moment, how far have they come, and what do their agents print?"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from difnet.errors import RunFolderError
from difnet.record import finding
from difnet.system.holding import Holder, held_here, holder, is_held

POLL_S = 0.25


class Living(NamedTuple):
    """A run that goes on, and who began it."""

    run: str
    user: str
    pid: int
    since: str  # ISO 8601
    agents: int | None  # None as long as the run has not said so, here and below
    iteration: int | None
    iterations: int | None
    folder: str


def living(home: str | Path = "runs") -> list[Living]:
    """The runs that go on on this machine: those of this user, wherever they lie, and anybody's in `home`.

    Raises: RunFolderError, if that cannot be told.
    """
    beside = Path(home).iterdir() if Path(home).is_dir() else ()
    folders = dict.fromkeys([*held_here(), *sorted(f.resolve() for f in beside if f.is_dir())])
    held = ((folder, told) for folder in folders if (told := holder(folder)) is not None and told.is_here)
    return sorted((_told(folder, by) for folder, by in held), key=lambda run: run.since)


def _told(folder: Path, by: Holder) -> Living:
    known: dict[str, Any] = {}
    for event in _last_words(folder / "events.jsonl"):
        known |= event
    return Living(folder.name, by.user, by.pid, by.since, known.get("agents"), known.get("iteration"),
                  known.get("iterations"), str(folder))  # fmt: skip


def _last_words(path: Path) -> Iterator[dict[str, Any]]:
    """What says how far a run has come, of any difnet: one newer than this may list its runs here, too.

    Other lines, of which some are long, are not read, and what is damaged tells nothing.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            if line.startswith((b'{"event": "RunStarted"', b'{"event": "Pulse"')):
                with suppress(ValueError, RecursionError):
                    yield json.loads(line)


def resolve(word: str, home: str | Path = "runs") -> Path:
    """The run folder that a word means, as `finding.resolve`; also by the name of a run that goes on elsewhere.

    Raises: RunFolderError, with the names that come near.
    """
    try:
        return finding.resolve(word, home)
    except RunFolderError:
        for folder in held_here():
            if folder.name == word:
                return folder
        raise


def printed(folder: Path, agent: int | None = None, follow: bool = False) -> Iterator[tuple[int, str]]:
    """(agent, line) of all that agents have printed, agent after agent.

    Args: `agent`, the only one that is asked for; None: all. With `follow` also what comes, until the run ends.
    Raises: RunFolderError, if the run has no such agent.
    """
    if agent is not None and not _log(folder, agent).parent.is_dir():
        raise RunFolderError(f"{folder} has no agent {agent}; it has agents 0 to {len(_agents(folder)) - 1}")
    read = dict.fromkeys(_agents(folder) if agent is None else [agent], 0)
    while True:
        ended = not (follow and is_held(folder))  # asked before reading, so that nothing is missed
        for k, begin in read.items():
            for line in _lines(_log(folder, k), begin, ended):
                read[k] += len(line)
                yield k, line.decode(errors="replace").rstrip("\n")
        if ended:
            return
        time.sleep(POLL_S)


def _agents(folder: Path) -> Sequence[int]:
    return sorted(int(own.name) for own in (folder / "agents").glob("*") if own.name.isdecimal())


def _log(folder: Path, agent: int) -> Path:
    return folder / "agents" / f"{agent:03d}" / "log.txt"


def _lines(path: Path, begin: int, ended: bool) -> Iterator[bytes]:
    """The lines of a file from a position on; one that is being written counts only when nothing more can come."""
    if path.is_file():
        with path.open("rb") as file:
            file.seek(begin)
            yield from (line for line in file if ended or line.endswith(b"\n"))
