"""One host: asks the registry what to run, forks its agents from one prepared process, and stays until that is over.

Everything heavy (torch, the model, the compiled kernels) is loaded once, here, before the first fork. No thread and no
socket is open then; the successor of an agent that died is forked while the thread that beats rests.
"""

import faulthandler
import gc
import hashlib
import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from difnet import __version__
from difnet.config import RunConfig, load
from difnet.errors import DifnetError, EnvironmentLacks
from difnet.exchange.addresses import endpoint_of, reach
from difnet.exchange.control import Control
from difnet.places import agents_text
from difnet.record.checkpoints import Manifest, is_id, settings_of, shelves_folder, sweep
from difnet.record.tally import ModelAt
from difnet.runtime.agent_process import Assignment, run_agent
from difnet.runtime.causes import explained
from difnet.runtime.child_processes import Children
from difnet.runtime.successors import Successors
from difnet.runtime.testing import check_target, score_models
from difnet.system.energy import Meter, machine_id
from difnet.system.lifetime import die_with_parent, raise_file_limit, say_alive
from difnet.system.machine import environment, torch_settings
from difnet.system.progress import as_lines, progress_to
from difnet.topology import Topology
from difnet.workload import Workload
from difnet.workload.building import Own, build, check_device
from difnet.workload.kernels import compile_kernels, describe

GRACE_S, BEAT_S, ANSWER_S = 3.0, 1.0, 30.0
DEVICE_TIMEOUT_S = 60.0
GONE_S, MOST_MOMENTS = 1.0, 30  # a launcher that is being killed takes a moment to be gone


@dataclass(frozen=True)
class HostSettings:
    """What a host was told when it was started."""

    agents: Sequence[int]
    registry: str
    token: str
    advertise: str | None = None  # a name or address by which others find this host; None: as the registry sees it
    run: str | None = None  # the run it was started for; None: whichever the registry serves
    patience_s: float = 60.0  # for a registry that is not there yet
    data: Path | None = None  # its own data, where data stays with its owners
    bound_to: int | None = None  # the launcher's process, if that started it: then it ends with it, at once

    @property
    def name(self) -> str:
        """What the launcher calls this host: one machine, under one address, may have several."""
        return f"{self.advertise or platform.node()}/{agents_text(self.agents)}"


def run_host(told: HostSettings) -> int:
    """Fork the agents of this host and stay until the run is over. Returns an exit status.

    Raises: DifnetError, if it cannot take part and the launcher does not know of it.
    """
    asked: list[bool] = []

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher's death is told again for each of its threads
        asked.append(True)
        gc.freeze()  # what is left at the end, torch and its traces, is not worth looking through
        raise Asked(143)

    raise_file_limit()
    faulthandler.enable()  # a crash in somebody's compiled code says where
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what was printed before it is not lost
    try:
        launcher = [os.pidfd_open(told.bound_to)] if told.bound_to else []  # readable once the launcher has ended
    except ProcessLookupError:  # it has ended already
        _tidy_up(told)
        return 143
    signal.signal(signal.SIGTERM, end)
    try:
        if told.bound_to:
            die_with_parent(told.bound_to, signal.SIGTERM)
        with torch_settings():
            return _fork_and_supervise(told, launcher)
    except DifnetError:
        raise
    except Exception as error:
        raise explained(error, f"the host of agents {agents_text(told.agents)} ends") from error
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # we are ending already
        if wait(launcher, 0) or (asked and told.bound_to and _is_going(told.bound_to, launcher)):
            _tidy_up(told)


def _is_going(pid: int, launcher: list[int]) -> bool:
    """Whether the launcher is ending, which takes a moment; several, on a busy machine, from its first thread's end."""
    for _ in range(MOST_MOMENTS):
        if wait(launcher, GONE_S):
            return True
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX":
                return False
    return False


def _tidy_up(told: HostSettings) -> None:
    """For a launcher that was killed: its folder of sockets."""
    if told.registry.startswith("ipc://"):
        shutil.rmtree(Path(told.registry.removeprefix("ipc://")).parent, ignore_errors=True)


def run_foreground(told: HostSettings) -> int:
    """Be the one agent of this host in this process, without a fork. Returns its exit status."""
    [k] = told.agents
    with torch_settings():
        assignment = prepare(told)
        assignment = replace(assignment, leave_s=assignment.workload.config.orphan_s)
        status = run_agent(k, assignment)
        with Control(assignment.registry, told.token, assignment.life) as control:
            control.say("exited", {"agent": k, "incarnation": 0, "status": f"exit status {status}", "log_tail": "",
                                   "returns": False})  # fmt: skip
    return status


