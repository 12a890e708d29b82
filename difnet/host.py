"""One host: forks its agents from one prepared process, supervises them, and ends every one of them.

Everything heavy (torch, the model, the compiled kernels) is loaded once, here, before the first fork. No thread and no
socket is open while forking.
"""

import gc
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from difnet.config import load
from difnet.data.progress import heard_by, spoken
from difnet.errors import ConfigError, DifnetError, EnvironmentLacks
from difnet.gathering import Held
from difnet.lifetime import die_with_parent
from difnet.machine import environment, process_for_tensors
from difnet.process import Assignment, run_agent
from difnet.registry import Control
from difnet.scoring import check_target, score
from difnet.steps import compile_steps, describe
from difnet.topology import Topology
from difnet.workload import Workload, build, check_device

GRACE_S = 3.0
DEVICE_TIMEOUT_S = 60.0
GONE_S = 1.0  # a launcher that is being killed takes a moment to be gone
LOG_TAIL_LINES = 12


@dataclass(slots=True)
class Child:
    """One agent's process as its host knows it."""

    agent: int
    pid: int
    fd: int  # readable once it has ended
    log: Path


def run_host(agents: Sequence[int], registry: str, token: str, listen: str) -> int:
    """Fork the agents of this host and stay until all have ended. Returns an exit status."""
    parent, asked = os.getppid(), []
    launcher = os.pidfd_open(parent)  # readable once the launcher has ended

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher's death is told again for each of its threads
        asked.append(True)
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)
    die_with_parent(parent, signal.SIGTERM)
    try:
        with process_for_tensors():
            return _fork_and_supervise(agents, registry, token, listen, launcher)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # we are ending already
        if listen.startswith("ipc://") and wait([launcher], GONE_S if asked else 0):  # killed: tidy up in its place
            shutil.rmtree(Path(listen.removeprefix("ipc://")).parent, ignore_errors=True)


def _fork_and_supervise(agents: Sequence[int], registry: str, token: str, listen: str, launcher: int) -> int:
    try:
        with Control(registry, token) as control:
            assignment, folder = prepare(control, registry, token, listen)
    except (ConfigError, EnvironmentLacks) as error:
        return error.exit_code  # the registry knows the reason, and tells the user
    gc.collect()
    gc.freeze()
    children = {}
    try:
        for k in agents:
            child = fork_agent(k, assignment, folder)
            children[child.fd] = child
        with Control(registry, token) as control:
            control.say("host", {"agents": list(agents)})
            return supervise(children, control, launcher, assignment)
    finally:
        end_all(children)


def prepare(control: Control, registry: str, token: str, listen: str) -> tuple[Assignment, Path]:
    """Ask the registry what to run, and load all of it.

    Returns: what every agent inherits, and the run's folder.
    """
    control.say("configuration?", {})
    run = control.expect("run", 30.0)
    asked = load(settings=run["config"])
    config = asked.model_copy(update={"device": "cpu"})  # another device would not survive the fork
    topology = Topology.from_dict(run["topology"])

    def say(text: str) -> None:
        control.say("note", {"text": text})

    try:
        if asked.device != "cpu":
            check_device_aside(asked.device)
        with heard_by(spoken(say)):
            workload = build(config, topology.agents, topology.hub)
            check_target(workload)
            steps = compile_steps(workload, say)
    except DifnetError as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher answers with it, and we are ending already
        control.say("failed", {"reason": str(error), "exit_code": error.exit_code})
        raise
    control.say("prepared", {**describe(workload, steps), "environment": environment()})
    hashes = {**run["hashes"], "model": workload.fingerprint()}
    assignment = Assignment(workload, steps, topology, hashes, run["run"], registry, token, listen, asked.device)
    return assignment, Path(run["folder"])


