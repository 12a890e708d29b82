"""Can everything be written that a run writes?"""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from difnet.doctor.finding import FAIL, OK, WARN, Finding
from difnet.record.formatting import bytes_text, printable

LEAST_FREE, SOME_FREE = 64 * 2**20, 2**30
SOCKET_PATH_BYTES, SOCKET_NAME = 107, "difnet-4194304-abcdefgh/registry"  # of an ipc socket, in the temporary folder


def refusal(path: Path) -> str:
    """Why nothing can be written into a folder that is there, or can be made; "" if it can."""
    try:
        with tempfile.TemporaryFile(dir=nearest(path)):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def nearest(path: Path) -> Path:
    """A path, or what there is of it.

    Raises: OSError, where it may not be looked at.
    """
    path = path.absolute()
    for each in (path, *path.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(each)
            return each
    return path


def folder(path: Path, otherwise: str, remedy: str) -> Finding:
    """A folder that must be written to; what it means if it cannot be, and what then."""
    if why := refusal(path):
        return Finding(otherwise, f"{path.absolute()} cannot be written to ({why})", f"make it writable, or {remedy}")
    free = shutil.disk_usage(nearest(path)).free
    seen = f"{path.absolute()}: {'writable' if path.exists() else 'can be made'}, {bytes_text(free)} free"
    if free < SOME_FREE:
        return Finding(otherwise if free < LEAST_FREE else WARN, seen, f"free some space, or {remedy}")
    return Finding(OK, seen)


def temporary() -> Finding:
    """The folder for temporary files, where agents of one machine meet."""
    try:
        path = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return Finding(FAIL, printable(str(error)), "make /tmp writable, or point TMPDIR to a folder that is")
    if len(os.fsencode(path / SOCKET_NAME)) > SOCKET_PATH_BYTES:
        return Finding(FAIL, f"{path}: too long a name for the sockets in it, whose paths have at most "
                             f"{SOCKET_PATH_BYTES} bytes", "set TMPDIR=/tmp, or use --transport tcp")  # fmt: skip
    return folder(path, FAIL, "set TMPDIR to another")


def cache() -> Finding:
    """Where compiled meta-gradients are kept."""
    from difnet.system.folders import cache_folder

    finding = folder(cache_folder(), WARN, "set DIFNET_CACHE to another; until then every step is traced, and slower")
    kept = len(list(cache_folder().glob("*/kernel.so")))
    return finding._replace(seen=f"{finding.seen}, {kept} compiled kernels") if finding.state == OK else finding


def data_sets(data_dir: str | None) -> Finding:
    """Where data sets lie; it is only read."""
    from difnet.data.home import home

    path = home(data_dir)
    try:
        if not path.exists():
            return Finding(OK, f"{path}: not there; only --task with real data needs it (difnet data get)")
        sets = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    except OSError as error:
        return Finding(WARN, f"{path} cannot be read: {error.strerror}", "make it readable, or give --data-dir DIR")
    return Finding(OK, f"{path}: {', '.join(sets) or 'empty'}")
