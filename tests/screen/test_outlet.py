"""A stream that takes nothing holds nobody up, and of what is printed there nothing is lost without a word."""

import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from typing import TextIO

import pytest

from difnet.screen.outlet import LEFT_OUT, MOST_WAITING, Outlet
from tests.conftest import until


class Pipe:
    """A pipe of one page, which is full."""

    def __init__(self) -> None:
        self.readable, writable = os.pipe()
        fcntl.fcntl(writable, fcntl.F_SETPIPE_SZ, 4096)
        self.stream: TextIO = os.fdopen(writable, "w", encoding="utf-8")
        self.filling = self._fill(writable)
        os.set_blocking(self.readable, False)

    @staticmethod
    def _fill(fd: int) -> bytes:
        os.set_blocking(fd, False)
        done = 0
        with suppress(BlockingIOError):
            while True:
                done += os.write(fd, b"." * 512)
        os.set_blocking(fd, True)
        return b"." * done

    def drained(self) -> bytes:
        """What is in it, which has room then."""
        found = b""
        with suppress(BlockingIOError):
            while piece := os.read(self.readable, 65536):
                found += piece
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    it = Pipe()
    yield it
    with suppress(OSError):
        it.stream.close()
    with suppress(OSError):
        os.close(it.readable)


def read(pipe: Pipe, is_all: Callable[[str], object]) -> str:
    """What comes out of a pipe until it is all, without what had filled it."""
    found = bytearray()

    def told() -> str:
        found.extend(pipe.drained())
        return found.decode().lstrip(".")

    until(lambda: is_all(told()), "what was printed", 20)
    return told()


def test_lines_wait_for_a_reader_and_come_in_order(pipe):
    with redirect_stdout(pipe.stream), Outlet() as outlet:
        for n in range(500):
            print("line", n)
        assert not outlet.wait(0.05), "nobody has read"
        told = read(pipe, lambda told: told.endswith("line 499\n"))
    assert told == "".join(f"line {n}\n" for n in range(500))


def test_lines_without_room_are_left_out_and_counted_where_they_are_missing(pipe):
    """As many as there is room for, then a word of the others, then what comes later; none is half there."""
    before, after = (re.escape(part) for part in LEFT_OUT.split("{}"))
    with redirect_stdout(pipe.stream), Outlet():
        for n in range(MOST_WAITING + 500):
            print(n)
        told = read(pipe, re.compile(before + r"\d+ lines" + after).search)
        print("it goes on")
        told += read(pipe, lambda told: told.endswith("on\n"))
    kept, number, rest = re.split(before + r"(\d+) lines" + after, told)
    lines = kept.splitlines()
    assert lines == [str(n) for n in range(len(lines))] and len(lines) >= MOST_WAITING
    assert len(lines) + int(number) == MOST_WAITING + 500 and rest == "it goes on\n"


def test_the_end_waits_a_moment_and_no_longer(pipe):
    with redirect_stdout(pipe.stream), Outlet():
        print("not read in time")
        began = time.monotonic()
    assert 0.5 < time.monotonic() - began < 5
    read(pipe, lambda told: told == "not read in time\n")  # by the thread, which ends with it


def test_a_reader_that_left_costs_what_is_printed_and_is_told(pipe):
    os.close(pipe.readable)
    with redirect_stdout(pipe.stream), Outlet() as outlet:
        print("nobody reads it")
        print("nor this")
        assert outlet.wait() and isinstance(outlet.failure(), BrokenPipeError)


def test_data_waits_for_its_reader(pipe):
    """Whoever asks for a document gets the whole of it, however late: that is no screen."""
    document = "x" * 100_000
    with redirect_stdout(pipe.stream), Outlet() as outlet:
        writer = threading.Thread(target=outlet.deliver, args=(document,))
        writer.start()
        writer.join(1.5)
        assert writer.is_alive(), "nobody has read"
        assert read(pipe, lambda told: told.endswith("\n")) == document + "\n"
        writer.join(20)
