"""What becomes of a run folder's files while the disk is full, read-only, or gone?

Nothing here ends a run: a record that cannot be written is counted, a whole file that cannot be written is named, and
both are told.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def put_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the whole of it or what was there before, also after a crash.

    Raises: OSError, if the disk does not take it; nothing of it is left then.
    """
    scratch = path.with_name(f".{path.name}.part")
    try:
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


def _mend(path: Path) -> None:
    """Cut off what a writer before us, that was killed, has left of a last line.

    Raises: OSError, if it cannot be done, or the file is empty or not there.
    """
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


class Disk:
    """The writes of one run folder, by the one process that writes there.

    Args: `warn` hears, once, that something could not be written.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.folder, self._warn = folder, warn
        self.why = ""  # the last failure
        self._lost_records = 0
        self._unwritten: dict[str, None] = {}
        self._met: set[str] = set()  # files of records that this process has written to
        self._begun: dict[str, bytes] = {}  # file -> the rest of a line that was cut short: it comes before any other

    def append(self, name: str, text: str, records: int = 1) -> bool:
        """Add lines to a file, in one write where the disk takes it. Returns whether they are there, or will be.

        What was cut short goes on where it ended as soon as there is room: a reader never meets half a line.
        """
        if name.endswith(".jsonl") and name not in self._met:
            self._met.add(name)
            with suppress(OSError):
                _mend(self.folder / name)
        begun = self._begun.pop(name, b"")
        data, done = begun + text.encode(errors="replace"), 0
        try:
            fd = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                while done < len(data):
                    done += os.write(fd, data[done:])
            finally:
                os.close(fd)
        except OSError as error:
            is_lost = done <= len(begun)
            if rest := (begun if is_lost else data)[done:]:
                self._begun[name] = rest
            self._lost_records += records * is_lost
            self._failed(name, error)
            return not is_lost
        return True

    def write(self, name: str, content: str | bytes) -> bool:
        """Write a whole file, as `put` does. Returns whether it is there."""
        try:
            self.put(name, content)
        except OSError as error:
            self._unwritten[name] = None
            self._failed(name, error)
            return False
        self._unwritten.pop(name, None)
        return True

    def put(self, name: str, content: str | bytes) -> None:
        """Write a file so that a reader finds the whole of it or what was there before, also after a crash.

        Raises: OSError, if the disk does not take it.
        """
        put_whole(self.folder / name, content.encode() if isinstance(content, str) else content)

    def told(self) -> dict[str, Any]:
        """What the summary says of it: how many records were lost, and which files are not there as they should be."""
        return {"lost_records": self._lost_records + len(self._begun), "unwritten": list(self._unwritten)}

    def _failed(self, name: str, error: OSError) -> None:
        is_first, self.why = not self.why, error.strerror or str(error)
        if is_first:
            self._warn(f"cannot write {self.folder / name}: {self.why}; training goes on, and what is lost meanwhile "
                       f"is counted. Make room, and the record goes on too")  # fmt: skip