def check_device_aside(device: str) -> None:
    """Ask a child whether a device can be used: what is begun on one does not survive the fork of the agents.

    Raises: EnvironmentLacks, if it cannot, or the child does not say so in time.
    """
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            check_device(device)
            os._exit(0)
        except EnvironmentLacks as error:
            os.write(writable, str(error).encode())
        finally:
            os._exit(1)
    os.close(writable)
    fd = os.pidfd_open(pid)
    answered = wait([fd], DEVICE_TIMEOUT_S)
    os.kill(pid, signal.SIGKILL)  # what has ended already keeps the status it ended with
    _, status = os.waitpid(pid, 0)
    with open(readable, "rb") as pipe:
        reason = pipe.read().decode()
    os.close(fd)
    if status:
        silent = "it crashed" if answered else f"it did not answer within {DEVICE_TIMEOUT_S:.0f} s"
        raise EnvironmentLacks(reason or f"--device {device} cannot be used here: {silent}. Leave it away for cpu.")


def fork_agent(k: int, assignment: Assignment, folder: Path) -> Child:
    """Start agent k as a process of its own; what it prints goes to its log."""
    log = folder / "agents" / f"{k:03d}" / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    host = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            die_with_parent(host)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(target, 1)
            os.dup2(target, 2)
            status = run_agent(k, assignment)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return Child(k, pid, os.pidfd_open(pid), log)


def supervise(children: dict[int, Child], control: Control, launcher: int, assignment: Assignment) -> int:
    """Report who ends and how, test the models that came out when asked to, and stay until that is over.

    It is over when the registry says so, or the launcher is gone, or nothing was asked for a while after all had ended.
    """
    failed = 0
    ending_since: float | None = None
    idle_since = time.monotonic()
    while children or (ending_since is None and time.monotonic() - idle_since < GRACE_S):
        ready = wait([control.socket.FD, launcher, *children], 0.25)
        for fd in [fd for fd in ready if fd in children]:
            child = children.pop(fd)
            status = reap(child)
            failed += status != "exit status 0"
            control.say("exited", {"agent": child.agent, "status": status, "log_tail": tail(child.log)})
        while heard := control.hear(0):
            kind, body = heard
            if kind == "end":
                ending_since = ending_since or time.monotonic()
            elif kind == "score":
                say_scores(assignment.on_device(), control, body)
                idle_since = time.monotonic()
        if children:
            idle_since = time.monotonic()
        if ending_since is not None and time.monotonic() - ending_since > GRACE_S:
            break
        if launcher in ready:
            break
    return 1 if failed else 0


def say_scores(workload: Workload, control: Control, asked: dict[str, Any]) -> None:
    """Test the models that came out of the run: this host holds the tasks, and has nothing else to do any more."""
    held = {name: Held(i, w) for (name, i), w in zip(asked["models"].items(), asked["tensors"], strict=True)}
    with heard_by(spoken(lambda text: control.say("note", {"text": text}))):
        scored = score(workload, held)
    for model, iteration, figures, samples in scored:
        told = {"model": model, "iteration": iteration, "shape": figures.shape}
        control.say("scored", told, (figures.reshape(-1), samples))
    control.say("scored", {"model": ""})


def reap(child: Child) -> str:
    """How an ended child ended, in words."""
    _, status = os.waitpid(child.pid, 0)
    os.close(child.fd)
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.WEXITSTATUS(status)}"


def tail(log: Path) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
    except OSError:
        return ""


def end_all(children: dict[int, Child]) -> None:
    """Ask those who are left to end, then end them."""
    for sig, patience in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
        for child in children.values():
            os.kill(child.pid, sig)
        deadline = time.monotonic() + patience
        while children and time.monotonic() < deadline:
            for fd in wait(list(children), 0.1):
                reap(children.pop(int(fd)))  # type: ignore[arg-type]


def run_foreground(k: int, registry: str, token: str, listen: str) -> int:
    """Be agent k in this process, without a fork. Returns its exit status."""
    with process_for_tensors():
        with Control(registry, token) as control:
            assignment, _ = prepare(control, registry, token, listen)
        return run_agent(k, assignment)
