"""What is this process's machine, and what has the process used of it?"""

import os
import platform
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from difnet.system.folders import cache_folder, own_prefix

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def cpu_seconds() -> float:
    """Processor time this process has used, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def memory_pss() -> int | None:
    """This process's proportional set size in bytes: what it holds alone, and its share of what it shares."""
    try:
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def memory_peak() -> int:
    """The most memory this process ever held, in bytes: its resident set, with what it shares with others."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def torch_settings(threads: int = 1) -> Iterator[None]:
    """No gradients kept, and one thread: forty agents share a few cores, and equal bits need equal summation.

    What torch's compiler keeps goes to our cache, not to the folder for temporary files.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with _compilers_cache(), torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _compilers_cache() -> Iterator[None]:
    """A folder that torch can make when it imports its compiler; for this time alone where our cache cannot be used."""
    if VARIABLE in os.environ:
        yield
        return
    kept = cache_folder() / "inductor"
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError:
        with TemporaryDirectory(prefix=own_prefix("difnet-"), ignore_cleanup_errors=True) as scratch:
            os.environ[VARIABLE] = scratch
            try:
                yield
            finally:
                del os.environ[VARIABLE]
    else:
        os.environ[VARIABLE] = str(kept)
        yield


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """What a reader needs to know of the machine to make sense of a run's figures."""
    import zmq

    return {
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
        "pyzmq": zmq.__version__, "libzmq": zmq.zmq_version(), "system": platform.platform(),
        "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
    }  # fmt: skip
