"""Kill, freeze, restart: what a network of processes loses by it, and how soon it is whole again.

`python bench/faults.py` runs the cases of docs/reliability.md on real processes and prints its table; names of cases
after it choose some. Times are those at which a word about it stands in the run's events.jsonl, read every 5 ms, so
they hold what the recorder takes; they are those of this machine, with this load.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

WAIT_S, CALM_S = 120.0, 3.0
ENDLESS = "10000000"
WORDS = ["--iterations", ENDLESS, "--eval-every", ENDLESS, "--eval-tasks", "4", "--set", "test_tasks=0", "--quiet"]


class Network:
    """A launch that is under way, in a folder of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._events, self._read = folder / "runs/latest/events.jsonl", 0
        self.seen: list[tuple[float, dict[str, Any]]] = []  # when, event
        self.process = subprocess.Popen([sys.executable, "-m", "difnet", "launch", *words, *WORDS], cwd=folder)
        self.until("the start", lambda: [e for e in self.of("Pulse") if e["iteration"] > 50])
        hosts = psutil.Process(self.process.pid).children()  # none where others start them
        self.agents = [child.pid for host in hosts for child in sorted(host.children(), key=lambda p: p.pid)]

    def look(self) -> None:
        """Read what has been recorded since the last time."""
        if self._events.exists():
            with self._events.open("rb") as file:
                file.seek(self._read)
                lines = file.read()
            whole = lines[: lines.rfind(b"\n") + 1]
            self._read += len(whole)
            self.seen += [(time.monotonic(), json.loads(line)) for line in whole.splitlines()]

    def of(self, kind: str, since: float = 0.0) -> list[dict[str, Any]]:
        """The events of a kind."""
        return [event | {"at": at} for at, event in self.seen if event["event"] == kind and at >= since]

    def until(self, what: str, truth: Callable[[], Any]) -> Any:
        """Wait for something to be recorded."""
        deadline = time.monotonic() + WAIT_S
        while not (found := truth()):
            if time.monotonic() > deadline:
                raise SystemExit(f"waited {WAIT_S:.0f} s in vain for {what}")
            time.sleep(0.005)
            self.look()
        return found

    def rounds_per_s(self, span_s: float = CALM_S) -> float:
        """How fast it is now."""
        first = self.of("Pulse")[-1]
        last = self.until("a pulse", lambda: [p for p in self.of("Pulse") if p["at"] > first["at"] + span_s])[-1]
        return (last["iteration"] - first["iteration"]) / (last["seconds"] - first["seconds"])

    def end(self) -> dict[str, Any]:
        """Its summary, after an interrupt."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(WAIT_S)
        return json.loads((self._events.parent / "run.json").read_text())


@contextmanager
def network(*words: str) -> Iterator[Network]:
    """A network that is ended, whatever happens."""
    with tempfile.TemporaryDirectory() as folder:
        run = Network(Path(folder), *words)
        try:
            yield run
        finally:
            run.process.kill() if run.process.poll() is None else None


def edges_of(victims: list[int], size: int) -> int:
    """How many edges of a ring end at one of these."""
    return len({frozenset((v, n % size)) for v in victims for n in (v - 1, v + 1)})


def killed(victims: list[int], restart: bool) -> str:
    """Kill agents of ring40 at once."""
    with network("--topology", "ring40", "--on-failure", "restart" if restart else "continue") as run:
        before = run.rounds_per_s()
        at = time.monotonic()
        for k in victims:
            os.kill(run.agents[k], signal.SIGKILL)
        ends = 2 * edges_of(victims, 40) - sum((v + 1) % 40 in victims for v in victims) * 2

        def missed() -> list[dict[str, Any]]:
            told = {(e["agent"], e["neighbour"]): e for e in reversed(run.of("NeighbourLost", at))}
            return [e for e in told.values() if e["agent"] not in victims]

        lost = run.until("who misses them", lambda: found if len(found := missed()) >= ends // 2 else None)
        seen = max(e["at"] for e in lost) - at
        back = ""
        if restart:
            run.until("their return", lambda: len({e["agent"] for e in run.of("AgentReturned", at)}) == len(victims))
            run.until("their edges", lambda: len(run.of("NeighbourBack", at)) >= ends)
            back = f"{max(e['at'] for e in run.of('AgentReturned', at)) - at:.1f} s, all edges after " \
                   f"{max(e['at'] for e in run.of('NeighbourBack', at)) - at:.1f} s"  # fmt: skip
        after, healthy = run.rounds_per_s(), others(run, victims)
        end = run.end()
        return f"{seen:.2f} s | {back or 'left out'} | {healthy} | {end['one_sided_exchanges']} | {after / before:.2f}"


def frozen(victims: list[int], for_s: float) -> str:
    """Stop agents of ring40, and continue them."""
    with network("--topology", "ring40") as run:
        before = run.rounds_per_s()
        at = time.monotonic()
        for k in victims:
            os.kill(run.agents[k], signal.SIGSTOP)
        while time.monotonic() - at < for_s:
            time.sleep(0.005)
            run.look()
        for k in victims:
            os.kill(run.agents[k], signal.SIGCONT)
        woken = time.monotonic()
        lost = [e for e in run.of("NeighbourLost", at) if e["agent"] not in victims]
        if lost:
            run.until("their return", lambda: len({e["agent"] for e in run.of("AgentReturned", at)}) == len(victims))
        after, healthy = run.rounds_per_s(), others(run, victims)
        back = [e["at"] for e in [*run.of("AgentReturned", at), *run.of("NeighbourBack", at)]]
        end = run.end()
        seen = f"{max(e['at'] for e in lost) - at:.1f} s" if lost else "waited for"
        return (f"{seen} | {f'{max(back) - woken:.1f} s after' if back else 'at once'} | {healthy} | "
                f"{end['one_sided_exchanges']} | {after / before:.2f}")  # fmt: skip


def others(run: Network, victims: list[int]) -> int:
    """How many edges between agents that nothing was done to were given up."""
    return len({frozenset((e["agent"], e["neighbour"])) for e in run.of("NeighbourLost")
                if not {e["agent"], e["neighbour"]} & set(victims)})  # fmt: skip


def hub(victim: int) -> str:
    """Kill the hub of star10, or one of its clients."""
    with network("--topology", "star10", "--algorithm", "fedmeta") as run:
        before = run.rounds_per_s()
        at = time.monotonic()
        os.kill(run.agents[victim], signal.SIGKILL)
        run.until("its return", lambda: run.of("AgentReturned", at))
        run.until("its edges", lambda: len(run.of("NeighbourBack", at)) >= (18 if victim == 0 else 2))
        seen = max({e["agent"]: e["at"] for e in reversed(run.of("NeighbourLost", at))}.values()) - at
        back = max(e["at"] for e in run.of("NeighbourBack", at)) - at
        after, healthy = run.rounds_per_s(), others(run, [victim])
        end = run.end()
        return f"{seen:.2f} s | {back:.1f} s | {healthy} | {end['one_sided_exchanges']} | {after / before:.2f}"


def storm(waves: int = 12, each_s: float = 5.0) -> str:
    """Kill ten agents of ring40 every five seconds for a minute, each three times in all."""
    with network("--topology", "ring40") as run:
        before = run.rounds_per_s()
        began = time.monotonic()
        [host] = psutil.Process(run.process.pid).children()
        for wave in range(waves):
            oldest = sorted(host.children(), key=lambda child: (child.create_time(), child.pid))
            for child in oldest[:10]:  # who were killed least lately: each three times in all
                child.kill()
            while time.monotonic() - began < (wave + 1) * each_s:
                time.sleep(0.005)
                run.look()
        run.until("everybody", lambda: len(run.of("AgentReturned")) >= 10 * waves)
        back = max(e["at"] for e in run.of("AgentReturned")) - began - (waves - 1) * each_s
        after = run.rounds_per_s()
        end = run.end()
        return (f"{10 * waves} deaths | all back {back:.1f} s after the last | {len(end['edges_apart'])} edges apart, "
                f"{len(end['lost_agents'])} lost | {end['one_sided_exchanges']} | {after / before:.2f}")  # fmt: skip


def detection(sig: signal.Signals, victims: range, for_s: float) -> str:
    """Kill or freeze agents of ring40 one after the other; how soon both neighbours know."""
    took = []
    with network("--topology", "ring40") as run:
        for k in victims:
            at = time.monotonic()
            os.kill(run.agents[k], sig)

            def seen(k: int = k, at: float = at) -> list[float]:
                told = {e["agent"]: e["at"] for e in reversed(run.of("NeighbourLost", at)) if e["neighbour"] == k}
                return [*told.values()] if len(told) == 2 else []

            took.append(max(run.until("who misses it", seen)) - at)
            while time.monotonic() - at < for_s:
                time.sleep(0.005)
            if sig == signal.SIGSTOP:
                os.kill(run.agents[k], signal.SIGCONT)
            run.until("its return", lambda k=k, at=at: [e for e in run.of("AgentReturned", at) if e["agent"] == k])
            ends = lambda k=k, at=at: [e for e in run.of("NeighbourBack", at) if k in (e["agent"], e["neighbour"])]  # noqa: E731
            run.until("its edges", lambda ends=ends: len(ends()) >= 4)
        end = run.end()
    took.sort()
    return (f"median {took[len(took) // 2]:.2f} s, worst of {len(took)} {took[-1]:.2f} s | | "
            f"{others(run, [*victims])} | {end['one_sided_exchanges']} | ")  # fmt: skip


def host_killed() -> str:
    """Kill one of two hosts of ring40, of 20 agents each, and start it again at once, as an engine does."""
    registry, token = "tcp://127.0.0.1:5698", {"DIFNET_TOKEN": "bench"}

    def begin(agents: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "difnet", "host", "--agents", agents, "--registry", registry],
                                env={**os.environ, **token}, stderr=subprocess.DEVNULL)  # fmt: skip

    os.environ.update(token)
    hosts = [begin("0-19"), begin("20-39")]
    try:
        with network("--topology", "ring40", "--hosts-expected", "2", "--registry", registry) as run:
            before = run.rounds_per_s()
            at = time.monotonic()
            hosts[1].kill()
            hosts.append(begin("20-39"))
            run.until("who misses it", lambda: len({e["agent"] for e in run.of("NeighbourLost", at)
                                                    if e["agent"] < 20}) == 2)  # fmt: skip
            seen = max(e["at"] for e in run.of("NeighbourLost", at) if e["agent"] < 20) - at
            run.until("their return", lambda: len({e["agent"] for e in run.of("AgentReturned", at)}) == 20)
            run.until("their edges", lambda: {(0, 39), (39, 0), (19, 20), (20, 19)} <= {
                (e["agent"], e["neighbour"]) for e in run.of("NeighbourBack", at)})  # fmt: skip
            back = max(e["at"] for e in run.of("AgentReturned", at)) - at
            after, healthy = run.rounds_per_s(), others(run, [*range(20, 40)])
            end = run.end()
            return f"{seen:.2f} s | {back:.1f} s | {healthy} | {end['one_sided_exchanges']} | {after / before:.2f}"
    finally:
        for host in hosts:
            host.kill()
            host.wait()


def busy(for_s: float = 60.0) -> str:
    """Two busy loops for each core beside ring40."""
    with network("--topology", "ring40") as run:
        before = run.rounds_per_s()
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
        try:
            during = run.rounds_per_s(for_s)
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
        end = run.end()
        return f"nobody | | {others(run, [])} | {end['one_sided_exchanges']} | {during / before:.2f} meanwhile"


CASES: dict[str, Callable[[], str]] = {
    "kill -9 of 1": lambda: killed([7], True),
    "kill -9 of 2 neighbours": lambda: killed([7, 8], True),
    "kill -9 of 3": lambda: killed([3, 17, 31], True),
    "kill -9 of 5": lambda: killed([1, 9, 18, 27, 36], True),
    "kill -9 of 1, not restarted": lambda: killed([7], False),
    "kill -9 of 5, not restarted": lambda: killed([1, 9, 18, 27, 36], False),
    "kill -9 of star10's hub": lambda: hub(0),
    "kill -9 of a client of star10": lambda: hub(4),
    "SIGSTOP for 1 s": lambda: frozen([7], 1.0),
    "SIGSTOP for 4 s": lambda: frozen([7], 4.0),
    "SIGSTOP for 30 s": lambda: frozen([7], 30.0),
    "SIGSTOP of all for 30 s": lambda: frozen([*range(40)], 30.0),
    "ten of 40 killed every 5 s for a minute": storm,
    "kill -9 of one after the other": lambda: detection(signal.SIGKILL, range(0, 40), 1.0),
    "SIGSTOP for 4 s of one after the other": lambda: detection(signal.SIGSTOP, range(0, 40, 4), 4.0),
    "kill -9 of one of two hosts, started again at once": host_killed,
    "two busy loops a core for 60 s": busy,
}


if __name__ == "__main__":
    print("| ring40, if not said | noticed by all neighbours | back | healthy edges given up | one-sided exchanges | "
          "rounds/s afterwards, of before |\n|---|--:|--:|--:|--:|--:|")  # fmt: skip
    for name in sys.argv[1:] or CASES:
        print(f"| {name} | {CASES[name]()} |", flush=True)
