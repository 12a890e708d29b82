"""The four-layer convolutional network of few-shot classification.

Source: Vinyals et al., 2016; Finn, Abbeel, Levine, 2017 (MAML), section 5.2: 3x3 convolutions, batch normalisation,
ReLU, then max-pooling with 32 filters (MiniImagenet), or strides of 2 in its place with 64 (Omniglot).
"""

from torch import nn


def conv4(
    channels: int = 1, size: int = 28, outputs: int = 5, filters: int | None = None, strided: bool | None = None
) -> nn.Module:
    """Four blocks, and one linear layer on what is left of the picture.

    Batch normalisation always takes the statistics of the batch at hand, and keeps none: a prediction depends on the
    other samples of its batch (it is transductive).

    Args: `filters` in each layer, by default 64 for pictures of one channel and 32 for others; `strided`, strides of 2
        and then the mean over the picture, instead of max-pooling; by default for pictures of one channel.

    >>> sum(p.numel() for p in conv4().parameters()), sum(p.numel() for p in conv4(channels=3, size=84).parameters())
    (112261, 32901)
    """
    filters = filters or (64 if channels == 1 else 32)
    strided = channels == 1 if strided is None else strided
    layers: list[nn.Module] = []
    for given in (channels, *[filters] * 3):
        layers += [nn.Conv2d(given, filters, 3, stride=2 if strided else 1, padding=1),
                   nn.BatchNorm2d(filters, track_running_stats=False), nn.ReLU()]  # fmt: skip
        layers += [] if strided else [nn.MaxPool2d(2)]
    left = 1 if strided else (size // 16) ** 2
    layers += [nn.AdaptiveAvgPool2d(1)] if strided else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(filters * left, outputs))
