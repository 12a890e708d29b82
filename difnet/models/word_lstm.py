"""The tweet classifier of LEAF's Sent140: word vectors, two LSTM layers, a linear one.

Source: Caldas et al., "LEAF", 2018; Chen et al., FedMeta, appendix A.2: 100 hidden units, GloVe's 300 dimensions.
"""

from torch import nn

from difnet.models._recurrent import Recurrent


def word_lstm(
    vocabulary: int | None = None, outputs: int = 2, vectors: int | None = None, hidden: int = 100, layers: int = 2
) -> nn.Module:
    """Inputs are vectors (n, words, `vectors`), or with `vocabulary` word numbers (n, words) whose vectors are learnt.

    Args: `vectors`, how long each is: 300 unless told, 100 where they are learnt.

    >>> sum(p.numel() for p in word_lstm().parameters()), sum(p.numel() for p in word_lstm(10002).parameters())
    (241802, 1162002)
    """
    size = vectors or (300 if vocabulary is None else 100)
    return Recurrent(None if vocabulary is None else nn.Embedding(vocabulary, size), size, hidden, layers, outputs)
