"""Forked processes that start together, end with their parent, and report; imports nothing of difnet."""

import ctypes
import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

START_S, END_S = 300.0, 900.0  # nobody waits longer for all to be ready, or to end

Work = Callable[[int, Callable[[], None]], dict[str, Any]]  # (k, wait_for_start) -> what it reports


def forked(agents: int, work: Work) -> list[dict[str, Any]]:
    """`work` in one forked process for each agent; `wait_for_start` returns when all have called it.

    Raises: TimeoutError or ChildProcessError, if one of them does not report; all are ended then.
    """
    parent, (go, let_go), pids, said = os.getpid(), os.pipe(), [], {}
    try:
        for k in range(agents):
            reads, writes = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(let_go)
                _be_child(parent, k, work, go, writes)
            os.close(writes)
            pids.append(pid)
            said[reads] = b""
        _read(said, b"!", START_S)
        os.write(let_go, b"!" * agents)
        _read(said, b"}", END_S)
        return [json.loads(text[1:]) for text in said.values()]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for fd in (go, let_go, *said):
            os.close(fd)


def rate(iterations: int, reports: list[dict[str, Any]]) -> dict[str, float]:
    """Rounds per second, from the first start to the last end, and processor time, from everybody's `timed`."""
    seconds = max(r["end"] for r in reports) - min(r["start"] for r in reports)
    cpu_s = sum(r["cpu_s"] for r in reports)
    return {"rounds_per_s": iterations / seconds, "cpu_s_per_agent_round": cpu_s / len(reports) / iterations}


def timed(work: Callable[[], None]) -> dict[str, float]:
    """When it started and ended, and the processor time it took, in seconds."""
    start, cpu_start = time.monotonic(), time.process_time()
    work()
    return {"start": start, "end": time.monotonic(), "cpu_s": time.process_time() - cpu_start}


def _read(said: dict[int, bytes], mark: bytes, timeout_s: float) -> None:
    """Until every agent's words end with the mark."""
    deadline = time.monotonic() + timeout_s
    while waiting := [fd for fd, text in said.items() if not text.endswith(mark)]:
        ready = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            raise TimeoutError(f"{len(waiting)} of {len(said)} agents said nothing in {timeout_s:.0f} s")
        for fd in ready:
            text = os.read(fd, 4096)
            if not text:
                raise ChildProcessError("an agent failed; its traceback is above")
            said[fd] += text


def _be_child(parent: int, k: int, work: Work, go: int, writes: int) -> None:
    def wait_for_start() -> None:
        os.write(writes, b"!")
        if not select.select([go], [], [], START_S)[0]:
            raise TimeoutError("the start never came")
        os.read(go, 1)

    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getppid() == parent:
            os.write(writes, json.dumps(work(k, wait_for_start)).encode())
            os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
