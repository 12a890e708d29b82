"""What does an agent of this run compute? A RunConfig made into tensors and kernels; no sockets, no files."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from difnet import catalog, engine
from difnet.algorithms import Algorithm, State
from difnet.config import RunConfig
from difnet.errors import ConfigError, EnvironmentLacks
from difnet.evaluate import evaluate
from difnet.flat import FlatModel, flatten
from difnet.meta import Batch, Tasks
from difnet.seeding import NETWORK, Purpose, generator
from difnet.tasks import TaskFamily

MOST_BLOCK, BLOCK_VALUES, MOST_MEASURED = 32, 2**18, 2**16


@dataclass(frozen=True)
class Workload:
    """One run's algorithm, task family and model, before anything is traced or compiled."""

    config: RunConfig
    agents: int
    family: TaskFamily
    model: FlatModel
    algorithm: Algorithm
    dtype: torch.dtype
    block: int  # adapt steps whose tasks are drawn together

    def first_launch_model(self, k: int) -> Tensor:
        """w_{k,0}, shape (M,): the same for all agents, or each its own with `init = "separate"`."""
        owner = NETWORK if self.config.init == "common" else k
        seed = int(generator(self.config.seed, Purpose.INIT, owner).integers(2**62))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return flatten(_build_model(self.config, self.family), self.dtype).to(self.config.device)

    def first_state(self, k: int) -> State:
        """The state agent k starts from."""
        return self.algorithm.init(self.first_launch_model(k))

    def fingerprint(self) -> str:
        """A hash of what two agents must share to combine states: parameters in order, and what is done to them."""
        c = self.config
        done = [self.model.signature(), c.dtype, c.mode, c.strategy, c.algorithm.model_dump(), c.task.model_dump()]
        return hashlib.sha256(json.dumps(done, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def measure_every(self) -> int:
        """Iterations between two measurements of the consensus error, for which every launch model travels once.

        Unless told: ten times as often as validations for small models, only with validations for bigger ones.
        """
        default = self.config.eval_every // 10 if self.model.size <= MOST_MEASURED else self.config.eval_every
        return self.config.measure_every or max(1, default)

    def loss(self, w: Tensor, batch: Batch) -> Tensor:
        """The family's loss of the model with parameters w on a batch, a scalar."""
        return self.family.loss(self.model(w, batch[0]), batch[1])

    def draw(self, k: int | None, count: int, rng: np.random.Generator) -> Tasks:
        """Tasks of the family in the run's dtype and on its device; integer targets stay integers."""
        drawn = self.family.draw(k, count, rng)
        (sx, sy), (qx, qy) = drawn
        return Tasks((self._place(sx), self._place(sy)), (self._place(qx), self._place(qy)))

    def validation_tasks(self) -> Tasks:
        """The tasks every agent is tested on."""
        return self.draw(None, self.config.eval_tasks, generator(self.config.seed, Purpose.VALIDATE))

    def _place(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.config.device, dtype, copy=True)


class TaskStream:
    """Agent k's tasks for step 0, 1, 2, …, drawn a block at a time; the same whatever step one begins with."""

    def __init__(self, workload: Workload, k: int) -> None:
        self._workload, self._k, self._number = workload, k, -1
        self._block: list[Tasks] = []

    def __call__(self, step: int) -> Tasks:
        """The tasks of one adapt step: leading size `config.tasks`."""
        number, place = divmod(step, self._workload.block)
        if number != self._number:
            self._block, self._number = steps_of(self.block(number)), number
        return self._block[place]

    def block(self, number: int) -> list[Tensor]:
        """The support inputs and targets and query inputs and targets of one block: leading sizes (steps, tasks)."""
        size, per_step = self._workload.block, self._workload.config.tasks
        rng = generator(self._workload.config.seed, Purpose.TRAIN, self._k, number)
        drawn = self._workload.draw(self._k, size * per_step, rng)
        return [t.unflatten(0, (size, per_step)) for batch in drawn for t in batch]


def steps_of(block: list[Tensor]) -> list[Tasks]:
    """A block's tensors [sx, sy, qx, qy], cut along the first axis into the tasks of each step."""
    return [Tasks((sx, sy), (qx, qy)) for sx, sy, qx, qy in zip(*(t.unbind(0) for t in block), strict=True)]


@dataclass(frozen=True)
class Steps:
    """The compiled (or traced, or eager) functions of a run, for one agent."""

    adapt: Callable[[State, Tasks], tuple[State, Tensor]]
    evaluate: Callable[[Tensor, Tasks], Tensor]
    engine: str
    flops: int | None  # of one adapt


def build(config: RunConfig, agents: int) -> Workload:
    """The workload of a configuration.

    Raises: ConfigError, if a plug-in is unknown, refuses its options or does not fit the others.
    """
    _check_device(config.device)
    family = _make("tasks", config.task.name, config.task.options,
                   agents=agents, shots=config.shots, queries=config.queries)  # fmt: skip
    dtype = getattr(torch, config.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FlatModel(_build_model(config, family).to(config.device, dtype))

    def loss(w: Tensor, batch: Batch) -> Tensor:
        return family.loss(model(w, batch[0]), batch[1])

    algorithm = _make("algorithms", config.algorithm.name, config.algorithm.options, model, loss,
                      inner_lr=config.inner_lr, inner_steps=config.inner_steps, order=config.order,
                      outer_lr=config.outer_lr, optimizer=config.optimizer)  # fmt: skip
    workload = Workload(config, agents, family, model, algorithm, dtype, 1)
    values = _check_family(workload)
    return Workload(config, agents, family, model, algorithm, dtype, max(1, min(MOST_BLOCK, BLOCK_VALUES // values)))


def compile_steps(workload: Workload, say: engine.Say) -> Steps:
    """Trace and compile what one agent runs."""
    adapt, adapt_inputs = flat_adapt(workload)
    validation = workload.validation_tasks()

    def test(inputs: list[Tensor]) -> list[Tensor]:
        w, sx, sy, qx, qy = inputs
        tasks = Tasks((sx, sy), (qx, qy))
        return [evaluate(workload.loss, workload.algorithm.fit, w, tasks, steps=workload.config.eval_steps)]

    test_inputs = [adapt_inputs[0], *validation.support, *validation.query]
    kernels = engine.prepare(
        {"the adapt step": (adapt, adapt_inputs), "the evaluation": (test, test_inputs)}, workload.config.engine, say
    )
    run_adapt, run_test = kernels["the adapt step"].run, kernels["the evaluation"].run

    def adapt_step(state: State, tasks: Tasks) -> tuple[State, Tensor]:
        phi, *slots, loss = run_adapt([state.w, *state.slots, *tasks.support, *tasks.query])
        return State(state.w, phi, tuple(slots)), loss

    def evaluation(w: Tensor, tasks: Tasks) -> Tensor:
        return run_test([w, *tasks.support, *tasks.query])[0]

    return Steps(adapt_step, evaluation, kernels["the adapt step"].engine, kernels["the adapt step"].flops)


def flat_adapt(workload: Workload) -> tuple[engine.Function, list[Tensor]]:
    """The algorithm's adapt as a function of a list of tensors [w, *slots, sx, sy, qx, qy] -> [phi, *slots, loss]."""
    state, tasks = workload.first_state(0), TaskStream(workload, 0)(0)

    def adapt(inputs: list[Tensor]) -> list[Tensor]:
        w, *slots, sx, sy, qx, qy = inputs
        after, loss = workload.algorithm.adapt(State(w, w, tuple(slots)), Tasks((sx, sy), (qx, qy)))
        return [after.phi, *after.slots, loss]

    return adapt, [state.w, *state.slots, *tasks.support, *tasks.query]


def _build_model(config: RunConfig, family: TaskFamily) -> torch.nn.Module:
    name, options = (config.model.name, config.model.options) if config.model else (family.default_model, {})
    module = _make("models", name, options)
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"model {name!r} returned a {type(module).__name__}; it must return a torch.nn.Module")
    return module


def _make(group: str, name: str, options: dict, *args, **common):
    factory = catalog.load(group, name)
    try:
        return factory(*args, **common, **options)
    except TypeError as error:
        raise ConfigError(f"{group.rstrip('s')} {name!r} does not take these options: {error}") from error


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise EnvironmentLacks(f"--device {device} cannot be used here: {reason}. Leave it away for cpu.") from error


def _check_family(workload: Workload) -> int:
    """Draw a first batch and adapt to it, so that a misfit is one clear error; the values of one adapt step."""
    config = workload.config
    name = config.task.name
    try:
        tasks = workload.draw(0, config.tasks, generator(config.seed, Purpose.TRAIN, 0))
        sizes = {t.shape[0] for batch in tasks for t in batch}
        if sizes != {config.tasks}:
            raise ConfigError(f"task {name!r}: draw(count={config.tasks}) returned leading sizes {sorted(sizes)}")
        x, y = tasks.support
        loss = workload.loss(workload.first_launch_model(0), (x[0], y[0]))
        if loss.shape == ():
            workload.algorithm.adapt(workload.first_state(0), tasks)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        model = config.model.name if config.model else workload.family.default_model
        raise ConfigError(f"task {name!r} and model {model!r} do not fit: {type(error).__name__}: {error}") from error
    if loss.shape != ():
        raise ConfigError(f"task {name!r}: its loss has shape {tuple(loss.shape)}; it must be a mean, a scalar")
    return sum(t.numel() for batch in tasks for t in batch)
