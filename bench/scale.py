"""What does a round take as agents and their neighbours become more?

Rings, exponential graphs, random regular graphs and stars of real agent processes, none of them tested while they are
timed; what they sent is checked against the closed forms of `growth.py`, and the costs that its model wants are fitted.
Then the batched simulator on rings too large for a dense A.
"""

import argparse
import csv
import json
import math
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import figures
import growth
import numpy as np
import torch
from agreement import slots_of
from figures import SEED, command, figure, say
from forked import forked, rate, timed
from growth import FAMILIES, LARGE, SMALL, Cost, Family, Hosts, message_bytes

from difnet.config import load
from difnet.exchange.links import links_of
from difnet.exchange.transport import Identity, Patience, Transport
from difnet.maths.combine import column, mix, mix_all
from difnet.runtime.stacked import batched, stack_states
from difnet.system.machine import cores, torch_settings
from difnet.topology.networks import load as load_topology
from difnet.workload.building import build

ROUNDS = {10: 1000, 40: 250, 100: 80, 200: 20, 400: 8}  # agents -> rounds: some seconds each
REPEATED = 100  # up to so many agents three times, and fitted; beyond once, as rounds are long enough for beats
SIMULATED, WARM, STEPS, SAMPLED = (20_000, 50_000), 4, 3, 50
PATIENCE_S, SILENCE_S = 300.0, 60.0  # for a run; for a neighbour, where two hundred agents wait for one core
CPU = "CPU per agent-round, µs"


def measure(words: argparse.Namespace) -> figures.Document:
    """Processes, large states, and the simulator."""
    plan = {10: 300, 40: 60} if words.quick else ROUNDS
    one_run(FAMILIES["ring"], 6, 1)  # compiles what is not in the cache
    runs = {(name, K): [one_run(family, K, rounds) for _ in range(1 if words.quick or K > REPEATED else 3)]
            for K, rounds in plan.items() for name, family in FAMILIES.items()}  # fmt: skip
    costs, hub = {K: cost_at(K, runs) for K in plan if K <= REPEATED}, hub_cost(runs)
    rows = [row(FAMILIES[name], K, some, costs[min(K, max(costs))], hub) for (name, K), some in runs.items()]
    notes = [f"{K} agents, {K / cores():.0f} on a core: {in_words(cost, 'neighbour')}" for K, cost in costs.items()]
    notes.append(f"A hub: {in_words(hub, 'client')}")
    byte_s = large_states(5 if words.quick else 20)
    notes.append(f"Every further MB of a state, told and heard once and combined: {1e12 * byte_s:.0f} µs of a "
                 "processor (four agents, 26 MB).")  # fmt: skip
    notes += [
        f"The model's figures beyond {max(costs)} agents are made of the costs at {max(costs)}.",
        "Rounds/s counts the tests before the first round and after the last, which is much where rounds are few "
        "(beyond 100 agents); processor time does not.",
        "Every run sent the states of the closed forms, none more and none less (checked).",
    ]
    for K in (2000,) if words.quick else SIMULATED:
        line, note = simulated(K)
        rows.append(line)
        notes.append(note)
    return figures.document(rows, {}, notes)


def in_words(cost: Cost, whom: str) -> str:
    """A fitted line."""
    return (f"{1e6 * cost.step_s:.0f} µs of a processor and {1e6 * cost.neighbour_s:.0f} µs for each {whom}, "
            f"the measurements at most {100 * cost.worst_residual:.0f} % away.")  # fmt: skip


