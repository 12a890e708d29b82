"""Where does difnet keep what it makes, and what is tidied up after those who cannot do it?"""

import os
import platform
import shutil
from pathlib import Path

import psutil


def cache_folder() -> Path:
    """Where compiled kernels are kept: $DIFNET_CACHE, else the user's cache folder."""
    base = os.environ.get("DIFNET_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "difnet"
    )
    return Path(base) / "kernels"


def running_folder() -> Path:
    """Where what runs on this machine is listed, for this user alone: beside the kernels, which outlives a login."""
    return cache_folder().parent / "running" / f"{os.getuid()}@{platform.node()}"


def state_folder() -> Path:
    """Where things are kept that must outlive a machine's restart, and nobody else has: the user's state folder."""
    return Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")) / "difnet"


def own_prefix(prefix: str) -> str:
    """A prefix for a temporary folder that says whose it is, so that `sweep_orphans` can tell when nobody needs it."""
    return f"{prefix}{os.getpid()}-"


def sweep_orphans(folder: Path, prefix: str) -> None:
    """Remove the temporary folders that processes made with `own_prefix` and did not live to remove."""
    for left in folder.glob(f"{prefix}*-*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
