"""How does a data set come from its owner? Resumed where it broke off, compared with what is known, whole or not.

A download grows in NAME.part and gets its name when it is whole. Only the standard library's urllib is used.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from difnet.data.sources import File, Source, forms
from difnet.errors import DataError, EnvironmentLacks
from difnet.system.progress import report_progress

DEADLINE_S = 30.0
PIECE = 2**18
TRIES = 5  # of one address, as long as each brings more of the file


class _Failed(Exception):
    """One attempt that did not bring a file; its text says why."""


def fetch(source: Source, place: Path, deadline_s: float = DEADLINE_S) -> list[Path]:
    """Bring every file of a data set that has an address into `place`; what is there and whole stays.

    A file of that name that is not known to be whole is replaced once the new one has come, and kept as NAME.old.

    Args: `deadline_s`, how long a server may be silent.
    Returns: the files that came.
    Raises: EnvironmentLacks, if the owner has no address for it, no address brings a file, or there is no room.
    """
    wanted = [f for f in source.files if (f.addresses or f.archive) and not _there(place, f)]
    if not any(f.addresses or f.archive for f in source.files):
        raise EnvironmentLacks(f"{source.name} cannot be fetched: {source.how}. Its folder is {place}")
    try:
        place.mkdir(parents=True, exist_ok=True)
        came = [_bring(f.name, f.addresses, f.size, f.sums, place, deadline_s) for f in wanted if f.addresses]
        for archive in dict.fromkeys(f.archive for f in wanted if f.archive):
            path = place / archive.name
            here = path.exists() and (not archive.sums or known(path, archive.sums))  # put there by hand, so left there
            if not here:
                _bring(archive.name, archive.addresses, archive.size, archive.sums, place, deadline_s)
            came += [_unpacked(path, f) for f in wanted if f.archive == archive]
            if not here:
                path.unlink()
    except OSError as error:
        raise EnvironmentLacks(
            f"cannot write into {place}: {error.strerror or error}. Make room there, or take another folder with --dir "
            f"and repeat the command: it goes on from what has come"
        ) from error
    return came


def sums_of(path: Path, kinds: Sequence[str] = ("sha256", "md5")) -> set[str]:
    """The checksums of a file, as "sha256:…" and "md5:…"."""
    running = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    size, done = path.stat().st_size, 0
    with open(path, "rb") as stream:
        while piece := stream.read(PIECE):
            for digest in running.values():
                digest.update(piece)
            done += len(piece)
            report_progress(f"checking {path.name}", done, size)
    return {f"{kind}:{digest.hexdigest()}" for kind, digest in running.items()}


def known(path: Path, sums: Sequence[str]) -> bool:
    """Whether a file has one of these checksums."""
    return bool(sums_of(path, sorted({s.partition(":")[0] for s in sums})) & set(sums))


def _there(place: Path, file: File) -> bool:
    """Whether nothing need come: the file is whole, or there is no telling."""
    found = forms(place, file)
    telling = found and found[0].name == file.name and not file.archive
    return bool(found) and (not telling or known(found[0], file.sums))


def _bring(
    name: str, addresses: Sequence[str], size: int | None, sums: Sequence[str], place: Path, deadline_s: float
) -> Path:
    """The file of that name, from the first address that gives it whole."""
    path, part, reasons = place / name, place / f"{name}.part", []
    with _alone(part) as stream:
        if not sums:
            stream.truncate(0)  # nothing would tell whether the two halves belong together
        for address in addresses:
            try:
                _from(address, name, stream, size, sums, deadline_s)
                break
            except _Failed as error:
                reasons.append(f"{address}: {error}")
        else:
            kept = stream.seek(0, os.SEEK_END)
            rest = f"{kept} bytes of it are kept in {part}, and the same command goes on from there"
            if not kept:
                part.unlink()
                rest = f"is there a network? You can fetch it elsewhere, put it into {place} and repeat the command"
            raise EnvironmentLacks(f"{name} could not be fetched; {rest}.\n  " + "\n  ".join(reasons))
        if path.exists():
            os.replace(path, place / f"{name}.old")
        os.replace(part, path)
    return path


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[BinaryIO]:
    """The unfinished file, open to be read and appended to, for this process alone."""
    with open(part, "a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EnvironmentLacks(f"{part} is being fetched by another command; wait for that one") from error
        yield stream


def _from(
    address: str, name: str, stream: BinaryIO, size: int | None, sums: Sequence[str], deadline_s: float
) -> None:
    """Let the rest of a file come from one address, again as long as that brings it further.

    Raises: _Failed, if it does not come whole. What is wrong is thrown away; what is only cut off is kept.
    """
    for _ in range(TRIES):
        before = stream.seek(0, os.SEEK_END)
        try:
            if size is None or before != size:
                _append(address, name, stream, size, deadline_s)
        except _Failed:
            if stream.seek(0, os.SEEK_END) <= before:
                raise
            continue
        if not sums or known(Path(stream.name), sums):
            return
        stream.seek(0)
        begins, came = stream.read(24), stream.seek(0, os.SEEK_END)
        stream.truncate(0)
        if not before:
            raise _Failed(f"another file than expected: {came} bytes that begin with {begins!r} and have none of the "
                          f"checksums {', '.join(sums)}; thrown away")  # fmt: skip
    raise _Failed(f"broke off {TRIES} times")


def _append(address: str, name: str, stream: BinaryIO, size: int | None, deadline_s: float) -> None:
    """Append to the file what an address has beyond it; a server that knows no ranges sends all of it again."""
    done = stream.seek(0, os.SEEK_END)
    headers = {"User-Agent": "difnet", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        answer = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=deadline_s)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:
            return  # there is nothing beyond: it is whole, or not the same file, as its checksum will tell
        raise _Failed(f"the server answers {error.code} {error.reason}") from error
    except Exception as error:  # whatever a stranger's server and the way to it may do
        raise _Failed(_why(error, deadline_s)) from error
    with answer:
        if done and not (answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")):
            stream.truncate(0)
            done = 0
        length = answer.headers.get("Content-Length", "")
        whole = done + int(length) if length.isdigit() else size
        _room(stream, whole, done)
        while piece := _piece(answer.read1, deadline_s):
            stream.write(piece)
            done += len(piece)
            report_progress(f"fetching {name}", done, whole)
            if size is not None and done > size:
                stream.truncate(0)
                raise _Failed(f"more than the {size} bytes that it should have; thrown away")
        stream.flush()
        if whole is not None and done < whole:
            raise _Failed(f"broke off after {done} of {whole} bytes")


def _piece(read: Callable[[int], bytes], deadline_s: float) -> bytes:
    try:
        return read(PIECE)
    except Exception as error:  # as above
        raise _Failed(_why(error, deadline_s)) from error


def _why(error: Exception, deadline_s: float) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"silent for {deadline_s:g} s"
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)


def _room(stream: BinaryIO, whole: int | None, done: int) -> None:
    place = Path(stream.name).parent
    if whole is not None and (free := shutil.disk_usage(place).free) < whole - done:
        raise EnvironmentLacks(f"{place} has no room: {whole - done} bytes are to come, and {free} are free. Make room "
                               f"there, or take another folder with --dir")  # fmt: skip


def _unpacked(archive: Path, file: File) -> Path:
    """A member of a zip under its own name, whole or not at all.

    Raises: DataError, if the zip is damaged or lacks it.
    """
    part, path = archive.with_name(f"{file.name}.part"), archive.with_name(file.name)
    try:
        with zipfile.ZipFile(archive) as opened:
            whole = opened.getinfo(file.member).file_size
            with opened.open(file.member) as source, open(part, "wb") as target:
                while piece := source.read(PIECE):
                    target.write(piece)
                    report_progress(f"unpacking {file.name}", target.tell(), whole)
    except (KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        part.unlink(missing_ok=True)
        archive.rename(archive.with_name(f"{archive.name}.wrong"))
        raise DataError(f"{archive} is no zip with {file.member!r} in it, or damaged: {error}. It is kept as "
                        f"{archive.name}.wrong; repeat the command to fetch it anew") from error  # fmt: skip
    if path.exists():
        os.replace(path, path.with_name(f"{path.name}.old"))
    os.replace(part, path)
    return path


