"""How well does a launch model fit unseen tasks after n inner steps?"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from difnet.meta import Batch, Each, Tasks

Fit = Callable[[Tensor, Batch, int], Tensor]  # (w, support set, inner steps) -> fitted model
Measure = Callable[[Tensor, Batch], Tensor]  # (w, batch) -> figures (F,), means over the samples: the loss first


def adaptation_curve(measure: Measure, fit: Fit, w: Tensor, task: Tasks, steps: Sequence[int]) -> Tensor:
    """The figures of one task's query set before adaptation, which sees the support set alone, and after it.

    Args: `fit`, as the algorithm fits a model to a task; `steps`, ascending, e.g. (1, 10).
    Returns: shape (1 + len(steps), F): before, then after each number of inner steps.
    """
    theta, done, figures = w, 0, [measure(w, task.query)]
    for step in steps:
        theta, done = fit(theta, task.support, step - done), step
        figures.append(measure(theta, task.query))
    return torch.stack(figures)


def evaluate(
    measure: Measure, fit: Fit, w: Tensor, tasks: Tasks | Sequence[Tasks], steps: Sequence[int], each: Each = vmap
) -> Tensor:
    """`adaptation_curve` of every task: of a batch of tasks alike in size, or of tasks (clients) that differ in it.

    Returns: shape (T, 1 + len(steps), F).
    """
    if isinstance(tasks, Tasks):
        return each(lambda task: adaptation_curve(measure, fit, w, task, steps))(tasks)
    return torch.stack([adaptation_curve(measure, fit, w, task, steps) for task in tasks])


def query_samples(tasks: Tasks | Sequence[Tasks]) -> Tensor:
    """The query samples of each task, (T,), by which a mean over all samples weighs them."""
    if isinstance(tasks, Tasks):
        count, samples = tasks.query[1].shape[:2]
        return torch.full((count,), float(samples))
    return torch.tensor([float(len(task.query[1])) for task in tasks])


def accuracy_of(prediction: Tensor, target: Tensor) -> Tensor:
    """The share of samples (n,) whose largest logit, of (n, classes), is that of their class."""
    return (prediction.argmax(-1) == target).to(prediction.dtype).mean()
