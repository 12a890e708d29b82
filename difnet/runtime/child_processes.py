"""The agents' processes as their host holds them: forked, listened to, and every one of them ended."""

import codecs
import os
import signal
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, Self

from difnet.system.lifetime import AGENT, LINES_KEPT, die_with_parent, how_it_ended, last_words, name_process
from difnet.system.limits import scarce

LOG_TAIL, PIECE = 4000, 2**16  # characters, bytes
CRASHED = 70  # an agent's exit status after an error that nobody foresaw
MOST_FDS = 2**20
UTF8 = codecs.getincrementaldecoder("utf-8")
Tell = Callable[[str, dict[str, Any]], object]


@dataclass(slots=True)
class Child:
    """One agent's process."""

    agent: int
    incarnation: int
    pid: int
    ended: int  # a file descriptor, readable once it has ended
    out: int  # another, of what it prints
    is_mute: bool = False  # it has closed that, and lives on
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))
    line: str = ""  # the one that it has begun
    decode: Callable[[bytes], str] = field(default_factory=lambda: UTF8("replace").decode)

    def read(self) -> str:
        """What it has printed since the last time."""
        try:
            piece = os.read(self.out, PIECE)
        except BlockingIOError:
            return ""
        self.is_mute, text = not piece, self.decode(piece)
        *lines, line = (self.line + text).split("\n")
        self.line = line[-LOG_TAIL:]  # somebody may never end one
        self.last.extend(lines)
        return text

    def tail(self) -> str:
        """The last lines that it printed."""
        return last_words([*self.last, *([self.line] if self.line else [])])[-LOG_TAIL:]


class Children:
    """The agents of one host; use as a context manager, which ends whoever is left.

    `tell` hears what they print (log: agent, text) and how they end (exited: agent, incarnation,
    status, log_tail, returns).
    `replace` says whether one that ended so (agent, its words) will have a successor.
    """

    def __init__(self) -> None:
        self.tell: Tell = lambda kind, body: None
        self.replace: Callable[[int, str], bool] = lambda agent, status: False
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

    def fork(self, k: int, run: Callable[[int], int], incarnation: int = 0) -> None:
        """Start agent k as a process of its own, in which `run` is told how many there were before.

        Raises: OSError, if this machine does not allow another one; nothing is left of it then.
        """
        host = os.getpid()
        readable, writable = os.pipe()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of a thread, which rests
                pid = os.fork()
        except OSError:
            os.close(readable)
            os.close(writable)
            raise
        if pid == 0:
            status = CRASHED
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)  # first: the host's own way to end is not an agent's
                die_with_parent(host)
                name_process(f"{AGENT}{k}")
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                os.dup2(writable, 1)
                os.dup2(writable, 2)
                os.closerange(3, MOST_FDS)  # the host's: pipes of its other agents, sockets if it has any by now
                status = run(incarnation)
            except BaseException as error:
                if lacking := scarce(error):
                    print(f"agent {k}: {lacking}", file=sys.stderr)
                else:
                    traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        os.close(writable)
        os.set_blocking(readable, False)
        try:
            self._children[k] = Child(k, incarnation, pid, os.pidfd_open(pid), readable)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(readable)
            raise

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
        self.replace = lambda agent, status: False
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
        told = how_it_ended(os.waitstatus_to_exitcode(status))
        returns = self.replace(child.agent, told)
        self.failed += told != "exit status 0" and not returns
        self.tell("exited", {"agent": child.agent, "incarnation": child.incarnation, "status": told,
                             "log_tail": child.tail(), "returns": returns})  # fmt: skip
