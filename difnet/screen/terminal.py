"""What may be drawn on this terminal, and when? A live screen where one can be drawn, told line by line elsewhere.

A container's terminal has no size until somebody attaches to it: then the lines become the screen, under way. One may
also go away, as a pipe's reader may: then nothing is shown any more, and what was to be shown goes on.
"""

import io
import os
import signal
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

FRAME_S, BREATH_S = 0.5, 0.05  # between two drawings; for a terminal to take one
DRAWN_WITH = "─▁█·◆"


def drawable() -> bool:
    """Whether stdout is a terminal on which a screen can be drawn at this moment.

    None is while the terminal has no size (nobody is attached to the container), nor where its cursor cannot be moved
    or it has not the characters that a screen is drawn with. The environment is not asked for more: FORCE_COLOR wants
    colours in a pipe, and no screen.
    """
    if not _on_terminal() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return False
    try:
        DRAWN_WITH.encode(sys.stdout.encoding or "utf-8")  # which a screen that is drawn already hides
    except UnicodeEncodeError:
        return False
    return all(os.get_terminal_size(sys.stdout.fileno()))


def _on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def console() -> "Console":
    """What tables are printed with: as rich finds stdout, but without escape sequences on a terminal of no size."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # like any other failure, where rich would end the process

    return Plain(highlight=False, emoji=False, markup=False, force_terminal=drawable() if _on_terminal() else None)


def settle_streams() -> None:
    """Make the standard streams what a command can rely on: a character that an encoding lacks becomes "?".

    One that was closed leads nowhere: a file or a socket that got its number would have all that is printed in it. Of
    these `sys.stdout` stays None, so that what must be delivered there can be missed.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
    if sys.stderr is None:  # print would take stdout in its place
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def attempt(show: Callable[..., object], *what: Any) -> OSError | None:
    """Show something. Where that cannot be done any more, what is shown on that stream from now on goes nowhere.

    A terminal that was closed, a reader that has left its pipe, a full disk behind a redirection.

    Returns: the error, if any.
    """
    try:
        show(*what)
    except OSError as error:
        for stream in (sys.__stdout__, sys.__stderr__):
            _hush_if_broken(stream)
        return error
    return None


def _hush_if_broken(stream: TextIO | None) -> None:
    """What it could not write is still in it, and would fail again when the process ends."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


class Screen:
    """Shows events on stdout: drawn live while a screen can be drawn there, told by `say` one by one while not.

    Which of the two is decided anew at each event, and when the terminal says that its size has changed. None of it
    raises an OSError: the first is kept as `failure`, and what cannot be shown is not.

    Args: `wait` waits until what was shown is on the terminal, within limits, and returns whether it is. While it is
        not, nothing new is drawn, and then the newest.
    """

    def __init__(self, say: Callable[[Any], None], wait: Callable[..., bool] = lambda *limits: True) -> None:
        from difnet.screen.dashboard import View

        self.view = View()
        self.failure: OSError | None = None
        self._say, self._wait = say, wait
        self._live: Live | None = None
        self._drawn_at = 0.0
        self._at_work = self._overtaken = False
        self._before: Any = None

    def __enter__(self) -> "Screen":
        try:
            self._before = signal.signal(signal.SIGWINCH, lambda number, frame: self._resized())
        except ValueError:  # not in the main thread: the next event will do
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGWINCH, self._before)
        if self._live is not None:  # what came since the last drawing stays on the screen
            self._drawn_at = 0.0
            self._wait()
            self.show()
            self._attempt(self._end_live)

    def show(self, event: Any = None) -> None:
        """Take in an event and show it; with none, draw the screen again if there is one."""
        self._at_work, self._overtaken = True, False
        if event is not None:
            from difnet.screen.dashboard import update

            self.view = update(self.view, event)
        self._attempt(self._show, event)
        self._at_work = False
        if self._overtaken:
            self._resized()

    def _attempt(self, step: Callable[..., None], *what: Any) -> None:
        error = attempt(step, *what)
        self.failure = self.failure or error

    def _show(self, event: Any) -> None:
        if drawable():
            self._draw()
        else:
            self._end_live()
            if event is not None:
                self._say(event)

    def _resized(self) -> None:
        """A signal comes between any two steps of the main thread, also amid a drawing, which then is done again."""
        if self._at_work:
            self._overtaken = True
        else:
            self._drawn_at = 0.0
            self.show()

    def _draw(self) -> None:
        from rich.live import Live

        from difnet.screen.dashboard import render

        if self._live is None:
            self._live = Live(console=console(), auto_refresh=False, vertical_overflow="visible")
            self._live.start()
            self._drawn_at = 0.0
        is_due = time.monotonic() - self._drawn_at > FRAME_S or self.view.ended or not self.view.ready
        if is_due and self._wait(BREATH_S, BREATH_S):
            room = self._live.console.size
            self._live.update(render(self.view, room.width, room.height - 1), refresh=True)
            self._drawn_at = time.monotonic()

    def _end_live(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()


def print_table(header: list[str] | None, rows: list[list[Any]]) -> None:
    """Columns on stdout; colour only where a terminal shows it, and whole lines where none does."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from difnet.record.formatting import harmless

    console = Console(highlight=False, soft_wrap=False)
    table = Table(box=None, show_header=header is not None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, word in enumerate(header or [""] * len(rows[0])):
        numbers = bool(rows) and all(isinstance(row[place], int) for row in rows)
        table.add_column(word, style="bold" if place == 0 else "", justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(Text("" if cell is None else harmless(str(cell))) for cell in row))
    if not console.is_terminal:
        console.width = 200
    console.print(table)
