"""MNIST's digits, by writer or divided otherwise: a federation of classification clients."""

from typing import Any

import numpy as np

from difnet.data import Array
from difnet.data import mnist as files
from difnet.data.home import folder
from difnet.tasks._clients import Clients, Division, clients_of, tensors


def mnist(
    agents: int, shots: int, queries: int, data_dir: str | None = None, part: str = "train", **division: Any
) -> Clients:
    """The digits of one part of MNIST as clients: by default its 539 writers.

    Inputs are the pixels of an image one after another (784), from 0 to 1, float32.

    Args: `part`, "train" or "test"; `division`, the fields of `Division`.
    Raises: ConfigError for a division that cannot be; EnvironmentLacks and DataError as `difnet.data.mnist.read`.
    """
    divided = Division(**division)
    table = files.read(folder("mnist", data_dir), part, writers=divided.partition == "natural")
    return clients_of(
        table, tensors(table.inputs, table.targets, _flat), divided, agents=agents, shots=shots,
        queries=queries, default_model="mlp", model_words={"inputs": 784, "outputs": 10},
    )  # fmt: skip


def _flat(pixels: Array) -> Array:
    return pixels.reshape(*pixels.shape[:-2], -1).astype(np.float32) / 255
