"""What does one adapt step of one agent cost, the way it is computed?

The same second-order step (meta-gradient of the 1-40-40-1 network, 10 + 10 samples, then Adam) in several ways, in
turn: a Python loop over tasks with torch.autograd, the eager gradient of the bare script, and what difnet runs: eager,
traced, and compiled ahead of time.
"""

import argparse
import time
from collections.abc import Callable

import bare_eager
import figures
import torch
from figures import figure, ratio, say

from difnet.algorithms import Info, State
from difnet.config import load
from difnet.maths.optimizers import adam
from difnet.meta import Tasks
from difnet.system.machine import torch_settings
from difnet.workload import TaskStream, Workload
from difnet.workload.building import build
from difnet.workload.kernels import compile_kernels

Step = Callable[[State, Tasks], tuple[State, Info]]
LOOP, BARE = "Python loop, autograd", "as the bare script"
NAMES = {"eager": "eager grad(vmap)", "traced": "traced with make_fx", "aot": "compiled ahead of time"}


def words(parser: argparse.ArgumentParser) -> None:
    """What only this measurement is asked."""
    parser.add_argument("--engines", nargs="+", choices=list(NAMES), default=list(NAMES))


@torch_settings()
def measure(words: argparse.Namespace) -> figures.Document:
    """Every way in turn, several times; steps are sized to last a fifth of a second."""
    times, lasting_s = (3, 0.05) if words.quick else (15, 0.2)
    rows, ratios = [], {}
    for tasks in (5, 25):
        workload = build(load(settings={"tasks": tasks, "seed": figures.SEED}), 40)
        ways: dict[str, Step] = {LOOP: by_loop(workload), BARE: as_the_yardstick(workload)}
        for engine in words.engines:
            config = workload.config.model_copy(update={"engine": engine})
            ways[NAMES[engine]] = compile_kernels(build(config, 40), say).adapt
        state, drawn = workload.first_state(0), TaskStream(workload, 0)(0)
        check(ways, state, drawn)
        took: dict[str, list[float]] = {name: [] for name in ways}
        for n in range(times):
            for name, step in ways.items():
                took[name].append(seconds(step, state, drawn, lasting_s))
            say(f"gradients: {tasks} tasks, repetition {n + 1} of {times}")
        rows += [{"what": name, "tasks": tasks, "step, µs": figure(took[name], 1e6)} for name in ways]
        best = list(ways)[-1]
        for name in list(ways)[:-1]:
            ratios[f"{name} to {best}, {tasks} tasks"] = ratio(took[name], took[best])
    notes = ["One process, one thread, warm caches; in a network of more agents than cores every step starts cold.",
             "All ways agree to 1e-4 of the largest value (checked in this run)."]  # fmt: skip
    return figures.document(rows, ratios, notes)


def by_loop(workload: Workload) -> Step:
    """The adapt step as tutorials write it."""
    outer = adam()

    def step(state: State, tasks: Tasks) -> tuple[State, Info]:
        with torch.enable_grad():
            w, total = state.w.detach().requires_grad_(), torch.zeros(())
            for sx, sy, qx, qy in zip(*tasks.support, *tasks.query, strict=True):
                (g,) = torch.autograd.grad(workload.loss(w, (sx, sy)), w, create_graph=True)
                total = total + workload.loss(w - workload.config.inner_lr * g, (qx, qy))
            mean = total / len(tasks.support[0])
            (g,) = torch.autograd.grad(mean, w)
        phi, slots = outer.step(state.w, state.slots, g, workload.config.outer_lr)
        return State(state.w, phi, slots), {"loss": mean.detach()}

    return step


def as_the_yardstick(workload: Workload) -> Step:
    """The adapt step with the gradient of `bare_eager.py`."""
    outer = adam()

    def step(state: State, tasks: Tasks) -> tuple[State, Info]:
        g = bare_eager.gradient(state.w, *tasks.support, *tasks.query)
        phi, slots = outer.step(state.w, state.slots, g, workload.config.outer_lr)
        return State(state.w, phi, slots), {}

    return step


def check(ways: dict[str, Step], state: State, tasks: Tasks) -> None:
    """All ways give the same first moment of Adam, which is a tenth of the meta-gradient."""
    moments = {name: step(state, tasks)[0].slots[0] for name, step in ways.items()}
    for name, moment in moments.items():
        apart = (moment - moments[LOOP]).abs().max() / moments[LOOP].abs().max()
        assert apart < 1e-4, f"{name} differs from {LOOP} by {apart:.1e} of the largest value"


def seconds(step: Step, state: State, tasks: Tasks, lasting_s: float) -> float:
    """Seconds a step takes, over as many as last so long."""
    start = time.perf_counter()
    step(state, tasks)
    count = max(1, int(lasting_s / (time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(count):
        step(state, tasks)
    return (time.perf_counter() - start) / count


if __name__ == "__main__":
    figures.main(measure, words)