def _fork_and_supervise(told: HostSettings, launcher: list[int]) -> int:
    try:
        assignment = prepare(told)
        gc.collect()
        gc.freeze()
        children = _forked(told, assignment)
    except Refused as refused:
        if not told.bound_to:
            raise
        return refused.exit_code  # the launcher tells the same user
    with children, Control(assignment.registry, told.token, assignment.life) as control, beating(control, told.name):
        children.tell, successors = control.say, Successors(assignment.incarnations)
        children.replace = successors.decide
        try:
            supervise(children, control, launcher, assignment, successors)
        finally:
            children.end()  # while there is still somebody to tell
    return 1 if children.failed else 0


def _forked(told: HostSettings, assignment: Assignment) -> Children:
    """All agents of this host, each a process.

    Raises: Refused, if this machine does not allow so many; none is left then.
    """
    children = Children()
    try:
        for k in told.agents:
            children.fork(k, partial(run_agent, k, assignment), assignment.incarnations.get(k, 0))
    except OSError as error:
        doing = f"only {len(children)} of {len(told.agents)} agents could be started"
        children.end()
        with Control(assignment.registry, told.token, assignment.life) as control:
            raise Refused(explained(error, doing), control, told.name) from error
    except BaseException:
        children.end()
        raise
    return children


class Asked(SystemExit):
    """Somebody asks this host to end."""


class Refused(DifnetError):
    """What the launcher is told, and will tell its user."""

    def __init__(self, error: DifnetError, control: Control, host: str) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher answers with it, and we are ending already
        control.say("failed", {"reason": str(error), "exit_code": error.exit_code, "host": host})


def prepare(told: HostSettings) -> Assignment:
    """Reach the registry, ask it what to run, and load all of it. Returns what every agent inherits.

    Raises: Refused, if this cannot be run here; DifnetError, if nobody could be told so.
    """
    registry, local = reach(told.registry, told.patience_s, lambda text: print(f"difnet host: {text}", file=sys.stderr))
    with Control(registry, told.token) as control:
        def note(text: str) -> None:
            control.say("note", {"text": text})

        control.say("configuration?", {"agents": list(told.agents), "name": told.name, "version": __version__,
                                       "run": told.run})  # fmt: skip
        run = control.expect("run", ANSWER_S)
        control.life = run["life"]
        asked, topology = load(settings=run["config"]), Topology.from_dict(run["topology"])
        try:
            own = Own(told.data, told.agents)
            workload = _load(asked, topology, note, own)
            kernels = compile_kernels(workload, note)
        except Asked:
            raise
        except (Exception, SystemExit) as error:
            raise Refused(explained(error, "the run could not be prepared"), control, told.name) from error
        hashes = {**run["hashes"], "model": workload.fingerprint()}
        listen = _listen(told.registry, local, told.advertise)
        settings = hashlib.sha256(json.dumps(settings_of(run["config"]), sort_keys=True).encode()).hexdigest()[:16]
        manifest = Manifest(run["id"], -1, 0, settings, **hashes, totals={})
        assignment = Assignment(
            workload, kernels, topology, hashes, run["run"], run["life"], registry, told.token, listen,
            told.advertise or "", device=asked.device, manifest=None if asked.checkpoint_every == 0 else manifest,
            incarnations={int(k): n for k, n in run["incarnations"].items()},
            spokesman=next((k for k in told.agents if workload.carries(k)), -1),
            shelves=shelves_folder(run["id"], run["folder"]), own=own,
        )  # fmt: skip
        if is_id(assignment.shelves.name):
            sweep(assignment.shelves, time.time())
        facts = describe(workload, kernels)
        if 0 not in told.agents:
            facts["manifest"] = None  # the same on every host, and long
        checkpoints = _usable(told.agents, assignment, note) if run["resumes"] else {}
        control.say("prepared", {"host": told.name, "agents": list(told.agents), "environment": environment(),
                                 "facts": facts, "checkpoints": checkpoints})  # fmt: skip
    return assignment


def _usable(agents: Sequence[int], assignment: Assignment, note: Callable[[str], None]) -> dict[str, list[int]]:
    """The iterations of which this machine has checkpoints that can be used, by agent, of those that carry anything."""
    found = {}
    for k in agents:
        if shelf := assignment.shelf(k):
            found[str(k)], refused = shelf.usable()
            for reason in refused:
                note(reason)
    return found


