"""How many agents can one registry introduce, and one recorder hear?

Agents of this script do nothing but talk: as many connections as there would be agents, over TCP, from another process.
The processor time is that of the process in which a launcher's registry and recorder run, ZeroMQ's own thread included.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import figures
import numpy as np
import zmq
from figures import figure, say
from forked import forked
from growth import LARGE, SMALL

from difnet.config import load
from difnet.errors import WireError
from difnet.exchange import wire
from difnet.exchange.registry import Registry
from difnet.record import events
from difnet.record.events import Progress, Snapshot
from difnet.record.recorder import Recorder
from difnet.system.lifetime import raise_file_limit
from difnet.system.machine import memory_peak
from difnet.topology.networks import load as load_topology

TOKEN, PATIENCE_S = "bench", 120.0
INTRODUCED = (100, 1000, 4000)  # agents
SPEAKERS = {0: {40: 500}, SMALL: {40: 100, 400: 10, 4000: 2}, LARGE: {40: 2}}  # values -> agents -> events of each
DOCUMENTS = (*(f"cycle_graph(n={K})" for K in (100, 400, 401, 1000, 10_000)),
             *(f"complete_graph(n={K})" for K in (447, 448)))  # fmt: skip
PROGRESS = Progress(0, 1000, 0.5, 1.5, 2 * 10**7, 1000, {}, 3 * 10**8, 14 * 10**6, 141 * 10**5, 2010, 2000, 0, 0)
STRANGERS = ((10, 10_000), (3_600_000, 100))  # empty maps in a document without the token -> how many of these
ALL, HIGH_WATER = "that was all", 100  # said last; messages of an agent under way
PER_S = 2.0  # reports of progress of each agent, per second

Take = Callable[[str, dict[str, Any], list[np.ndarray]], None]  # (kind, body, tensors)


def measure(words: argparse.Namespace) -> figures.Document:
    """The registry, the recorder, and the one document that every host is sent."""
    raise_file_limit()
    times = 1 if words.quick else 3
    rows = [introductions(K, times) for K in (INTRODUCED[:1] if words.quick else INTRODUCED)]
    notes = []
    for values, plan in SPEAKERS.items():
        for agents, each in plan.items():
            if (agents == min(plan) and not (words.quick and values == LARGE)) or not words.quick:
                rows.append(listening(values, agents, each, times))
        if not values:
            most = 1e6 / rows[-1]["µs each"]["median"] / PER_S
            notes.append(f"At {PER_S:.0f} reports of progress a second from each agent, one core hears {most:.0f} "
                         "agents at the most.")  # fmt: skip
    rows += [strangers(size, count, times) for size, count in STRANGERS[: 1 if words.quick else None]]
    rows += [document_row(topology) for topology in (DOCUMENTS[:1] if words.quick else DOCUMENTS)]
    notes.append(f"A document may have {wire.DOCUMENT_LIMIT / 2**20:.0f} MiB, and lists in it 100 000 entries. An "
                 "introduction is three messages of an agent (register, joined, leave) and three to it (peers, go, "
                 "left).")  # fmt: skip
    return figures.document(rows, {}, notes)


# --- the registry --------------------------------------------------------------------------------------------------


def introductions(K: int, times: int) -> figures.Row:
    """A ring of K agents registers, hears of its neighbours, starts, and leaves."""
    runs = [talked(K, introduce, lambda folder: ignore) for _ in range(times)]
    say(f"control: {K} agents introduced in {runs[-1]['seconds']:.2f} s")
    return {"what": f"registry, {K} agents", "µs each": figure([run["cpu_s"] / K for run in runs], 1e6),
            "each second, by the clock": figure([K / run["seconds"] for run in runs])}  # fmt: skip


def introduce(sockets: Sequence[zmq.Socket], length: int = 1) -> None:
    """All agents, in one process: whoever is slow here is not the registry."""
    prepare(sockets, length)
    for agent, socket in enumerate(sockets):
        told = {"agent": agent, "incarnation": 0, "endpoint": f"tcp://10.0.0.1:{1 + agent}", "pid": 1}
        tell(socket, "register", told)
    for agent, socket in enumerate(sockets):
        hear(socket, "peers")
        tell(socket, "joined", {"agent": agent})
    for socket in sockets:
        hear(socket, "go")


def prepare(sockets: Sequence[zmq.Socket], length: int) -> None:
    """One host with all agents says that they are prepared."""
    agents = [*range(len(sockets))]
    facts = {"engine": "eager", "parameters": length, "length": length, "flops": None, "server": None, "model": {},
             "pieces": [], "carriers": [0, 1], "transductive": False, "manifest": None, "judges": {}}  # fmt: skip
    tell(sockets[0], "configuration?", {"agents": agents, "name": "host", "version": "", "run": None})
    tell(sockets[0], "prepared", {"host": "host", "agents": agents, "environment": {}, "facts": facts,
                                 "checkpoints": {}})  # fmt: skip
    hear(sockets[0], "run")


def ignore(kind: str, body: dict[str, Any], tensors: list[np.ndarray]) -> None:
    """What is not the registry's own affair."""


