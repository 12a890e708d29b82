"""How are a model's parameters one flat vector, and back?"""

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from difnet.errors import ConfigError
from difnet.meta import Each, in_turn

PLAIN = (
    nn.Sequential, nn.Linear, nn.Flatten, nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.GELU,
)  # fmt: skip

# mapped over weights they take much memory, and mostly time; PyTorch's recurrences and cells cannot even be mapped
OWN_WEIGHTS_COST = (nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase)


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

    def __init__(self, module: nn.Module, example: Callable[[], Tensor] | None = None) -> None:
        """Args: `example` makes an input (n, ...), with which `head` sees the order in which layers are used.

        Raises: ConfigError, if nothing is to be learnt, or a layer's output depends on more than w and its input.
        """
        trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not trainable:
            raise ConfigError(f"{type(module).__name__} has no trainable parameters: there is nothing to learn")
        _refuse_running_statistics(module)
        _refuse_random_numbers(module)
        self.module, self.example = module, example
        self.pieces = tuple(_pieces(trainable))
        self.size = self.pieces[-1].stop
        self._may_attend = any(_may_attend(layer) for layer in module.modules())
        self._recurs = any(isinstance(layer, nn.RNNBase) for layer in module.modules())

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        """The module's output for input x with the parameters in w, shape (M,).

        Attention and recurrences take those of PyTorch's ways that can be differentiated twice: its fused attention
        cannot, nor can cuDNN's recurrences.
        """
        if not (self._may_attend or self._recurs):
            return functional_call(self.module, self.unflatten(w), (x,))
        with ExitStack() as ways:
            if self._may_attend:
                ways.enter_context(sdpa_kernel(SDPBackend.MATH))
            if self._recurs and torch.is_grad_enabled():
                ways.enter_context(torch.backends.cudnn.flags(enabled=False))
            return functional_call(self.module, self.unflatten(w), (x,))

    def head(self) -> Tensor:
        """A mask, float64 (M,): 1 on the parameters of the last layer that has any, else 0 (ANIL's inner steps).

        The last layer is the one that is used last where there is an example of the inputs, else (and where no layer
        that has parameters is called) the one that was registered last.
        """
        inside = [(piece.stop - piece.start, piece.name in self._names_in_head) for piece in self.pieces]
        return torch.cat([torch.full((size,), float(is_head), dtype=torch.float64) for size, is_head in inside])

    @cached_property
    def _names_in_head(self) -> set[str]:
        own = dict(self.module.named_parameters())
        used = _used_last(self.module, self.example()) if self.example else None
        last = self.module.get_submodule(self.pieces[-1].name.rpartition(".")[0]) if used is None else used
        inside = {id(p) for p in last.parameters(recurse=used is not None)}
        return {piece.name for piece in self.pieces if id(own[piece.name]) in inside}

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


def _used_last(module: nn.Module, x: Tensor) -> nn.Module | None:
    """Of the modules that have trainable parameters of their own, the one whose forward begins last; None: no one's."""
    begun: list[nn.Module] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, _: begun.append(layer))
        for layer in module.modules()
        if any(p.requires_grad for p in layer.parameters(recurse=False))
    ]
    try:
        with torch.no_grad():
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return begun[-1] if begun else None


def _may_attend(layer: nn.Module) -> bool:
    """Whether the layer itself may call `scaled_dot_product_attention`: PyTorch's own, or one we cannot look into."""
    return isinstance(layer, nn.MultiheadAttention) or not type(layer).__module__.startswith("torch.nn.")


def _refuse_running_statistics(module: nn.Module) -> None:
    """Running averages are state outside w: no agent would exchange them, and no outer gradient would see them."""
    for name, layer in module.named_modules():
        if getattr(layer, "track_running_stats", False):
            raise ConfigError(
                f"layer {name!r} keeps running statistics, which are not part of the launch model; "
                f"build it with track_running_stats=False"
            )


def _refuse_random_numbers(module: nn.Module) -> None:
    """With them a Hessian product is that of another function than the gradient, and tests are of neither.

    A module's own random numbers are not seen here, but when a workload is built.
    """
    for name, layer in module.named_modules():
        if randomness := _randomness(layer):
            drawn, right = randomness
            raise ConfigError(
                f"layer {name!r} ({type(layer).__name__}, {drawn}) draws random numbers, which are not part of the "
                f"launch model: gradient, Hessian product and test would each see another function; {right}"
            )


def _randomness(layer: nn.Module) -> tuple[str, str] | None:
    """The option by which a layer of PyTorch's draws random numbers, and what would be right; None: it draws none."""
    if isinstance(layer, nn.RReLU):
        drawn = layer.training and layer.lower != layer.upper
        return (f"slopes from {layer.lower:.3g} to {layer.upper:.3g}", "take nn.LeakyReLU") if drawn else None
    word, share, draws = "dropout", 0.0, layer.training
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        word, share = "p", layer.p
    elif isinstance(layer, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        draws, share = layer.dropout.training, getattr(layer.dropout, "p", 0.0)
    elif isinstance(layer, nn.MultiheadAttention) or (isinstance(layer, nn.RNNBase) and layer.num_layers > 1):
        share = layer.dropout
    return (f"{word}={share:g}", f"build it with {word}=0") if draws and share > 0 else None
