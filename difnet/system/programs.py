"""What does another program say, and what if it says nothing?"""

import os
import signal
import subprocess
from contextlib import suppress
from typing import NamedTuple

ANSWER_S, GRACE_S = 5.0, 5.0


class Answer(NamedTuple):
    """What a program said, both its outputs as one, and its exit status: None if it did not end in time."""

    status: int | None
    text: str

    @property
    def first(self) -> str:
        """Its first line."""
        return next(iter(self.text.strip().splitlines()), "")

    @property
    def last(self) -> str:
        """Its last line, which of an error is the one that says why."""
        return ["", *self.text.strip().splitlines()][-1]


def ask(words: list[str], timeout_s: float = ANSWER_S) -> Answer:
    """Run a program to its end, with a deadline; its whole process group ends with it, and it never raises OSError."""
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, errors="replace", start_new_session=True)  # fmt: skip
    except OSError as error:
        return Answer(126, f"{words[0]}: {error.strerror}")
    try:
        text, _ = process.communicate(timeout=timeout_s)
        return Answer(process.returncode, text)
    except subprocess.TimeoutExpired:
        return Answer(None, f"no answer within {timeout_s:.0f} s")
    finally:
        if process.returncode is None:
            _end(process)


def _end(process: subprocess.Popen) -> None:
    """End a process and its group: it has a moment to tidy up."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, sig)
            process.communicate(timeout=GRACE_S)
            return
    if process.stdout:
        process.stdout.close()  # held open by one that left the group
