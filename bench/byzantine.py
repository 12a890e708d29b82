"""Neighbours that lie: what honest agents learn beside them, by each rule to combine, and what the rules cost.

`python bench/byzantine.py` runs the exact simulator's steps on networks of which a tenth lies, and prints the table of
docs/reliability.md; `--graph`, `--seeds` and `--iterations` say which part of it. `--costs` measures the rules alone.

Liars know everything: they hold the mean of the honest launch models, adapt it as an honest agent would, and send
something else, the same to everybody. They sit where no honest agent hears two of them and the honest ones still reach
each other, at random otherwise. What is tested is honest agents' own models.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import networkx as nx
import numpy as np
import torch

from difnet.config import RunConfig
from difnet.errors import ConfigError
from difnet.maths.robust import least_neighbours, outsized, rule
from difnet.runtime.stacked import exact, mixing_of, stack_states
from difnet.system.machine import torch_settings
from difnet.topology import Topology
from difnet.topology.networks import of_run
from difnet.workload import Workload
from difnet.workload.building import build
from difnet.workload.kernels import Kernels, by_inner_steps, compile_kernels

GRAPHS = ("complete10", "exponential32", "erdos-renyi40")
RULES = ("mean", "clip", "trim:1", "median")
Attack = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]  # (liars' phi, honest phi) -> what is sent
ATTACKS: dict[str, Attack | None] = {
    "nobody lies": None,
    "sign flip": lambda phi, honest, rng: -4 * phi,
    "noise": lambda phi, honest, rng: phi + 10 * rng.standard_normal(phi.shape),
    "constant 1e6": lambda phi, honest, rng: np.full_like(phi, 1e6),
    "a little": lambda phi, honest, rng: np.broadcast_to(honest.mean(0) - 1.5 * honest.std(0), phi.shape),
}


def liars(topology: Topology, seed: int) -> list[int]:
    """A tenth of the agents, rounded, none of whose honest neighbours hears another, and which cut nobody off."""
    rng, K = np.random.default_rng(seed), topology.agents
    while True:
        chosen = sorted(rng.choice(K, max(1, round(K / 10)), replace=False).tolist())
        honest = [k for k in range(K) if k not in chosen]
        A = topology.A[np.ix_(honest, honest)]
        reach = nx.is_strongly_connected(nx.from_numpy_array(A, create_using=nx.DiGraph))
        if reach and all(len({*topology.hears(k)} & {*chosen}) < 2 for k in honest):
            return chosen


@lru_cache
def prepared(graph: str, seed: int) -> tuple[Workload, Kernels]:
    """What the agents compute, which no rule and no lie changes."""
    config = RunConfig(topology=graph, seed=seed)
    workload = build(config, of_run(config).agents)
    return workload, compile_kernels(workload, lambda text: None)


def final_losses(config: RunConfig, attack: Attack | None) -> tuple[float, float]:
    """Honest agents' mean loss after 1 and 10 inner steps, at the end; infinite where it diverged."""
    topology = of_run(config)
    false = liars(topology, config.seed)
    honest = [k for k in range(topology.agents) if k not in false]
    workload, kernels = prepared(config.topology, config.seed)
    adapt, mixed, rng = exact(workload, kernels), mixing_of(config, topology), np.random.default_rng(config.seed)
    state = stack_states([workload.first_state(k) for k in range(topology.agents)])
    for i in range(config.iterations):
        state, _ = adapt(state, i, range(topology.agents))
        if not state.phi.isfinite().all():
            return float("inf"), float("inf")
        sent = state.phi.clone()
        if attack:
            told = attack(sent[false].numpy(), sent[honest].numpy(), rng).astype(config.dtype)
            sent[false] = torch.from_numpy(told)
        w = mixed(i, sent)
        if attack:
            w[false] = w[honest].mean(0)
        state = state._replace(w=w)
    figures = [kernels.evaluate(state.w[k].clone(), kernels.validation) for k in honest]
    tests = [by_inner_steps(each, config.eval_steps)[0] for each in figures]
    one, ten = (statistics.fmean(test[steps] for test in tests) for steps in ("1", "10"))
    return one, ten


def table(graphs: list[str], seeds: int, iterations: int) -> Iterator[str]:
    """Losses after 1 and 10 inner steps, the median of the seeds and their range; line by line as they come."""
    yield f"| network | combine | {' | '.join(ATTACKS)} |"
    yield "| :-- | :-- |" + " --: |" * len(ATTACKS)
    for graph in graphs:
        for name in RULES:
            cells = []
            for attack in ATTACKS.values():
                found = []
                for seed in range(seeds):
                    config = RunConfig(topology=graph, combine=name, iterations=iterations, seed=seed)
                    try:
                        found.append(final_losses(config, attack))
                    except ConfigError:
                        break
                cells.append("<br>".join(map(spelt, zip(*found, strict=True))) or "refused")
            yield f"| {graph} | `{name}` | {' | '.join(cells)} |"


def spelt(losses: tuple[float, ...]) -> str:
    """The median and the range of a figure.

    >>> spelt((1.0, 4.0, 2.5)), spelt((float("inf"), float("inf")))
    ('2.50 (1.00–4.00)', 'diverged')
    """
    middle, most = statistics.median(losses), max(losses)
    if middle == float("inf"):
        return "diverged"
    return f"{middle:.3g}" if len(losses) == 1 else f"{middle:#.3g} ({min(losses):#.3g}–{most:#.3g})"


def costs() -> Iterator[str]:
    """Microseconds of one agent's combine, by neighbours and values; the quickest of several tries."""
    yield f"| neighbours | values | {' | '.join(f'`{name}`' for name in RULES)} | who is far too long |"
    yield "| --: | --: |" + " --: |" * (len(RULES) + 1)
    for n in (2, 5, 9):
        for values in (1761, 10**6):
            states = np.random.default_rng(0).standard_normal((n + 1, values), dtype=np.float32)
            yield f"| {n} | {values} | {' | '.join(costs_of(states, 500 if values < 10**5 else 3))} |"


def costs_of(states: np.ndarray, times: int) -> Iterator[str]:
    """Of every rule that so many neighbours allow, and of the look for states that are far too long."""
    n = len(states) - 1
    weights, heard = dict.fromkeys(range(n + 1), 1 / (n + 1)), dict(enumerate(states[:n]))
    for name in RULES:
        combine = partial(rule(name), weights, n, states[n], heard)
        yield f"{microseconds(combine, times):.3g}" if n >= least_neighbours(name) else "refused"
    yield f"{microseconds(partial(outsized, states[n], heard), times):.3g}"


def microseconds(call: Callable[[], object], times: int) -> float:
    """Of one call, the quickest of seven tries of so many calls each."""
    tries = []
    for _ in range(7):
        begun = time.perf_counter()
        for _ in range(times):
            call()
        tries.append((time.perf_counter() - begun) / times)
    return 1e6 * min(tries)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--graph", action="append", help=f"one or more; {', '.join(GRAPHS)} if left away")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--costs", action="store_true")
    words = parser.parse_args()
    with torch_settings(1):
        for line in costs() if words.costs else table(words.graph or list(GRAPHS), words.seeds, words.iterations):
            print(line, flush=True)
