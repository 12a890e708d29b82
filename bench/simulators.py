"""What does one agent's iteration cost in the simulator, up to ten thousand agents?

Exact (agent after agent, the bits of the network) and batched (many agents in one call) take turns on the same ring,
one thread each; at 40 agents the network of processes joins in. Adapt and combine only, no evaluation, no record.
"""

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial

import figures
from figures import figure, launched, ratio, say
from forked import forked

from difnet.algorithms import State
from difnet.config import load
from difnet.runtime.stacked import Adapt, Mix, batched, exact, mixing_of, stack_states
from difnet.system.machine import cores, torch_settings
from difnet.topology.networks import load as load_topology
from difnet.workload.building import build
from difnet.workload.kernels import compile_kernels

ENGINES = ("exact", "batched")
TIMES = {40: 7, 400: 5, 2000: 3, 10_000: 1}


def measure(words: argparse.Namespace) -> figures.Document:
    """Each size in a process of its own, so that memory is given back."""
    sizes = {40: 1, 400: 1} if words.quick else TIMES
    rows: list[figures.Row] = []
    ratios = {}
    for K, times in sizes.items():
        took = {name: forked(1, partial(turns, K, times, name))[0] for name in ENGINES}
        for name in ENGINES:
            seconds = figure(took[name]["seconds"], 1 / K)["median"]
            say(f"simulators: {K} agents, {name}: {1e6 * seconds:.1f} µs per agent-iteration")
            rows.append({"what": name, "agents": K, "µs per agent-iteration": figure(took[name]["seconds"], 1e6 / K),
                         "iterations/s": figure([1 / s for s in took[name]["seconds"]]),
                         "peak memory, MiB": took[name]["peak_mb"]})  # fmt: skip
        ratios[f"exact to batched, {K} agents"] = ratio(*(took[name]["seconds"] for name in ENGINES))
    against: dict[str, list[float]] = {"exact": [], "batched": []}
    networks: list[float] = []
    for n in range(1 if words.quick else 5):
        took = {name: forked(1, partial(turns, 40, 1, name))[0] for name in ENGINES}
        networks.append(1 / launched(40, 100 if words.quick else 600)["rounds_per_s"])
        say(f"simulators: pair {n + 1} with a network of 40 processes: {1 / networks[-1]:.1f} rounds/s")
        for name in against:
            against[name] += took[name]["seconds"]
    rows.append({"what": "network, all cores", "agents": 40, "µs per agent-iteration": figure(networks, 1e6 / 40),
                 "iterations/s": figure([1 / s for s in networks])})  # fmt: skip
    for name, some in against.items():
        ratios[f"network of processes to {name}, 40 agents"] = ratio(networks, some)
    notes = ["Wall-clock time, drawing tasks included, testing agents not; a ratio above 1 says that the second "
             "is faster. exact runs on one thread, batched and the network on all cores."]  # fmt: skip
    return figures.document(rows, ratios, notes)


def turns(K: int, times: int, name: str, k: int, wait_for_start: Callable[[], None]) -> dict:
    """Seconds per iteration of one simulator, measured over whole blocks of drawn tasks."""
    with torch_settings(cores() if name == "batched" else 1):
        return timed_blocks(K, times, name, wait_for_start)


def timed_blocks(K: int, times: int, name: str, wait_for_start: Callable[[], None]) -> dict:
    """The same, with the threads set."""
    config = load(settings={"topology": f"cycle_graph(n={K})", "seed": figures.SEED})
    workload = build(config, K)
    adapt = exact(workload, compile_kernels(workload, say)) if name == "exact" else batched(workload, say)
    mixed = mixing_of(config, load_topology(config.topology))
    state = stack_states([workload.first_state(k) for k in range(K)])
    wait_for_start()
    iterate(adapt, mixed, state, range(workload.block - 1, workload.block))
    seconds = []
    for n in range(1, times + 1):
        steps = range(n * workload.block, (n + 1) * workload.block)
        start = time.perf_counter()
        iterate(adapt, mixed, state, steps)
        seconds.append(round((time.perf_counter() - start) / len(steps), 9))
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def iterate(adapt: Adapt, mixed: Mix, state: State, steps: range) -> None:
    """The recursion of the simulator."""
    for step in steps:
        state, _ = adapt(state, step, range(len(state.w)))
        state = state._replace(w=mixed(step, state.phi))


if __name__ == "__main__":
    figures.main(measure)
