"""How is a plan of faults carried out on a run that goes on? What is broken is mended, whatever ends us."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from difnet.errors import EnvironmentLacks, RunFolderError
from difnet.exchange.proxy import NONE, Edge, Harm, Proxy
from difnet.runtime.fault_plan import KINDS, Fault
from difnet.runtime.victims import Course, Victims, network
from difnet.system.tampering import PROXY, Deed, break_connections, forbid_writing, is_taken, stop, take_over, undo
from difnet.system.undoing import Undoing

RECORD = "chaos.jsonl"
TURN_S, LOOK_S, EARLY_S = 0.02, 0.25, 0.001
SLICE_S = 0.1  # of somebody who is slow: runs for a share of it, and stands still for the rest
START_S, BOUND_S = 300.0, 10.0
LINKED = {name for name, kind in KINDS.items() if kind.of == "edges"}


@dataclass(eq=False)
class Going:
    """A fault that has begun, until it ends."""

    fault: Fault
    number: int
    until: float
    pids: dict[int, int]  # agent -> process
    deeds: list[Deed] = field(default_factory=list)


class Chaos:
    """A plan, and the run that it is carried out on.

    Args: `say` hears each thing in words as it is done; `stopped` grows when somebody asks us to end.
    """

    def __init__(
        self, victims: Victims, plan: Sequence[Fault], say: Callable[[str], None], stopped: Sequence[int],
        undoing: Undoing, proxy: Proxy, record: int,
    ) -> None:  # fmt: skip
        self._victims, self._say, self._stopped = victims, say, stopped
        self._undoing, self._proxy, self._record = undoing, proxy, record
        self._course, self._network = Course(victims.folder), network(victims.folder)
        self._waiting, self._going = dict(enumerate(plan, start=1)), list[Going]()
        self._edges = {frozenset(edge) for fault in plan for edge in fault.edges}
        self._sockets: Path | None = None
        self._awaited: dict[Edge, int] = {}  # edge -> how often its ends will have told of its return
        self._began = self._looked_at = time.monotonic()
        self._is_over, self._left_out = False, list[str]()
        self.done = list[dict[str, Any]]()

    @property
    def left_out(self) -> list[str]:
        """The faults that never began, and why."""
        return [*self._left_out, *(f"{fault}: its time did not come" for fault in self._waiting.values())]

    def carry_out(self) -> None:
        """Wait for the run's start, do everything at its time, and return when that is done or the run has ended."""
        self._course.look()
        if self._course.has_begun and not self._victims.host():
            raise RunFolderError(f"no agents of {self._victims.folder} are processes of this machine that its launcher "
                                 f"has started; runs of `difnet launch`, --place local, can be broken")  # fmt: skip
        if self._edges:
            self._lead_early()
        self._until(lambda: self._course.has_begun, START_S, "the run to begin")
        if self._edges and not self._is_over:
            self._await_edges()
        self._began = time.monotonic()
        while not self._is_over and (self._waiting or self._going):
            now = time.monotonic()
            for going in [going for going in self._going if going.until <= now]:
                self._end(going)
            for number, fault in [*self._waiting.items()]:
                if self._is_due(fault, now):
                    del self._waiting[number]
                    self._begin(number, fault)
            self._turn(TURN_S)
        if self._is_over:
            self._say("the run has ended" if not self._stopped else "asked to stop")
        for going in [*self._going]:
            self._end(going)
        if (led := self._proxy.led()) and self._victims.are_there:
            self._break_once(led, "to be joined without us")

    def _is_due(self, fault: Fault, now: float) -> bool:
        if fault.at_s is not None:
            return now - self._began >= fault.at_s
        return self._course.iteration >= (fault.at_iteration or 0)

    def _turn(self, timeout_s: float) -> None:
        """Look after everything for at most so long."""
        self._let_run_slowly()
        self._proxy.turn(timeout_s)
        if self._stopped:
            self._is_over = True
        if self._sockets and any(os.path.exists(path) and not is_taken(path) for path in self._paths()):
            self._lead()
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._looked_at = time.monotonic()
            self._is_over = self._is_over or not self._victims.are_there
            self._course.look()
            if self._sockets:
                self._break_direct()

    def _until(self, truth: Callable[[], Any], timeout_s: float, what: str, turn_s: float = TURN_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._is_over and not truth():
            if time.monotonic() > deadline:
                raise RunFolderError(f"waited {timeout_s:.0f} s in vain for {what}: {self._victims.folder}")
            self._turn(turn_s)

    # links: led through here from the beginning on, so that they are harmed and mended without being broken

    def _listeners(self) -> set[int]:
        return {self._network.listener(edge) for edge in self._edges}

    def _path(self, agent: int) -> str:
        return f"{self._sockets}/{agent}"

    def _paths(self) -> list[str]:
        return [self._path(k) for k in self._listeners()]

    def _lead_early(self) -> None:
        """Lead the edges through here before the first round, if the run is still getting ready.

        Some agent dials at all of its edges. It is stopped for a moment when it begins: nobody is told where the others
        are before it has registered, and they all listen by then.
        """
        last = max(set(range(self._network.agents)) - self._listeners())
        self._until(self._victims.host, START_S, "its host")
        if self._is_over:
            return
        if (sockets := self._victims.sockets()) is None:
            raise EnvironmentLacks("links can be broken where agents meet in a folder's sockets, and these have ports: "
                                   "launch without transport=tcp, or leave such faults out")  # fmt: skip
        for left in sockets.glob(f"*{PROXY}"):  # of somebody who was killed, and whoever was to undo it as well
            undo(("path", str(left).removesuffix(PROXY)))
        self._say("links are led through here as soon as agents listen")
        held: list[Deed] = []
        self._until(lambda: self._course.has_begun or self._hold(last, held), START_S, "its agents", EARLY_S)
        self._sockets = sockets
        if held:
            self._until(lambda: all(map(os.path.exists, self._paths())), BOUND_S,
                        "all agents to listen", EARLY_S)  # fmt: skip
        self._lead()
        for deed in held:
            self._undoing.undo(deed)

    def _hold(self, agent: int, held: list[Deed]) -> bool:
        """Stop an agent as soon as it is there; whether it is."""
        there = self._victims.agents()
        with suppress(ProcessLookupError, KeyError):
            held.append(self._undoing.add(partial(stop, there[agent])))
        return agent in there

    def _lead(self) -> None:
        """Listen in the place of whoever listens at the edges, and have them joined anew through here."""
        for k in sorted(self._listeners()):
            path = self._path(k)
            if is_taken(path):
                continue
            with suppress(FileNotFoundError):  # it does not listen at the moment
                self._undoing.add(partial(take_over, path, self._proxy.listener(k, path)))
                self._say(f"agent {k} is dialled through here")
        self._break_direct()

    def _break_direct(self) -> None:
        """Edges that are not led through here, since they were there before: they come back, and are then."""
        there = self._victims.agents()
        for edge in sorted(self._edges, key=sorted):
            k = self._network.listener(edge)
            [l] = edge - {k}
            if {k, l} <= there.keys() and is_taken(path := self._path(k)) and break_connections(
                there[k], path, {there[l]}
            ):
                self._awaited[edge] = self._course.returns[edge] + 2
                self._break_once([edge], "to be joined through here")

    def _break_once(self, edges: Collection[Edge], why: str) -> None:
        self._say(f"broken once, {why}: {', '.join(sorted(map(_named, edges)))}")
        for phase in ("begun", "ended"):
            self._note("proxy", phase, edges=sorted(map(sorted, edges)))

    def _await_edges(self) -> None:
        """As soon as the edges that were broken for it are joined again; an agent that is away cannot be waited for."""
        with suppress(RunFolderError):
            self._until(lambda: all(self._course.returns[e] >= n for e, n in self._awaited.items()), BOUND_S, "edges")

    # faults

    def _begin(self, number: int, fault: Fault) -> None:
        there = self._victims.agents()
        held = {k for going in self._going if going.fault.kind in ("stop", "slow", "disk") for k in going.fault.agents}
        harmed = {edge for going in self._going for edge in going.fault.edges}
        if missing := [k for k in fault.agents if k not in there]:
            self._leave_out(fault, f"agent {missing[0]} is not there")
        elif fault.kind != "kill" and (busy := held & {*fault.agents}):
            self._leave_out(fault, f"something is done to agent {min(busy)} already")
        elif busy_edges := harmed & {*fault.edges}:
            self._leave_out(fault, f"something is done to edge {_named(min(busy_edges))} already")
        else:
            pids = {k: there[k] for k in fault.agents}
            going = Going(fault, number, time.monotonic() + fault.for_s, pids)
            self._going.append(going)
            self._told(going, "begun")
            with suppress(ProcessLookupError):  # it has ended by itself
                self._do(going)
            if not fault.for_s:
                self._end(going)

    def _leave_out(self, fault: Fault, why: str) -> None:
        self._left_out.append(f"{fault}: {why}")
        self._say(f"left out: {fault}: {why}")

    def _do(self, going: Going) -> None:
        fault = going.fault
        if fault.kind in LINKED:
            self._proxy.harm({frozenset(edge): harm_of(fault) for edge in fault.edges})
        elif fault.kind == "disk":
            for pid in going.pids.values() or [self._victims.launcher]:
                going.deeds.append(self._undoing.add(partial(forbid_writing, pid)))
        elif fault.kind == "kill-host":
            if host := self._victims.host():
                os.kill(host, signal.SIGKILL)
        else:
            for pid in going.pids.values():
                if fault.kind == "kill":
                    os.kill(pid, signal.SIGKILL)
                elif fault.kind == "stop":
                    going.deeds.append(self._undoing.add(partial(stop, pid)))

    def _end(self, going: Going) -> None:
        self._going.remove(going)
        for deed in going.deeds:
            self._undoing.undo(deed)
        self._proxy.harm({frozenset(edge): NONE for edge in going.fault.edges})
        self._told(going, "ended")

    def _let_run_slowly(self) -> None:
        """Stop and continue those who are slow, as the moment has it."""
        for going in self._going:
            if going.fault.kind == "slow":
                runs = time.monotonic() % SLICE_S < going.fault.share * SLICE_S
                if runs and going.deeds:
                    for deed in going.deeds:
                        self._undoing.undo(deed)
                    going.deeds.clear()
                elif not runs and not going.deeds:
                    for pid in going.pids.values():
                        with suppress(ProcessLookupError):
                            going.deeds.append(self._undoing.add(partial(stop, pid)))

    # what was done, for whoever reads

    def _told(self, going: Going, phase: str) -> None:
        fault = going.fault
        of: dict[str, Any] = {"agents": list(fault.agents)} if fault.agents else {}
        of |= {"edges": [list(edge) for edge in fault.edges]} if fault.edges else {}
        self._note(fault.kind, phase, fault=going.number, **of)
        if fault.for_s or phase == "begun":
            self._say(f"{fault}: {phase}")

    def _note(self, kind: str, phase: str, **of: Any) -> None:
        told = {"at": time.time(), "kind": kind, **of, "phase": phase}
        self.done.append(told)
        with suppress(OSError):  # the disk may be what is broken
            os.write(self._record, json.dumps(told).encode() + b"\n")


def harm_of(fault: Fault) -> Harm:
    """What a fault of an edge does to its bytes."""
    return Harm(
        delay_s=fault.delay_ms / 1000, is_silent=fault.kind == "silence", share=fault.share, flips=fault.flip_bits,
        cut_after=fault.after_bytes if fault.kind == "cut" else None,
    )  # fmt: skip


def _named(edge: Edge | tuple[int, int]) -> str:
    return "-".join(map(str, sorted(edge)))


@contextmanager
def at_work(folder: Path) -> Iterator[int]:
    """Within the block nobody else breaks this run; gives a descriptor of its chaos.jsonl, to add to.

    Raises: RunFolderError, if somebody does.
    """
    fd = os.open(folder / RECORD, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(f"another `difnet chaos` is breaking {folder}; wait for its end, or end it") from error
        yield fd
    finally:
        os.close(fd)


def carry_out(folder: Path, plan: Sequence[Fault], say: Callable[[str], None], stopped: Sequence[int],
              seed: int = 0) -> dict[str, Any]:  # fmt: skip
    """Break a run by a plan, and mend it. Returns what was done when.

    Args: `stopped` grows when somebody asks us to end; `seed` decides which bytes are garbled.
    Raises: RunFolderError, if no run of this user goes on there on this machine; EnvironmentLacks, if links are to be
        broken and cannot be.
    """
    victims = Victims(folder)

    def who(pid: int) -> int | None:
        return next((k for k, known in victims.agents().items() if known == pid), None)

    with at_work(folder) as record, Proxy(who, seed) as proxy, Undoing() as undoing:  # paths are given back first
        began = time.monotonic()
        chaos = Chaos(victims, plan, lambda text: say(f"{time.monotonic() - began:6.1f} s  {text}"), stopped, undoing,
                      proxy, record)  # fmt: skip
        chaos.carry_out()
    return {"run": folder.resolve().name, "folder": str(folder), "done": chaos.done, "left_out": chaos.left_out}