def _load(asked: RunConfig, topology: Topology, note: Callable[[str], None], own: Own | None) -> Workload:
    config = asked.model_copy(update={"device": "cpu"})  # another device would not survive the fork
    if asked.device != "cpu":
        check_device_aside(asked.device)
    with progress_to(as_lines(note)):
        workload = build(config, topology.agents, topology.hub, topology.owners, own)
        check_target(workload)
    return workload


def _listen(registry: str, local: str, advertise: str | None) -> str:
    """Where agents listen: beside the registry's own socket, or at ports of the address that others know."""
    if registry.startswith("ipc://"):
        return f"{registry.rpartition('/')[0]}/{{agent}}"
    anywhere = "::" if ":" in local else "0.0.0.0"
    return endpoint_of(anywhere if advertise else local, "*")


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


@contextmanager
def beating(control: Control, name: str) -> Iterator[None]:
    """Tell the registry once a second that this host is there, also while it computes, and what its meter says."""
    over, meter = threading.Event(), Meter()
    body = {"name": name, "machine": machine_id(), "energy": meter.so_far(None)}
    control.introduction = lambda: ("beat", body)

    def beat() -> None:
        while True:
            body["energy"] = meter.so_far(None)
            control.say("beat", body)
            if over.wait(BEAT_S):
                return

    thread = threading.Thread(target=beat, name="beats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def supervise(
    children: Children, control: Control, launcher: list[int], assignment: Assignment, successors: Successors
) -> None:
    """Hand on what agents print and how they end, replace them, and test the models that came out, until that is over.

    It is over when the registry says so, or the launcher is gone: at once where it runs on this machine, else when
    nothing was heard of it for the run's `orphan_s`.
    """
    ending_since: float | None = None
    replaces = assignment.workload.config.on_failure == "restart"
    heard_at, orphan_s = time.monotonic(), assignment.workload.config.orphan_s
    while ending_since is None or (children and time.monotonic() - ending_since < GRACE_S):
        say_alive()
        ready = wait([control.socket.FD, *launcher, *children.fds], 0.25)
        while heard := control.hear(0):
            kind, body = heard
            if kind == "end":
                ending_since, successors.are_wanted = ending_since or time.monotonic(), False
            elif kind == "beat":
                successors.are_wanted = bool(body["started"]) and replaces
            elif kind == "score":
                say_scores(assignment.on_device(), control, body)
            heard_at = time.monotonic()
        children.attend(ready)  # after what was heard: whether those who have died are to be replaced
        for k, incarnation in successors.due():
            _replace(children, control, k, incarnation, assignment)
        if set(launcher).intersection(ready):
            return
        if not launcher and time.monotonic() - heard_at > orphan_s:
            print(f"difnet host: nothing was heard of the launcher at {control.endpoint} for {orphan_s:.0f} s; "
                  f"its {len(children)} agents end", file=sys.stderr)  # fmt: skip
            children.failed += 1
            return


def _replace(children: Children, control: Control, k: int, incarnation: int, assignment: Assignment) -> None:
    """Start an agent's successor, or say why this machine does not allow it."""
    try:
        with control.at_rest():  # no thread of ours is within ZeroMQ while we fork
            children.fork(k, partial(run_agent, k, assignment), incarnation)
    except OSError as error:
        children.failed += 1
        control.say("exited", {"agent": k, "incarnation": incarnation, "log_tail": "", "returns": False,
                               "status": str(explained(error, f"agent {k} could not be started again"))})  # fmt: skip


def say_scores(workload: Workload, control: Control, asked: dict[str, Any]) -> None:
    """Test the models that came out of the run: this host holds the tasks, and has nothing else to do any more."""
    held = {name: ModelAt(i, w) for (name, i), w in zip(asked["models"].items(), asked["tensors"], strict=True)}
    try:
        with progress_to(as_lines(lambda text: control.say("note", {"text": text}))):
            scored = score_models(workload, held)
    except Asked:
        raise
    except (Exception, SystemExit) as error:
        reason = str(explained(error, "the models could not be tested"))
        control.say("not scored", {"reason": reason, "agent": None})
        return
    for model, iteration, figures, samples, owner in scored:
        told = {"model": model, "iteration": iteration, "shape": figures.shape, "agent": owner}
        control.say("scored", told, (figures.reshape(-1), samples))
    control.say("all scored", {"agent": None})
