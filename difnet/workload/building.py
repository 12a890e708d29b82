"""How does a RunConfig become a workload? Plug-ins are found, fitted together and tried once, or refused."""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from difnet import catalog
from difnet.algorithms import Algorithm
from difnet.config import Choice, RunConfig, Server
from difnet.errors import ConfigError, EnvironmentLacks
from difnet.maths.flat import FlatModel
from difnet.maths.seeding import Purpose, generator
from difnet.meta import Batch, Loss
from difnet.tasks import TaskFamily, is_owned
from difnet.topology.networks import stars
from difnet.workload import Workload

MOST_BLOCK, BLOCK_VALUES = 32, 2**18  # adapt steps whose tasks are drawn together, and the values in all of them
OFFLINE_TRAINER = "dsgd"
ALGORITHM_WORDS = ("inner_lr", "inner_steps", "order", "outer_lr", "optimizer", "iterations")


class Own(NamedTuple):
    """What this process has of the data that stays with its owners."""

    data: Path | None  # a folder or file of its own, which no configuration names; None: there is none
    here: Sequence[int] | None = None  # the agents whose data that is; None: all

    def numbered(self, agents: int, owners: int | None, server: int | None) -> "Own":
        """The same, with the numbers by which tasks are drawn for those of the agents; see `Workload.client`."""
        if self.here is None:
            return self
        here = [k for k in self.here if k != server]
        if owners is None:
            return self._replace(here=[k - (server is not None and k > server) for k in here])
        everybody = range(owners) if 0 in here else []
        return self._replace(here=[*everybody, *(owners + k - agents for k in here if k >= agents)])


