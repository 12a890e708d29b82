"""What does a file with a launch model hold? Read back into values, and into a network that anybody can use.

There are two layouts. A run writes `launch-model.safetensors`: "w", the flat vector, and for Meta-SGD "inner_lr", a
rate for each of its values. An exported file has one tensor for each named parameter, and Meta-SGD's rates in a second
file beside it. Both carry what is needed to build the model again as metadata, every value of it JSON.
"""

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from difnet import catalog
from difnet.config import Choice, read_toml
from difnet.errors import ConfigError, RunFolderError
from difnet.maths.digest import NAME as SEAL
from difnet.maths.digest import intact, sealed
from difnet.maths.flat import FlatModel

if TYPE_CHECKING:
    from torch import nn

FILE = "launch-model.safetensors"
NAMED = "named"  # the metadata's "layout" where there is a tensor for each parameter
ONE = 1e-2  # of a mean's squared length: models that are no farther from it may be used as one
NEEDED = ("task", "model", "algorithm", "inner_lr", "inner_steps", "iteration", "transductive", "parameters")
TRAINED_WITH = (
    "task", "algorithm", "shots", "queries", "inner_lr", "inner_steps", "order", "outer_lr", "optimizer", "iterations",
    "eval_steps", "eval_shots", "eval_queries", "test_tasks", "eval_tasks", "seed", "data_dir",
)  # fmt: skip
Shapes = Sequence[tuple[str, tuple[int, ...]]]  # names and shapes of parameters, in the order of the flat vector


