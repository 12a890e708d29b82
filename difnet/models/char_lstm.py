"""The next-letter network of LEAF's Shakespeare: letters embedded, two LSTM layers, a linear one.

Source: Caldas et al., "LEAF", 2018; Chen et al., FedMeta, appendix A.2: 8 dimensions, 256 hidden units, 80 letters.
"""

from torch import nn

from difnet.models._recurrent import Recurrent


def char_lstm(
    vocabulary: int = 80, outputs: int = 80, dimensions: int = 8, hidden: int = 256, layers: int = 2
) -> nn.Module:
    """Inputs (n, steps) are numbers below `vocabulary`; each LSTM layer has two biases, as PyTorch's.

    >>> sum(p.numel() for p in char_lstm().parameters())
    819920
    """
    return Recurrent(nn.Embedding(vocabulary, dimensions), dimensions, hidden, layers, outputs)
