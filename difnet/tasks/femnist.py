"""FEMNIST's handwritten characters, by writer: a federation of classification clients.

Source: Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018; Chen et al., "Federated Meta-Learning with Fast
Convergence and Efficient Communication", appendix A.2: writers with 10 pictures or more.
"""

from typing import Any

import numpy as np

from difnet.data import Array, leaf
from difnet.data.home import folder
from difnet.tasks._clients import Clients, Division, clients_of, tensors


def femnist(
    agents: int, shots: int, queries: int, data_dir: str | None = None, duplicates: bool = False, **division: Any
) -> Clients:
    """The pictures of LEAF's FEMNIST as clients: its writers, 80/10/10 % for training and being held out.

    Inputs are the pixels of an image one after another (784), from 0 to 1, float32; 62 classes.

    Args: `duplicates`, as `difnet.data.leaf.read`; `division`, the fields of `Division`.
    Raises: ConfigError for a division that cannot be; EnvironmentLacks and DataError as `difnet.data.leaf.read`.
    """
    table = leaf.read(folder("femnist", data_dir), duplicates)
    return clients_of(
        table, tensors(table.inputs, table.targets, _from_0_to_1), Division(**division), agents=agents, shots=shots,
        queries=queries, default_model="femnist-cnn", model_words={"inputs": 784, "outputs": len(leaf.CLASSES)},
    )  # fmt: skip


def _from_0_to_1(pixels: Array) -> Array:
    return pixels.astype(np.float32) / 255 if pixels.dtype == np.uint8 else pixels
