"""What is undone even if whoever did it is killed? A second process knows of every deed, and outlives the first."""

import json
import os
import signal
from collections.abc import Callable
from typing import Self

from difnet.system.tampering import Deed, undo


class Undoing:
    """Deeds that are undone when this context ends, however it ends; a child process does it after a SIGKILL of ours.

    To be entered before there are threads, since it forks.
    """

    def __init__(self) -> None:
        self._deeds: list[Deed] = []
        self._pid, self._pipe = 0, -1

    def __enter__(self) -> Self:
        readable, self._pipe = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._pipe)
                _outlive(readable)
            finally:
                os._exit(0)
        os.close(readable)
        return self

    def __exit__(self, *exception: object) -> None:
        for deed in reversed([*self._deeds]):
            self.undo(deed)
        os.close(self._pipe)
        os.waitpid(self._pid, 0)

    def add(self, do: Callable[[], Deed]) -> Deed:
        """Do something that is to be undone, and know how."""
        deed = do()
        if deed not in self._deeds:
            self._deeds.append(deed)
            self._tell("did", deed)
        return deed

    def undo(self, deed: Deed) -> None:
        """Undo it now."""
        if deed in self._deeds:
            undo(deed)
            self._deeds.remove(deed)
            self._tell("undid", deed)

    def _tell(self, what: str, deed: Deed) -> None:
        os.write(self._pipe, json.dumps([what, *deed]).encode() + b"\n")


def _outlive(readable: int) -> None:
    """Listen until nobody can tell any more; then undo what is left."""
    os.setsid()  # a terminal's Ctrl-C is not for it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    left: list[Deed] = []
    with open(readable, encoding="utf-8") as told:
        for line in told:
            what, *deed = json.loads(line)
            if what == "did":
                left.append(tuple(deed))
            else:
                left.remove(tuple(deed))
    for deed in reversed(left):
        undo(deed)