def one_run(family: Family, K: int, rounds: int) -> dict[str, Any]:
    """What one launch came to: rounds_per_s, ready_s, pss_mb, messages a round, and cpu_s per round of each agent."""
    with tempfile.TemporaryDirectory(prefix="bench-") as runs:
        words = ["--topology", family.topology(K), "--iterations", rounds, "--seed", SEED, "--eval-every", 10**6,
                 "--eval-tasks", 5, "--set", f"silence_s={SILENCE_S}", *family.more]  # fmt: skip
        summary = command(["-m", "difnet", "launch", *words, "--runs", runs, "--json", "--quiet"], PATIENCE_S)
        folder = Path(summary["folder"])
        cpu_s = [spent for k in range(K) for spent in cpu_per_round(folder / "agents" / f"{k:03d}", rounds)]
        alone = {name: summary[name] for name in ("lost_agents", "missed_exchanges") if summary[name]}
        assert not alone, f"{family.name} of {K}: {alone}; is the machine too busy for {SILENCE_S:.0f} s of silence?"
        with (folder / "edges.csv").open(newline="") as file:
            check_states(family, K, rounds, list(csv.DictReader(file)))
    say(f"scale: {family.name} of {K}: {summary['rounds_per_s']:.1f} rounds/s")
    return {"rounds_per_s": summary["rounds_per_s"], "ready_s": summary["ready_s"], "cpu_s": cpu_s,
            "pss_mb": summary["pss_mb_per_agent"], "messages": summary["bytes"]["messages"] / rounds}  # fmt: skip


def cpu_per_round(agent: Path, rounds: int) -> Iterator[float]:
    """Processor time of an agent in a round, from its first report to its last before it is tested; or nothing."""
    told = [e for e in map(json.loads, (agent / "metrics.jsonl").read_text().splitlines()) if e["event"] == "Progress"]
    timed = [e for e in told if e["iteration"] < rounds]
    if timed and timed[-1]["iteration"] > timed[0]["iteration"]:
        yield (timed[-1]["cpu_s"] - timed[0]["cpu_s"]) / (timed[-1]["iteration"] - timed[0]["iteration"])