# --- the recorder --------------------------------------------------------------------------------------------------


def listening(values: int, agents: int, each: int, times: int) -> figures.Row:
    """So many events of each agent, recorded; with `values`, a launch model travels beside each."""
    runs = [talked(agents, partial(talk, values, each), partial(recorder_in, agents)) for _ in range(times)]
    what, count = f"Snapshot, {4 * values / 1e6:.3g} MB" if values else "Progress", agents * each
    say(f"control: {what}, {agents} agents: {count / runs[-1]['seconds']:.0f} events a second")
    cells: figures.Row = {"what": f"recorder, {what}, {agents} agents",
                          "µs each": figure([run["cpu_s"] / count for run in runs], 1e6),
                          "each second, by the clock": figure([count / run["seconds"] for run in runs])}  # fmt: skip
    if values:
        cells["MB a second"] = figure([4e-6 * values * count / run["seconds"] for run in runs])
    return cells | {"memory, MiB": figure([run["peak_mb"] for run in runs])}


def talk(values: int, each: int, sockets: Sequence[zmq.Socket]) -> None:
    """All agents, in one process, iteration by iteration."""
    introduce(sockets, values or 1)
    w = np.zeros(values, "f4")
    for i in range(1, each + 1):
        for agent, socket in enumerate(sockets):
            event = Snapshot(agent, i) if values else replace(PROGRESS, agent=agent, iteration=i)
            body = event.to_dict()
            tell(socket, body.pop("event"), body, *([w] if values else []))


def recorder_in(agents: int, folder: Path) -> Take:
    """What a launcher does with events: a recorder's `record`, its run in a folder of its own."""
    config = load(settings={"topology": f"cycle_graph(n={agents})", "runs": str(folder)})
    recorder = Recorder(config, load_topology(config.topology), "launch", lambda event: None)
    return lambda kind, body, tensors: recorder.record(events.from_dict({"event": kind, **body}), tensors)


# --- strangers -----------------------------------------------------------------------------------------------------


def strangers(size: int, count: int, times: int) -> figures.Row:
    """So many messages of somebody who does not know the token, each a document of so many empty maps."""
    def flood(sockets: Sequence[zmq.Socket]) -> None:
        document = wire.pack_document("note", {"text": [{}] * size})
        for _ in range(count):
            sockets[1].send_multipart([b"guess", document])
        tell(sockets[1], "configuration?", {}, token="guess")  # which is answered: then all are heard
        hear(sockets[1], "refused")

    runs = [talked(2, flood, lambda folder: ignore, strange=True) for _ in range(times)]
    say(f"control: {count} messages of {size} maps of a stranger: {runs[-1]['cpu_s']:.2f} s of processor time")
    return {"what": f"stranger, {size} maps", "µs each": figure([run["cpu_s"] / count for run in runs], 1e6),
            "each second, by the clock": figure([count / run["seconds"] for run in runs]),
            "memory, MiB": figure([run["peak_mb"] for run in runs])}  # fmt: skip


# --- between two processes -----------------------------------------------------------------------------------------


