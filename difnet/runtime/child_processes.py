"""The agents' processes as their host holds them: forked, listened to, and every one of them ended."""

import codecs
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, Self

from difnet.system.lifetime import die_with_parent

LOG_TAIL_LINES, LOG_TAIL, PIECE = 12, 2**15, 2**16
UTF8 = codecs.getincrementaldecoder("utf-8")
Tell = Callable[[str, dict[str, Any]], object]


@dataclass(slots=True)
class Child:
    """One agent's process."""

    agent: int
    pid: int
    ended: int  # a file descriptor, readable once it has ended
    out: int  # another, of what it prints
    is_mute: bool = False  # it has closed that, and lives on
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LOG_TAIL_LINES))
    line: str = ""  # the one that it has begun
    decode: Callable[[bytes], str] = field(default_factory=lambda: UTF8("replace").decode)

    def read(self) -> str:
        """What it has printed since the last time."""
        try:
            piece = os.read(self.out, PIECE)
        except BlockingIOError:
            return ""
        self.is_mute, text = not piece, self.decode(piece)
        *lines, self.line = (self.line + text).split("\n")
        self.last.extend(lines)
        return text

    def tail(self) -> str:
        """The last lines that it printed."""
        return "\n".join([*self.last, *([self.line] if self.line else [])][-LOG_TAIL_LINES:])[-LOG_TAIL:]


class Children:
    """The agents of one host; use as a context manager, which ends whoever is left.

    `tell` hears what they print (log: agent, text) and how they end (exited: agent, status, log_tail).
    """

    def __init__(self) -> None:
        self.tell: Tell = lambda kind, body: None
        self.failed = 0
        self._children: dict[int, Child] = {}  # by agent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def __len__(self) -> int:
        return len(self._children)

    @property
    def fds(self) -> list[int]:
        """The file descriptors that become readable when `attend` has something to do."""
        return [fd for child in self._children.values() for fd in (child.ended, child.out)[: 2 - child.is_mute]]

    def fork(self, k: int, run: Callable[[], int]) -> None:
        """Start agent k as a process of its own."""
        host = os.getpid()
        readable, writable = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                die_with_parent(host)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                os.dup2(writable, 1)
                os.dup2(writable, 2)
                for fd in (readable, writable, *self.fds):
                    os.close(fd)
                status = run()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        os.close(writable)
        os.set_blocking(readable, False)
        self._children[k] = Child(k, pid, os.pidfd_open(pid), readable)

    def attend(self, ready: Iterable[Any]) -> None:
        """Hand on what was printed, and say who has ended, of those whose descriptors are ready."""
        ready = set(ready)
        for child in [*self._children.values()]:
            if child.out in ready and (text := child.read()):
                self.tell("log", {"agent": child.agent, "text": text})
            if child.ended in ready:
                self._bury(child)

    def end(self) -> None:
        """Ask those who are left to end, then end them."""
        for sig, patience in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
            for child in self._children.values():
                os.kill(child.pid, sig)
            deadline = time.monotonic() + patience
            while self._children and time.monotonic() < deadline:
                self.attend(wait(self.fds, 0.1))

    def _bury(self, child: Child) -> None:
        del self._children[child.agent]
        while text := child.read():
            self.tell("log", {"agent": child.agent, "text": text})
        _, status = os.waitpid(child.pid, 0)
        os.close(child.ended)
        os.close(child.out)
        told = in_words(status)
        self.failed += told != "exit status 0"
        self.tell("exited", {"agent": child.agent, "status": told, "log_tail": child.tail()})


def in_words(status: int) -> str:
    """How a process ended, from what `waitpid` says.

    >>> in_words(9), in_words(256)
    ('killed by SIGKILL', 'exit status 1')
    """
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.WEXITSTATUS(status)}"
