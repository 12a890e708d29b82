"""What must the successor of a launcher know that the run's record does not tell? In a file that only its owner reads.

It holds the run's token. It is there as long as a run goes on whose hosts may outlive their launcher, and removed at
the run's end: where it lies and nobody holds the folder, the launcher was killed.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from difnet.errors import RunFolderError
from difnet.record.files import read_json

FILE = "launcher.json"


class Succession(NamedTuple):
    """What a launcher leaves to the next one."""

    meeting: str  # where it was to listen
    token: str
    life: str  # which beginning of the run it is
    place: str
    facts: dict[str, Any]  # what the hosts had told, less who has what data
    members: dict[str, Any]  # who was introduced


def keep(folder: Path, told: Succession) -> str:
    """Write it whole, readable by its owner alone. Returns why it could not be written, or ""."""
    path = folder / FILE
    scratch = path.with_name(f".{FILE}.part")
    try:
        scratch.unlink(missing_ok=True)
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(told._asdict(), file)
        os.replace(scratch, path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        return error.strerror or str(error)
    return ""


def read(folder: Path) -> Succession | None:
    """What the last launcher left; None where it ended in order, or left nothing.

    Raises: RunFolderError, if the file is damaged.
    """
    told = read_json(folder / FILE)
    if not told:
        return None
    if told.keys() != set(Succession._fields):
        raise RunFolderError(f"{folder / FILE} is damaged, or another difnet wrote it. If no host of the run lives any "
                             f"more, remove it and resume again: the run then goes on from checkpoints")  # fmt: skip
    return Succession(**told)


def remove(folder: Path) -> None:
    """The run is over, or begins anew."""
    with suppress(OSError):
        (folder / FILE).unlink(missing_ok=True)
