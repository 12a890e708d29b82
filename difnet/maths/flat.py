"""How are a model's parameters one flat vector, and back?"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from difnet.errors import ConfigError
from difnet.meta import Each, in_turn

PLAIN = (
    nn.Sequential, nn.Linear, nn.Flatten, nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.GELU,
)  # fmt: skip

OWN_WEIGHTS_COST = (nn.modules.conv._ConvNd, nn.RNNBase)  # mapped over weights they take much memory, and mostly time


class Piece(NamedTuple):
    """Where one parameter lies in the flat vector."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


class FlatModel:
    """A `torch.nn.Module` seen as a function of one flat vector w of M values.

    The module itself is only a skeleton: its own parameters are never read again.

    >>> model = FlatModel(nn.Linear(3, 2))
    >>> model.size, model(torch.zeros(8), torch.ones(5, 3)).shape
    (8, torch.Size([5, 2]))
    """

    def __init__(self, module: nn.Module) -> None:
        trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not trainable:
            raise ConfigError(f"model {type(module).__name__} has no trainable parameters: there is nothing to learn")
        _refuse_running_statistics(module)
        self.module = module
        self.pieces = tuple(_pieces(trainable))
        self.size = self.pieces[-1].stop

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        """The module's output for input x with the parameters in w, shape (M,)."""
        return functional_call(self.module, self.unflatten(w), (x,))

    def head(self) -> Tensor:
        """A mask, float64 (M,): 1 on the parameters of the last layer that has any, else 0 (ANIL's inner steps)."""
        last = self.pieces[-1].name.rpartition(".")[0]
        mask = torch.zeros(self.size, dtype=torch.float64)
        for piece in self.pieces:
            if piece.name.rpartition(".")[0] == last:
                mask[piece.start : piece.stop] = 1.0
        return mask

    @property
    def is_plain(self) -> bool:
        """Whether every layer is of a kind through which one derivative for all tasks at once is known to be right."""
        return all(type(layer) in PLAIN for layer in self.module.modules())

    @property
    def each(self) -> Each:
        """How a function of one task, and so of one set of weights, is best applied to many: mapped, or in turn."""
        slow = any(isinstance(layer, OWN_WEIGHTS_COST) for layer in self.module.modules())
        return in_turn if slow else vmap

    @property
    def is_transductive(self) -> bool:
        """Whether a prediction depends on the other samples of its batch: batch normalisation with batch statistics."""
        return any(isinstance(layer, nn.modules.batchnorm._NormBase) for layer in self.module.modules())

    def signature(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes in the order of the flat vector: what two agents must agree on."""
        return [(p.name, p.shape) for p in self.pieces]

    def unflatten(self, w: Tensor) -> dict[str, Tensor]:
        """The named parameters in w, as views; the inverse of `flatten`."""
        return {p.name: w[p.start : p.stop].view(p.shape) for p in self.pieces}


def flatten(module: nn.Module, dtype: torch.dtype) -> Tensor:
    """The module's trainable parameters as one flat vector, shape (M,)."""
    parts = [p.detach().reshape(-1) for p in module.parameters() if p.requires_grad]
    return torch.cat(parts).to(dtype)


def _pieces(trainable: Iterable[tuple[str, Tensor]]) -> Iterable[Piece]:
    start = 0
    for name, parameter in trainable:
        stop = start + math.prod(parameter.shape)
        yield Piece(name, tuple(parameter.shape), start, stop)
        start = stop


def _refuse_running_statistics(module: nn.Module) -> None:
    """Running averages are state outside w: no agent would exchange them, and no outer gradient would see them."""
    for name, layer in module.named_modules():
        if getattr(layer, "track_running_stats", False):
            raise ConfigError(
                f"layer {name!r} keeps running statistics, which are not part of the launch model; "
                f"build it with track_running_stats=False"
            )
