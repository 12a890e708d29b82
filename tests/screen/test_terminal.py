"""A run's events on a real terminal, whose size the test changes as `docker attach` would.

The process under test emits its next event for each line that it reads, so nothing here depends on time.
"""

import codecs
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator

import pytest

from difnet.screen.lines import plain_line
from tests import fake_run
from tests.conftest import environment, until

PROGRAM = """
import sys
from difnet.cli import following
from difnet.errors import ConfigError
from tests import fake_run

def run(config, listen):
    for event in fake_run.events(6, iterations=100):
        if sys.stdin.readline() == "refuse\\n":
            raise ConfigError("no such word")
        listen(event)
    return event.summary

sys.exit(following.follow(run, {"print_config": False, "quiet": False, "as_json": False}, None))
"""
EVENTS = list(fake_run.events(6, iterations=100))
SAID = [line for event in EVENTS if (line := plain_line(event)) is not None]
ESCAPE, CURSOR_BACK = "\x1b", "\x1b[?25h"


class Terminal:
    """A process on a terminal of its own, with no size at first, as a container has it."""

    def __init__(self, **extra: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=environment(**{"TERM": "xterm", "COLUMNS": "", **extra}),
            stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(1, termios.TIOCSCTTY, 0),  # so that it hears of a new size
        )  # fmt: skip
        os.close(theirs)
        os.set_blocking(self._ours, False)
        self._bytes = codecs.getincrementaldecoder("utf-8")()
        self.shown = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def go_on(self, events: int = 1, word: str = "") -> None:
        """Have it emit its next events."""
        assert self.process.stdin
        self.process.stdin.write(f"{word}\n".encode() * events)
        self.process.stdin.flush()

    def wait_for(self, text: str) -> str:
        """What it has shown since the last wait, when this is among it."""
        until(lambda: text in self._more(), f"{text!r} on the terminal", 30)
        shown, self.shown = self.shown, ""
        return shown

    def rest(self) -> str:
        """What it shows until it ends."""
        until(lambda: self._more() is not None and self.process.poll() is not None, "the end of the process", 30)
        return self._more()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)
        os.close(self._ours)

    def _more(self) -> str:
        try:
            while piece := os.read(self._ours, 65536):
                self.shown += self._bytes.decode(piece)
        except BlockingIOError:
            pass
        except OSError:  # nobody has the other end any more
            pass
        return self.shown


def text_of(shown: str) -> list[str]:
    """The lines of what a terminal was sent, without what moves its cursor or colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "").split("\n")


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def make(**extra: str) -> Terminal:
        opened.append(Terminal(**extra))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.mark.parametrize("extra", [{}, {"FORCE_COLOR": "1"}, {"COLUMNS": "100", "LINES": "30"}], ids=str)
def test_a_terminal_of_no_size_gets_the_lines_of_a_pipe(terminal, extra):
    it = terminal(**extra)
    it.go_on(len(EVENTS))
    told = it.rest()
    assert ESCAPE not in told and it.process.returncode == 0
    lines = told.split("\r\n")
    assert lines[: len(SAID)] == SAID
    assert any(line.startswith("done  ring6_diffusion_s0") for line in lines[len(SAID) :]), "the table comes last"


def test_lines_become_the_screen_when_the_terminal_gets_a_size_and_lines_again_when_it_loses_it(terminal):
    it = terminal()
    it.go_on(4)
    assert ESCAPE not in it.wait_for(f"{SAID[3]}\r\n")
    it.resize(100, 40)  # somebody attaches; no event comes
    assert "ring6_diffusion_s0" in it.wait_for("no validation yet")
    it.resize(0, 0)  # and leaves
    it.wait_for(CURSOR_BACK)
    it.go_on(len(EVENTS) - 4)
    told = it.rest()
    assert ESCAPE not in told and told.split("\r\n")[: len(SAID) - 4] == SAID[4:]
    assert it.process.returncode == 0


def test_a_terminal_with_a_size_gets_the_screen_and_no_lines(terminal):
    it = terminal()
    it.resize(100, 40)
    it.go_on(len(EVENTS))
    told = it.rest()
    drawn, _, table = told.rpartition(CURSOR_BACK)
    assert "100/100  done in" in drawn and SAID[4] not in told and "done" in table and "Next:" in table


def test_a_screen_that_shrinks_is_drawn_to_the_new_size_at_once(terminal):
    it = terminal()
    it.resize(100, 40)
    it.go_on(3)
    wide = it.wait_for("\x1b[0m3/6 agents ready")  # the last line
    it.resize(30, 40)
    narrow = it.wait_for("\x1b[0m3/6 agents ready")
    assert max(map(len, text_of(wide))) > 60 and max(map(len, text_of(narrow))) <= 30


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(terminal):
    it = terminal(TERM="dumb")
    it.resize(100, 40)
    it.go_on(len(EVENTS))
    assert ESCAPE not in it.rest()


def test_a_refusal_before_the_first_event_draws_no_screen(terminal):
    it = terminal()
    it.resize(100, 40)
    it.go_on(word="refuse")
    told = it.rest()
    assert "ConfigError: no such word" in told and ESCAPE not in told.partition("Traceback")[0]


def test_watching_on_a_pipe_prints_lines_also_where_colours_are_forced(difnet, tmp_path):
    fake_run.write_events(tmp_path / "runs" / "one", EVENTS)
    told = difnet("watch", "one", FORCE_COLOR="1").out
    assert told.splitlines()[: len(SAID)] == SAID and "\x1b[?25l" not in told