def build(
    config: RunConfig, agents: int, hub: int | None = None, owners: int | None = None, own: Own | None = None
) -> Workload:
    """The workload of a configuration.

    Args: `hub`, the centre of a star, which serves if the algorithm lets it; `owners`, whose tasks the one agent of
        centralised learning has; `own`, the data here, for a task family whose data stays with its owners.
    Raises: ConfigError, if a plug-in is unknown, refuses its options or does not fit the others.
    """
    check_device(config.device)
    dtype = getattr(torch, config.dtype)
    clients, numbered = _numbered(config, agents, owners, own, hub)
    family = make_family(config, clients, numbered)
    choice = _choose_model(config, family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = catalog.model(choice.name, choice.options).to(config.device, dtype)

    def first_input() -> Tensor:
        rng = generator(config.seed, Purpose.TRAIN, 0)
        x = (family.example(1, rng) if is_owned(family) else family.draw(0, 1, rng)).support[0][0]
        return x.to(config.device, dtype if x.is_floating_point() else x.dtype)

    try:
        model = FlatModel(module, first_input)
    except ConfigError as error:
        raise ConfigError(f"model {choice.name!r}: {error}") from error

    def loss(w: Tensor, batch: Batch) -> Tensor:
        return family.loss(model(w, batch[0]), batch[1])

    algorithm = make_algorithm(config, config.algorithm.name, config.algorithm.options, model, loss)
    offline = make_algorithm(config, OFFLINE_TRAINER, {}, model, loss, outer_lr=config.offline_lr, optimizer="adam")
    server = _who_serves(config, family, algorithm, agents, hub)
    if hub is not None and server is None:
        clients, numbered = _numbered(config, agents, owners, own, None)
        family = make_family(config, clients, numbered)  # the hub is an agent like the others, with tasks of its own
    same = config.eval_shots is None and config.eval_queries is None
    unseen = family if same else make_family(config, clients, numbered, unseen=True)
    workload = Workload(config, agents, server, family, unseen, choice, model, algorithm, offline, dtype, 1, owners)
    workload.server_rounds.check()
    for caution in family.cautions if is_owned(family) else ():
        print(caution, file=sys.stderr, flush=True)  # on the owners' own screen, and nowhere else
    values = _check_family(workload)
    return replace(workload, block=max(1, min(MOST_BLOCK, BLOCK_VALUES // values)))


def _numbered(
    config: RunConfig, agents: int, owners: int | None, own: Own | None, server: int | None
) -> tuple[int, Own | None]:
    """How many have tasks, and what is here of them, where `server` has none."""
    clients = (owners or agents - (server is not None)) + config.hold_out.count
    return clients, own and own.numbered(agents, owners, server)


def make_family(config: RunConfig, clients: int, own: Own | None = None, unseen: bool = False) -> TaskFamily:
    """A run's task family.

    Args: `clients`, how many have tasks; `own`, what is here of data that stays with its owners, with their numbers;
        `unseen`, with the samples per task that validation and test tasks have.
    Raises: ConfigError, if it refuses its options, or `own` is missing, or is for a family that has no use for it.
    """
    shots, queries = config.shots, config.queries
    if unseen:
        shots, queries = config.eval_shots or shots, config.eval_queries or queries
    common = {"agents": clients, "shots": shots, "queries": queries}
    words = catalog.taken("tasks", config.task.name, {"data_dir": config.data_dir, "keeps": not config.hold_out,
                                                      "here": own.here if own else None})  # fmt: skip
    if _reads_own(config.task.name):
        words |= {"data": _own_data(config, own)}
    elif own and own.data:
        raise ConfigError(f"task {config.task.name!r} has no use for --data, which names owners' own files; leave it "
                          f"away, or try --task table")  # fmt: skip
    if "keeps" not in words and config.hold_out:
        raise ConfigError(f"hold_out is for owners with data of their own, and task {config.task.name!r} has its own "
                          f"validation and test tasks; leave it away, or try --task table")  # fmt: skip
    return catalog.make("tasks", config.task.name, config.task.options, **common, **words)


def _reads_own(task: str) -> bool:
    """Whether a task family reads the files that --data names: its factory says `data = ()`."""
    word = inspect.signature(catalog.load("tasks", task)).parameters.get("data")
    return word is not None and word.default == ()


def _own_data(config: RunConfig, own: Own | None) -> Any:
    """What a task family is told of where the data here lies; no configuration says it."""
    if own is None or (own.data is None and own.here != []):
        raise ConfigError(f"task {config.task.name!r} learns from owners' own files, and none are named; say --data "
                          f"DIR, here or at `difnet host`, with those of the agents that run there")  # fmt: skip
    return own.data or ()


def make_algorithm(
    config: RunConfig, name: str, options: dict, model: FlatModel, loss: Loss, **otherwise: Any
) -> Algorithm:
    """An algorithm with those of the common words that its factory takes."""
    words = {word: getattr(config, word) for word in ALGORITHM_WORDS} | otherwise
    return catalog.make("algorithms", name, options, model, loss, **catalog.taken("algorithms", name, words))


def _who_serves(
    config: RunConfig, family: TaskFamily, algorithm: Algorithm, agents: int, hub: int | None
) -> int | None:
    """The hub, if it serves; the words that only a server understands are refused without one."""
    name = config.algorithm.name
    if algorithm.needs_hub and hub is None:
        raise ConfigError(f"algorithm {name!r} sends gradients, so it needs a hub, and this network has none; try "
                          f"--topology 'star_graph(n={max(2, agents - 1)})' or {' or '.join(stars())}")  # fmt: skip
    if algorithm.offline and config.strategy == "centralised":
        raise ConfigError(f"algorithm {name!r} begins from local models, and strategy 'centralised' has one learner; "
                          f"leave it away")  # fmt: skip
    if algorithm.everyone and (config.local_steps > 1 or config.strategy == "cta"):
        raise ConfigError(f"algorithm {name!r} takes one step between two exchanges, and adapts before it combines; "
                          f"leave --local-steps and --strategy cta away")  # fmt: skip
    if algorithm.server is None or hub is None:
        if config.server != Server():
            why = f"algorithm {name!r} has no server step" if algorithm.server is None else "this network has no hub"
            raise ConfigError(f"server.* is given, but {why}: nobody would serve; leave it away, or use --algorithm "
                              f"fedavg on --topology star10")  # fmt: skip
        return None
    if config.mode == "async" or config.strategy == "cta":
        what = "mode 'async'" if config.mode == "async" else "strategy 'cta'"
        raise ConfigError(f"{what} has no meaning with a server: give server.deadline_s to go on without late clients")
    if config.combine != "mean":
        raise ConfigError(f"combine {config.combine!r} is for agents that hear each other, and here agent {hub} serves "
                          f"and takes the mean of its clients; leave --combine away, or use --algorithm dif-maml on "
                          f"another topology")  # fmt: skip
    if algorithm.needs_hub and config.local_steps > 1:
        raise ConfigError(f"algorithm {name!r} sends a gradient, which takes one local step, got --local-steps "
                          f"{config.local_steps}; try --tasks {config.tasks * config.local_steps}")  # fmt: skip
    if config.server.sampling == "samples" and is_owned(family):
        raise ConfigError(f"server.sampling 'samples' calls clients by how many samples they have, and with task "
                          f"{config.task.name!r} nobody but their owners knows that; leave it away: "
                          f"server.aggregation 'samples' weighs their answers by it all the same")  # fmt: skip
    if algorithm.everyone and config.server != Server():
        raise ConfigError(f"algorithm {name!r} needs every client in every round; leave server.* away")
    return hub


def _choose_model(config: RunConfig, family: TaskFamily) -> Choice:
    """The model a run names, else the family's own; what is not said of it is as the family's samples need it."""
    name, options = (config.model.name, config.model.options) if config.model else (family.default_model, {})
    return Choice(name=name, options=catalog.taken("models", name, getattr(family, "model_words", {})) | options)


def check_device(device: str) -> None:
    """Raises: EnvironmentLacks, if tensors cannot be made there."""
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
        k = workload.clients[0]
        rng = generator(config.seed, Purpose.TRAIN, 0)
        tasks = workload.example(config.tasks, rng)
        sizes = {t.shape[0] for batch in tasks for t in batch}
        if sizes != {config.tasks}:
            raise ConfigError(f"task {name!r}: draw(count={config.tasks}) returned leading sizes {sorted(sizes)}")
        w = workload.first_launch_model(k)
        for x, y in tasks:
            _refuse_pairs(name, workload.model(w, x[0]), y[0])
        x, y = tasks.support
        _refuse_two_answers(workload.choice.name, workload.model, w, x[0])
        loss = workload.loss(w, (x[0], y[0]))
        if loss.shape == ():
            workload.algorithm.adapt(workload.first_state(k), tasks)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        model = config.model.name if config.model else workload.family.default_model
        raise ConfigError(f"task {name!r} and model {model!r} do not fit: {type(error).__name__}: {error}") from error
    if loss.shape != ():
        raise ConfigError(f"task {name!r}: its loss has shape {tuple(loss.shape)}; it must be a mean, a scalar")
    return sum(t.numel() for batch in tasks for t in batch)


def _refuse_two_answers(name: str, model: FlatModel, w: Tensor, x: Tensor) -> None:
    """Refuse a model whose output depends on anything but w and x: on random numbers, or on earlier calls.

    Raises: ConfigError.
    """
    answers = []
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        for seed in (0, 1):
            torch.manual_seed(seed)
            answers.append(model(w + 0.01, x))  # a layer that begins at 0 would hide those before it
    rounding = 1e-4 if x.is_cuda else 0.0  # there some sums are taken in any order
    if not torch.allclose(answers[0], answers[1], rtol=rounding, atol=rounding, equal_nan=True):
        raise ConfigError(f"model {name!r} gives two outputs for one input and the same parameters: it draws random "
                          f"numbers of its own (as F.dropout or torch.rand_like do) or keeps something between calls, "
                          f"so gradient, Hessian product and test would each see another function; make its output "
                          f"follow from its parameters and its input alone")  # fmt: skip


def _refuse_pairs(task: str, prediction: Tensor, target: Tensor) -> None:
    """Refuse targets that broadcast: a difference of (n,) and (n, 1) is (n, n), every sample against every other one.

    Whatever the loss makes of that, it is a number, and training goes on to predict the mean.

    Raises: ConfigError, naming both shapes.
    """
    try:
        together = torch.broadcast_shapes(prediction.shape, target.shape)
    except RuntimeError:
        return  # a loss that takes these knows what it does, as the cross entropy of logits (n, C) and classes (n,)
    if together.numel() > max(prediction.numel(), target.numel()):
        raise ConfigError(f"task {task!r}: its targets have shape {tuple(target.shape)} and the model's predictions "
                          f"{tuple(prediction.shape)}, so a loss would compare every sample with every other one; give "
                          f"targets of the predictions' shape")  # fmt: skip
