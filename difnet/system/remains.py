"""What is left on this machine of processes that should have ended? Found by their environment, and by their names."""

import json
import os
import platform
from pathlib import Path

import psutil

from difnet.system.holding import LOCK

RESOLUTION_S = 2.0  # Linux counts a process's beginning from its own start, which it tells in whole seconds


def left_processes(variable: str, value: str, before: float) -> tuple[list[tuple[int, str]], int, int]:
    """The processes in whose environment a variable has this value, but for this one and those that it came from.

    Args: `before`, seconds since the epoch: who began later is there for another end of it. So is, by that, who began
        within RESOLUTION_S before: a process that is left began with its run, or in its midst, while to accuse one of
        the next run would fail a run in which nothing is wrong.
    Returns: (number, name) of each, how many processes could be looked at, and how many could not.
    """
    ours = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    found, looked, closed = list[tuple[int, str]](), 0, 0
    for process in psutil.process_iter():
        if process.pid in ours:
            continue
        try:
            is_left = process.environ().get(variable) == value and process.create_time() <= before - RESOLUTION_S
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if is_left:
                found.append((process.pid, process.name()))
            looked += 1
        except psutil.AccessDenied:
            closed += 1
        except psutil.Error:  # it has ended since
            continue
    return found, looked, closed


def left_folders(folder: Path, scratch: Path, prefix: str) -> list[Path]:
    """The temporary folders of the process that held `folder` last, if that was here and has ended.

    Args: `scratch`, where temporary folders are; `prefix`, of their names, before the process's number.
    """
    try:
        told = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        pid, machine = int(told["pid"]), told["machine"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if machine != platform.node() or psutil.pid_exists(pid):
        return []
    return sorted(path for path in scratch.glob(f"{prefix}{pid}-*") if path.is_dir())
