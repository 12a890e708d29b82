"""This machine: one host process for all agents."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from difnet.config import RunConfig
from difnet.errors import EnvironmentLacks
from difnet.places import Contract, agents_text
from difnet.system.folders import own_prefix, sweep_orphans

STOP_S = 8.0
MEETING_PLACE = "difnet-"
LONGEST = len("ipc://") + 107  # what the kernel allows a socket's path


class Local:
    """One `difnet host` on this machine; it dies with us, and its agents with it.

    Everybody meets in a private folder's sockets; on loopback ports with `transport = "tcp"`, or where `registry` says.
    """

    def __init__(self, config: RunConfig, agents: int) -> None:
        self._agents = range(agents)
        self._folder: Path | None = None
        self._host: subprocess.Popen[bytes] | None = None
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
            self._command(), env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
        )
        return ""

    def poll(self) -> int | None:
        """The host's exit status once it has ended."""
        return self._host.poll() if self._host else None

    def stop(self) -> None:
        """End the host; it ends its agents."""
        if self._host and self._host.poll() is None:
            self._host.terminate()
            try:
                self._host.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._host.kill()
                self._host.wait()

    def logs(self) -> str:
        """Nothing: what the host prints goes to the user."""
        return ""


def local(config: RunConfig, agents: int) -> Local:
    """All agents on this machine."""
    return Local(config, agents)
