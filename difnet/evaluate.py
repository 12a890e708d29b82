"""How well does a launch model fit unseen tasks after n inner steps?"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from difnet.meta import Batch, Loss, Tasks

Fit = Callable[[Tensor, Batch, int], Tensor]  # (w, support set, inner steps) -> fitted model


def evaluate(loss: Loss, fit: Fit, w: Tensor, tasks: Tasks, *, steps: Sequence[int]) -> Tensor:
    """The mean query loss over the tasks before adaptation and after each number of inner steps.

    Args: `fit`, as the algorithm fits a model to a task; `steps`, ascending, e.g. (1, 10).
    Returns: shape (1 + len(steps),): before, then after each.
    """

    def one(task: Tasks) -> Tensor:
        theta, done, losses = w, 0, [loss(w, task.query)]
        for step in steps:
            theta, done = fit(theta, task.support, step - done), step
            losses.append(loss(theta, task.query))
        return torch.stack(losses)

    return vmap(one)(tasks).mean(0)