def check_states(family: Family, K: int, rounds: int, edges: list[dict[str, str]]) -> None:
    """What was sent over every edge must be what the closed form says; a hub says goodbye with one state more each."""
    per_round = family.round(K)
    states = [int(edge["payload_bytes"]) // (4 * SMALL) for edge in edges]
    expected = rounds * per_round.states + (K - 1 if family.more else 0)
    assert sum(states) == expected, f"{family.name} of {K}: {sum(states)} states instead of {expected}"
    assert len(edges) == per_round.messages, f"{family.name} of {K}: {len(edges)} ends instead of {per_round.messages}"
    assert all(int(edge["messages"]) >= rounds for edge in edges), f"{family.name} of {K}: a round without a message"


def row(family: Family, K: int, runs: list[dict[str, Any]], cost: Cost, hub: Cost) -> figures.Row:
    """One line of the table, of real processes."""
    here = Hosts(cores(), (K - bool(family.more)) / cores(), math.inf, 0.0)
    modelled = growth.round_s(family.round(K), K, SMALL, cost, 0.0, here, hub if family.more else None)
    return {
        "what": f"{family.name} of {K}",
        "states a round": family.round(K).states,
        "messages a round": figure([run["messages"] for run in runs]),
        "rounds/s": figure([run["rounds_per_s"] for run in runs]),
        "the model's": 1 / modelled,
        CPU: figure([sum(run["cpu_s"]) / len(run["cpu_s"]) for run in runs], 1e6),
        "the busiest one's": figure([run["cpu_s"][0] if family.more else max(run["cpu_s"]) for run in runs], 1e6),
        "ready after, s": figure([run["ready_s"] for run in runs]),
        "PSS per agent, MiB": figure([run["pss_mb"] for run in runs]),
    }


def cost_at(K: int, runs: dict[tuple[str, int], list[dict[str, Any]]]) -> Cost:
    """The line through what agents of graphs of K agents took, by their number of neighbours; clients have one."""
    points = []
    for name, family in FAMILIES.items():
        taken = [cpu_s for run in runs[name, K] for cpu_s in run["cpu_s"][bool(family.more) :]]
        points.append((1.0 if family.more else family.round(K).messages / K, float(np.mean(taken))))
    return growth.fitted(points)


def hub_cost(runs: dict[tuple[str, int], list[dict[str, Any]]]) -> Cost:
    """The line through what hubs took, by their number of clients."""
    hubs = [(float(K - 1), run["cpu_s"][0]) for (name, K), some in runs.items()
            if name == "star" and K <= REPEATED for run in some]  # fmt: skip
    return growth.fitted(hubs)


# --- large states --------------------------------------------------------------------------------------------------


def large_states(rounds: int) -> float:
    """Processor time of each further byte of a state, in seconds, told and heard once and combined: a ring of four."""
    cpu_s = {}
    for values, times in ((SMALL, 100 * rounds), (LARGE, rounds)):
        with figures.scratch() as folder:
            cpu_s[values] = rate(times, forked(4, partial(swap, values, times, folder)))["cpu_s_per_agent_round"]
    say(f"scale: a state of 26 MB takes {1e3 * cpu_s[LARGE] / 2:.1f} ms for each neighbour")
    return (cpu_s[LARGE] - cpu_s[SMALL]) / 2 / (message_bytes(LARGE) - message_bytes(SMALL))


def swap(values: int, rounds: int, folder: Path, k: int, wait_for_start: Callable[[], None]) -> dict[str, float]:
    """One agent that exchanges and combines, and computes nothing."""
    ring, phi = load_topology("cycle_graph(n=4)"), np.full(values, float(k), "f4")
    identity = Identity(k, 0, "bench", "ring", "metropolis", "none", "float32", values)
    with Transport(identity, links_of(k, ring), patience=Patience(30.0, 60.0)) as transport:
        transport.bind(f"ipc://{folder}/{k}")
        transport.join({l: f"ipc://{folder}/{l}" for l in ring.hears(k)}, 60.0)
        weights = column(ring.A, k)
        wait_for_start()

        def work() -> None:
            w = phi
            for i in range(rounds):
                w = mix(weights, k, w, transport.exchange(i, w))

        report = timed(work)
        transport.farewell()
    return report


# --- the simulator, without A --------------------------------------------------------------------------------------


def simulated(K: int) -> tuple[figures.Row, str]:
    """A line and a note on the batched simulator, on a ring too large for a dense A."""
    took = forked(1, partial(steps_without_A, K))[0]
    say(f"scale: {K} simulated agents: {1e6 * took['step_s'] / K:.1f} µs per agent-iteration")
    note = (f"{K} agents simulated, all {cores()} cores: {1e6 * took['step_s'] / K:.0f} µs for an agent's iteration, "
            f"{took['peak_mb'] / 1024:.1f} GiB, and {took['begin_s']:.0f} s until difnet would begin.")  # fmt: skip
    return {"what": f"ring of {K}, simulated", "rounds/s": 1 / took["step_s"], CPU: 1e6 * took["cpu_s"] / K}, note


def steps_without_A(K: int, k: int, wait_for_start: Callable[[], None]) -> dict[str, float]:
    """Seconds of one iteration of the batched simulator, with its share of drawing a block of tasks."""
    with torch_settings(cores()):
        start = time.perf_counter()
        workload = build(load(settings={"topology": f"cycle_graph(n={K})", "seed": SEED}), K)
        adapt, slots = batched(workload, say), slots_of(FAMILIES["ring"], K, "f4")
        begin_s, start = time.perf_counter() - start, time.perf_counter()
        first = [workload.first_state(k) for k in range(SAMPLED)]
        begin_s += (time.perf_counter() - start) * K / SAMPLED
        state = stack_states([first[0]] * K)  # all begin with the same

        def step(i: int) -> tuple[float, float]:
            nonlocal state
            wall, cpu = time.perf_counter(), time.process_time()
            state, _ = adapt(state, i, range(K))
            state = state._replace(w=torch.from_numpy(mix_all(slots, state.phi.numpy())))
            return time.perf_counter() - wall, time.process_time() - cpu

        wait_for_start()
        for i in range(WARM):
            step(i)
        plain = sorted(step(i) for i in range(WARM, WARM + STEPS))[STEPS // 2]
        drawing = step(workload.block)
        step_s, cpu_s = (p + (d - p) / workload.block for p, d in zip(plain, drawing, strict=True))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"step_s": step_s, "cpu_s": cpu_s, "begin_s": begin_s, "peak_mb": peak_mb}


if __name__ == "__main__":
    figures.main(measure)
