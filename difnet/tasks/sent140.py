"""Sentiment140's tweets, by user: is a tweet positive? A federation of small clients.

Source: Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018; Chen et al., "Federated Meta-Learning with Fast
Convergence and Efficient Communication", appendix A.2: users with 25 tweets or more, 25 words, GloVe's vectors.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from difnet.data import Array, glove
from difnet.data import sent140 as files
from difnet.data.home import folder
from difnet.tasks._clients import Clients, Division, clients_of, tensors

LEAST = 25


def sent140(
    agents: int, shots: int, queries: int, data_dir: str | None = None, vectors: str | None = None, words: int = 10000,
    **division: Any,
) -> Clients:  # fmt: skip
    """The users as clients, 80/10/10 % for training and being held out; two classes.

    Inputs are 25 word numbers, int32, for a model with vectors of its own; with `vectors`, those of GloVe: (25, d),
    float32.

    Args: `vectors`, GloVe's text file, in the data set's folder or with its whole path; `words`, how many the
        vocabulary has; `division`, the fields of `Division`.
    Raises: ConfigError for a division that cannot be; EnvironmentLacks and DataError as `difnet.data.sent140.read` and
        `difnet.data.glove.read`.
    """
    place = folder("sent140", data_dir)
    table = files.read(place, words=words)
    vocabulary = table.facts["vocabulary"]
    known = {"vocabulary": files.RESERVED + len(vocabulary)}
    take = tensors(table.inputs, table.targets)
    if vectors is not None:
        found = glove.read(place / vectors, vocabulary)
        known = {"vectors": found.shape[1]}
        take = tensors(table.inputs, table.targets, _looked_up(found))
    return clients_of(
        table, take, Division(**{"least": LEAST, **division}), agents=agents, shots=shots, queries=queries,
        default_model="word-lstm", model_words={**known, "outputs": 2},
    )  # fmt: skip


def _looked_up(vectors: Array) -> Callable[[Array], Array]:
    """From word numbers to vectors; zeros for padding and for unknown words."""

    def change(numbers: Array) -> Array:
        known = numbers >= files.RESERVED
        return np.where(known[..., None], vectors[np.maximum(numbers - files.RESERVED, 0)], np.float32(0))

    return change
