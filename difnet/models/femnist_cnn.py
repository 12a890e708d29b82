"""The convolutional network of LEAF's FEMNIST.

Source: Caldas et al., "LEAF", 2018; Chen et al., FedMeta, appendix A.2: two 5x5 convolutions with 32 and 64 filters,
each with max-pooling, a layer of 2048 units, 62 classes.
"""

from collections.abc import Sequence

from torch import nn


def femnist_cnn(
    inputs: int = 784, outputs: int = 62, filters: Sequence[int] = (32, 64), hidden: int = 2048
) -> nn.Module:
    """Inputs (n, inputs) are the pixels of square grey pictures one after another.

    >>> sum(p.numel() for p in femnist_cnn().parameters())
    6603710
    """
    size = round(inputs**0.5)
    layers: list[nn.Module] = [nn.Unflatten(1, (1, size, size))]
    for given, made in zip((1, *filters), filters, strict=False):
        layers += [nn.Conv2d(given, made, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        size //= 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(filters[-1] * size**2, hidden), nn.ReLU(),
                         nn.Linear(hidden, outputs))  # fmt: skip