def talked(
    K: int, speak: Callable[[Sequence[zmq.Socket]], None], taking: Callable[[Path], Take], strange: bool = False
) -> dict[str, float]:
    """K connections to a registry, from one process that speaks to one that listens and takes; what that took it."""
    with figures.scratch() as folder:

        def work(k: int, wait_for_start: Callable[[], None]) -> dict[str, float]:
            if k == 0:
                return listen(K, folder, taking, wait_for_start, strange)
            return connect(K, folder, speak, wait_for_start)

        return forked(2, work)[0]


def listen(
    K: int, folder: Path, taking: Callable[[Path], Take], wait_for_start: Callable[[], None], strange: bool
) -> dict[str, float]:
    """The launcher's end, until somebody says that it was all. Neighbours are those of a ring."""
    neighbours = {k: sorted({(k - 1) % K, (k + 1) % K}) for k in range(K)}
    with Registry("tcp://127.0.0.1:*", TOKEN, neighbours) as registry:
        registry.run = {"run": "", "life": "", "version": "", "config": {}, "topology": {"hub": None},
                        "hashes": {"topology": "", "weights": ""},
                        "id": "", "folder": "", "resumes": False}  # fmt: skip
        registry.begin(0)
        take = taking(folder)
        (folder / "endpoint").write_text(registry.endpoint)
        wait_for_start()
        start, cpu, deadline, over = time.monotonic(), time.process_time(), time.monotonic() + PATIENCE_S, False
        while not over:
            assert time.monotonic() < deadline, f"nobody said in {PATIENCE_S:.0f} s that it was all"
            for kind, body, tensors in registry.listen(0.1):
                if kind == "note" and body["text"] == ALL:
                    over = True
                elif kind in events.KINDS:
                    take(kind, body, tensors)
        assert strange or not registry.refused, registry.refusals.news(over=True)
        return {"seconds": time.monotonic() - start, "cpu_s": time.process_time() - cpu,
                "peak_mb": (memory_peak() or 0) / 2**20}  # fmt: skip


def connect(
    K: int, folder: Path, speak: Callable[[Sequence[zmq.Socket]], None], wait_for_start: Callable[[], None]
) -> dict[str, float]:
    """The agents' end: speak, leave, and when all have been heard say that it was all."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, K + 10)
    try:
        sockets = [context.socket(zmq.DEALER) for _ in range(K)]
        wait_for_start()
        for socket in sockets:
            socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
            socket.setsockopt(zmq.SNDTIMEO, int(1000 * PATIENCE_S))
            socket.connect((folder / "endpoint").read_text())
        speak(sockets)
        for socket in sockets:
            tell(socket, "leave", {})
        for socket in sockets:
            hear(socket, "left")
        tell(sockets[0], "note", {"text": ALL})
        return {}
    finally:
        context.destroy(linger=2000)


def tell(socket: zmq.Socket, kind: str, body: dict[str, Any], *tensors: np.ndarray, token: str = TOKEN) -> None:
    """A control message, as `Control` sends it."""
    socket.send_multipart([token.encode(), *wire.pack_control(kind, body, tensors)])


def hear(socket: zmq.Socket, kind: str) -> None:
    """Wait for one kind of answer."""
    heard = "beat"  # which a host is told, and here an agent and its host are one
    while heard == "beat" != kind:
        assert socket.poll(int(1000 * PATIENCE_S)), f"no {kind!r} in {PATIENCE_S:.0f} s"
        heard, _ = wire.unpack_document(socket.recv_multipart()[0])
    assert heard == kind, f"{heard!r} instead of {kind!r}"


# --- the document that every host is sent --------------------------------------------------------------------------


def document_row(topology: str) -> figures.Row:
    """How long the description of a network is, and whether a host would read it."""
    document = wire.pack_document("run", {"topology": load_topology(topology).to_dict()})
    try:
        wire.unpack_document(document)
        verdict = "read"
    except WireError:
        verdict = "REFUSED"
    return {"what": f"document of {topology}", "MiB": len(document) / 2**20, "a host": verdict}


if __name__ == "__main__":
    figures.main(measure)
