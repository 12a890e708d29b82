"""This machine: one host process for all agents."""

import os
import subprocess
import sys
from collections.abc import Sequence

STOP_S = 8.0


class Local:
    """One `difnet host` on this machine; it dies with us, and its agents with it."""

    def __init__(self, agents: Sequence[int], registry: str, token: str, listen: str) -> None:
        command = [sys.executable, "-m", "difnet", "host", "--agents", f"{agents[0]}-{agents[-1]}",
                   "--registry", registry, "--listen", listen]  # fmt: skip
        environment = {**os.environ, "DIFNET_TOKEN": token, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._host = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
        )

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def poll(self) -> int | None:
        """The host's exit status once it has ended."""
        return self._host.poll()

    def stop(self) -> None:
        """End the host; it ends its agents."""
        if self._host.poll() is None:
            self._host.terminate()
            try:
                self._host.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._host.kill()
                self._host.wait()


def local(agents: Sequence[int], registry: str, token: str, listen: str) -> Local:
    """Start all agents on this machine."""
    return Local(agents, registry, token, listen)
