"""What does an agent run? The workload's functions, traced and compiled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from difnet.algorithms import Algorithm, Info, State
from difnet.maths.evaluate import evaluate, query_samples
from difnet.meta import Tasks
from difnet.workload import Workload, engine

Adapt = Callable[[State, Tasks], tuple[State, Info]]
Evaluate = Callable[[Tensor, Tasks | Sequence[Tasks]], Tensor]  # (w, tasks) -> figures, (1 + numbers of inner steps, F)


@dataclass(frozen=True)
class Kernels:
    """The compiled (or traced, or eager) functions of a run, for any agent."""

    adapt: Adapt
    evaluate: Evaluate
    validation: Tasks | Sequence[Tasks]  # what a launch model is tested on in training, where all have the same tasks
    train_alone: Adapt | None  # a step of offline training
    engine: str
    flops: int | None  # of one adapt


def compile_kernels(workload: Workload, say: engine.Say) -> Kernels:
    """Trace and compile what one agent runs."""
    config, algorithm, validation = workload.config, workload.algorithm, workload.validation_tasks()
    first = workload.first_state(workload.clients[0]).w
    for caution in workload.cautions:
        say(caution)

    def scores(w: Tensor, tasks: Tasks | Sequence[Tasks]) -> Tensor:
        every = evaluate(workload.measure, algorithm.fit, w, tasks, config.eval_steps, workload.model.each)
        by_samples = query_samples(tasks).to(every)
        return torch.einsum("t,tsf->sf", by_samples / by_samples.sum(), every)

    flat = {"the adapt step": flat_adapt(workload, algorithm)}
    if workload.offline_steps:
        flat["the offline step"] = flat_adapt(workload, workload.offline)
    functions = {name: (function, example) for name, (function, example, _) in flat.items()}
    if isinstance(validation, Tasks):
        functions["the evaluation"] = (
            lambda inputs: [scores(inputs[0], Tasks((inputs[1], inputs[2]), (inputs[3], inputs[4])))],
            [first, *validation.support, *validation.query],
        )  # fmt: skip
    kernels = engine.prepare(functions, workload.engine, say)

    def evaluation(w: Tensor, tasks: Tasks | Sequence[Tasks]) -> Tensor:
        if isinstance(tasks, Tasks):
            return kernels["the evaluation"].run([w, *tasks.support, *tasks.query])[0]
        return scores(w, tasks)

    def step(name: str) -> Adapt:
        run, names = kernels[name].run, flat[name][2]

        def adapt(state: State, tasks: Tasks) -> tuple[State, Info]:
            return unflatten_step(state, run([state.w, *state.slots, *tasks.support, *tasks.query]), names)

        return adapt

    adapt = step("the adapt step")
    train_alone = step("the offline step") if workload.offline_steps else None
    kernel, (_, example) = kernels["the adapt step"], functions["the adapt step"]
    flops = engine.count_flops(kernel.operations, example)
    return Kernels(adapt, evaluation, validation, train_alone, kernel.engine, flops)


def on_device(kernels: Kernels, device: str) -> Kernels:
    """The same kernels for an agent whose states and tasks are on the CPU: they go to the device, results come back."""

    def away(adapt: Adapt) -> Adapt:
        def there_and_back(state: State, tasks: Tasks) -> tuple[State, Info]:
            (sx, sy), (qx, qy) = ((x.to(device), y.to(device)) for x, y in tasks)
            begun = State(state.w.to(device), state.phi.to(device), tuple(slot.to(device) for slot in state.slots))
            after, info = adapt(begun, Tasks((sx, sy), (qx, qy)))
            slots = tuple(slot.cpu() for slot in after.slots)
            return State(state.w, after.phi.cpu(), slots), {name: figure.cpu() for name, figure in info.items()}

        return there_and_back

    def evaluate(w: Tensor, tasks: Tasks | Sequence[Tasks]) -> Tensor:
        each = [tasks] if isinstance(tasks, Tasks) else tasks
        there = [Tasks(*((x.to(device), y.to(device)) for x, y in task)) for task in each]
        return kernels.evaluate(w.to(device), there[0] if isinstance(tasks, Tasks) else there).cpu()

    train_alone = away(kernels.train_alone) if kernels.train_alone else None
    return replace(kernels, adapt=away(kernels.adapt), evaluate=evaluate, train_alone=train_alone)


def describe(workload: Workload, kernels: Kernels) -> dict[str, Any]:
    """What a record has to know of a workload and its kernels."""
    manifest = None if workload.is_owned else getattr(workload.family, "manifest", None)  # who has how much stays there
    return {
        "engine": kernels.engine, "flops": kernels.flops, "parameters": workload.model.size, "length": workload.length,
        "server": workload.hub, "model": workload.choice.model_dump(), "pieces": workload.model.signature(),
        "carriers": [k for k in range(workload.agents) if workload.carries(k)],
        "transductive": workload.model.is_transductive, "manifest": manifest() if manifest else None,
        "judges": {part: [*agents] for part, agents in workload.judges.items()},
    }  # fmt: skip


def flat_adapt(workload: Workload, algorithm: Algorithm) -> tuple[engine.Function, list[Tensor], list[str]]:
    """An algorithm's adapt as a function of a list of tensors [w, *slots, sx, sy, qx, qy] -> [phi, *slots, *info].

    Returns: the function, an example of its inputs, and the names of the info's figures.
    """
    state, tasks = algorithm.init(workload.first_launch_model(workload.clients[0])), workload.first_tasks()
    names = [*algorithm.adapt(state, tasks)[1]]

    def adapt(inputs: list[Tensor]) -> list[Tensor]:
        w, *slots, sx, sy, qx, qy = inputs
        after, info = algorithm.adapt(State(w, w, tuple(slots)), Tasks((sx, sy), (qx, qy)))
        return [after.phi, *after.slots, *(info[name] for name in names)]

    inputs = [state.w, *state.slots, *tasks.support, *tasks.query]
    return adapt, [t.clone() for t in inputs], names  # a trace would take two inputs that are one tensor for one


def unflatten_step(before: State, outputs: Sequence[Tensor], names: Sequence[str]) -> tuple[State, Info]:
    """What `flat_adapt`'s function returned, as adapt returns it."""
    phi, *rest = outputs
    slots, figures = rest[: len(before.slots)], rest[len(before.slots) :]
    return State(before.w, phi, tuple(slots)), dict(zip(names, figures, strict=True))


def by_inner_steps(figures: Tensor, steps: Sequence[int]) -> tuple[dict[str, float], dict[str, float]]:
    """What `Kernels.evaluate` returned, by number of inner steps, "0" first: losses, and accuracies or nothing."""
    names = ["0", *map(str, steps)]
    loss, *accuracy = ([float(x) for x in column] for column in figures.T)
    return dict(zip(names, loss, strict=True)), dict(zip(names, accuracy[0], strict=True)) if accuracy else {}