@dataclass(frozen=True)
class LaunchModel:
    """A launch model as a file tells it."""

    path: Path
    w: Tensor  # (M,)
    rates: Tensor | None  # (M,): the inner rates that were learnt with it (Meta-SGD)
    about: Mapping[str, Any]  # the metadata, read as JSON

    @property
    def caution(self) -> str:
        """What somebody has to know before using it; "" for nothing: that it is the mean of models that disagree."""
        apart = float(self.about.get("apart") or 0.0)
        if apart <= ONE:
            return ""
        agents, share = self.about.get("agents", "several"), f"{100 * math.sqrt(apart):.0f} % of its length"
        return (f"this launch model is the mean of {agents} agents' models that differ (by {share}): no agent has it "
                f"or was trained to it; each one's own is in agents/ of the run")  # fmt: skip

    @property
    def state(self) -> Tensor:
        """What the agents carried: w (M,), or w and the rates (2M,)."""
        return self.w if self.rates is None else torch.cat([self.w, self.rates])

    def carried(self, length: int, inner_lr: float | None = None) -> Tensor:
        """What an algorithm fits whose states have so many values: w, or w and the rates it has learnt.

        Args: `inner_lr` that somebody asks for; there is no place for it where rates were learnt.
        Raises: ConfigError, if the file has no rates and the algorithm needs them, or the other way round.
        """
        if length == len(self.w):
            return self.w
        if length != len(self.state):
            raise ConfigError(f"{self.path} lacks the inner rates that its algorithm has learnt; give the run's own "
                              f"folder, or put the file of rates beside it")  # fmt: skip
        if inner_lr is not None:
            raise ConfigError("--inner-lr has no meaning here: a rate for every parameter was learnt; leave it away")
        return self.state

    @property
    def model(self) -> Choice:
        """The model by name, with every option, also those that its factory has by default.

        Raises: ConfigError, if there is no such model, or it is a module of somebody's that cannot be imported here.
        """
        told = Choice.model_validate(self.about["model"])
        taken = inspect.signature(catalog.load("models", told.name)).parameters.values()
        return Choice(name=told.name, options={p.name: p.default for p in taken if p.default is not p.empty}
                      | told.options)  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """What of the run's configuration says how a task is fitted: of the run folder the file lies in, if it does."""
        beside = self.path.with_name("config.toml")
        is_in_run = self.path.name == FILE and beside.is_file()
        told = read_toml(beside) if is_in_run else self.about.get("settings", self.about)
        dtype = {"dtype": str(self.w.dtype).removeprefix("torch.")}
        return {name: told[name] for name in TRAINED_WITH if name in told} | dtype | {"model": self.model.model_dump()}

    def metadata(self, tensors: Mapping[str, Tensor], **more: Any) -> dict[str, str]:
        """What a file of these tensors carries that leaves its run folder; `more` beside it or in its place."""
        seal = sealed({name: tensor.numpy() for name, tensor in tensors.items()})
        settings = {name: value for name, value in self.settings().items() if name != "data_dir"}  # it stays behind
        told = {**self.about, "settings": settings, **more}
        return {name: json.dumps(value) for name, value in told.items()} | seal

    @property
    def shapes(self) -> Shapes:
        """Names and shapes of the parameters, in the order of the flat vector."""
        return [(name, tuple(shape)) for name, shape in self.about["parameters"]]

    def check_fits(self, shapes: Shapes, whose: str) -> None:
        """Raises: ConfigError, naming the first parameter that differs from those of `whose` model."""
        for theirs, ours in zip_longest(self.shapes, shapes):
            if theirs != ours:
                raise ConfigError(
                    f"{self.path} does not fit {whose}: the first parameter that differs is {_parameter(theirs)} in "
                    f"the file, and {_parameter(ours)} here; the file's model is {self.about['model']}"
                )

    def module(self) -> "nn.Module":
        """The network itself, built from the catalog, its parameters filled in, bit for bit; in their dtype.

        Raises: ConfigError, if the model cannot be built here, or is no longer the one that was trained.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what is not trained is as a run has it
            made = catalog.model(self.model.name, self.model.options).to(self.w.dtype)
        flat = FlatModel(made)
        self.check_fits(flat.signature(), f"the model {self.model.name!r} as it is built here")
        with torch.no_grad():
            for name, values in flat.unflatten(self.w).items():
                made.get_parameter(name).copy_(values)
        return made


def rates_beside(path: Path) -> Path:
    """Where an exported file's learnt inner rates lie.

    >>> rates_beside(Path("out/mine.onnx")).name
    'mine.inner-lr.safetensors'
    """
    return path.with_name(f"{path.stem}.inner-lr.safetensors")


def read(place: str | Path) -> LaunchModel:
    """The launch model of a run folder, in a run's `launch-model.safetensors`, or in an exported .safetensors file.

    Raises: RunFolderError, if there is none, or it is damaged, or not from difnet.
    """
    path = Path(place) / FILE if Path(place).is_dir() else Path(place)
    if not path.is_file():
        why = ("; a run writes it as soon as all agents were tested" if Path(place).is_dir() else
               "; give a run folder, its launch-model.safetensors, or a .safetensors file that `difnet export` wrote")
        raise RunFolderError(f"there is no launch model in {place}: no file {path.name}{why}")
    tensors, about = _read_file(path)
    if about.get("layout") != NAMED:
        return _checked(LaunchModel(path, _values(path, tensors, "w"), tensors.get("inner_lr"), about))
    shapes = about["parameters"]
    beside = rates_beside(path)
    rates = _joined(beside, _read_file(beside)[0], shapes) if beside.is_file() else None
    return _checked(LaunchModel(path, _joined(path, tensors, shapes), rates, about))


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()  # once: a run that goes on puts another file in its place
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise RunFolderError(f"{path} is no safetensors file, or is damaged: {error}; copy it again") from error
    if not intact({name: tensor.numpy() for name, tensor in tensors.items()}, metadata):
        raise RunFolderError(f"{path} is damaged: its values are not those that were written; copy it again")
    if missing := [name for name in NEEDED if name not in metadata]:
        raise RunFolderError(f"{path} has no {missing[0]!r} in its metadata, so nobody can say what model it is; "
                             f"expected a file that a run or `difnet export --format safetensors` wrote")  # fmt: skip
    try:
        return tensors, {name: json.loads(text) for name, text in metadata.items() if name != SEAL}
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"the metadata of {path} is damaged: {error}; copy the file again") from error


def _values(path: Path, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise RunFolderError(f"{path} has no tensor {name!r}, but {', '.join(sorted(tensors)[:5])}; copy it again")
    return tensors[name]


def _joined(path: Path, tensors: Mapping[str, Tensor], shapes: Shapes) -> Tensor:
    return torch.cat([_values(path, tensors, name).reshape(-1) for name, _ in shapes])


def _checked(learnt: LaunchModel) -> LaunchModel:
    size = sum(math.prod(shape) for _, shape in learnt.shapes)
    for name, values in (("w", learnt.w), ("inner_lr", learnt.rates)):
        if values is not None and values.shape != (size,):
            raise RunFolderError(f"{learnt.path}: {name} has {values.numel()} values, but the parameters that the "
                                 f"metadata tells of have {size}; copy the file again")  # fmt: skip
        if values is not None and not values.isfinite().all():
            raise RunFolderError(f"{learnt.path}: {name} has values that are not finite: that run diverged; repeat it "
                                 f"with a smaller --outer-lr or --inner-lr")  # fmt: skip
    return learnt


def _parameter(piece: tuple[str, tuple[int, ...]] | None) -> str:
    return "nothing" if piece is None else f"{piece[0]!r} of shape {piece[1]}"
