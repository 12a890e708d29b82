"""The contract of a task family: where an agent's tasks come from.

One file is one family; its factory bears the file's name and takes (agents, shots, queries) and its own options.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from torch import Tensor

from difnet.meta import Tasks


class TaskFamily(Protocol):
    """Tasks of every agent of a network."""

    loss: Callable[[Tensor, Tensor], Tensor]  # (prediction, target) -> mean over the samples, ()
    default_model: str  # the model that is meant when none is named

    def draw(self, agent: int | None, count: int, rng: np.random.Generator) -> Tasks:
        """`count` independent tasks of one agent, or of the whole network's law for None (validation).

        All randomness comes from `rng`. Support and query samples are drawn independently.
        Returns: tensors of leading size `count`.
        """
        ...
