"""This machine: one host process for all agents."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Self

from difnet.config import RunConfig
from difnet.errors import EnvironmentLacks
from difnet.places import Contract, agents_text
from difnet.system.folders import own_prefix, sweep_orphans
from difnet.system.lifetime import LINES_KEPT, last_words

STOP_S, AT_ONCE_S, LONGEST_LINE = 8.0, 2.0, 400
MEETING_PLACE = "difnet-"
LONGEST = len("ipc://") + 107  # what the kernel allows a socket's path


class Local:
    """One `difnet host` on this machine; it dies with us, and its agents with it.

    Everybody meets in a private folder's sockets; on loopback ports with `transport = "tcp"`, or where `registry` says.
    """

    sees_data = True  # what the launcher calls by a path, its host does too

    def __init__(self, config: RunConfig, agents: int) -> None:
        self._agents = range(agents)
        self._folder: Path | None = None
        self._host: subprocess.Popen[bytes] | None = None
        self._listener = threading.Thread(target=self._pass_on, name="host's words", daemon=True)
        self._last: deque[str] = deque(maxlen=LINES_KEPT)
        self.meeting = config.registry or ("tcp://127.0.0.1:*" if config.transport == "tcp" else "")

    def __enter__(self) -> Self:
        if not self.meeting:
            place = Path(tempfile.gettempdir())
            sweep_orphans(place, MEETING_PLACE)
            self._folder = Path(tempfile.mkdtemp(prefix=own_prefix(MEETING_PLACE)))
            self.meeting = f"ipc://{self._folder}/registry"
            if len(self.meeting) > LONGEST:
                self.__exit__()
                raise EnvironmentLacks(
                    f"the folder for temporary files has too long a name for sockets: {place}, and a socket's path may "
                    f"have {LONGEST - len('ipc://')} bytes in all. Set TMPDIR to a shorter one, or use --transport tcp"
                )
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "difnet", "host", "--bound-to", str(os.getpid())]

    def plan(self) -> str:
        """The host's command."""
        return f"DIFNET_AGENTS={agents_text(self._agents)} {shlex.join(self._command())}"

    def start(self, contract: Contract) -> str:
        """Start the host."""
        told = contract.variables(self._agents)
        environment = {**os.environ, **told, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._host = subprocess.Popen(
            self._command(), env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._listener.start()
        return ""

    def _pass_on(self) -> None:
        """Show the user what the host prints, and keep the last of it."""
        assert self._host and self._host.stdout
        with self._host.stdout as printed:
            for piece in printed:
                line = piece.decode(errors="replace")
                self._last.append(line.rstrip()[-LONGEST_LINE:])
                with suppress(OSError, ValueError):  # nobody reads it any more
                    print(line, end="", file=sys.stderr, flush=True)

    def poll(self) -> int | None:
        """The host's exit status once it has ended."""
        return self._host.poll() if self._host else None

    def stop(self, at_once: bool = False) -> None:
        """End the host; it ends its agents, and they end with it."""
        if self._host and self._host.poll() is None:
            self._host.terminate()
            try:
                self._host.wait(AT_ONCE_S if at_once else STOP_S)
            except subprocess.TimeoutExpired:
                self._host.kill()
                self._host.wait()

    def logs(self) -> str:
        """The last lines that the host printed."""
        if self._host and self._host.poll() is not None:
            self._listener.join(1.0)  # somebody whom it started may hold the other end
        return last_words(self._last)


def local(config: RunConfig, agents: int) -> Local:
    """All agents on this machine."""
    return Local(config, agents)
