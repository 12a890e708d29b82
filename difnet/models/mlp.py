"""A multi-layer perceptron with ReLU; by default the 1-40-40-1 net of the sinusoid experiments (1761 parameters)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(inputs: int = 1, hidden: Sequence[int] = (40, 40), outputs: int = 1) -> nn.Module:
    """Linear layers of the given widths with ReLU between them, PyTorch's own initialisation.

    >>> sum(p.numel() for p in mlp().parameters())
    1761
    """
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise([inputs, *hidden, outputs]):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
