"""What Dif-MAML and FedMeta learn a launch model for: how a task is fitted, and the meta-gradient of that fit."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from difnet.algorithms import whole
from difnet.maths.flat import FlatModel
from difnet.meta import Batch, Loss, Tasks, fit, maml, meta_sgd, reptile


class Inner(NamedTuple):
    """An inner rule, as functions of w (L,): the model and, where they are learnt too, the inner rates."""

    begin: Callable[[Tensor], Tensor]  # first launch model (M,) -> w (L,)
    gradient: Callable[[Tensor, Tasks], tuple[Tensor, Tensor]]  # -> gradient (L,), query loss ()
    fit: Callable[[Tensor, Batch, int], Tensor]  # (w, one task's support set, inner steps) -> w fitted to it, (L,)
    model: Callable[[Tensor], Tensor]  # w (L,) -> the model (M,) in it


def inner_rule(name: str, model: FlatModel, loss: Loss, *, inner_lr: float, inner_steps: int, order: int) -> Inner:
    """The inner rule of that name.

    Args: `name` is "maml" (with `order` 1: FOMAML), "anil" (inner steps on the last layer only), "reptile" (no second
        derivative: `order` has no effect) or "meta-sgd" (one inner rate for each parameter, first `inner_lr` for all,
        learnt with the model: w is the two of them, (2M,)).
    """
    if name == "meta-sgd":
        return _learning_rates(model, loss, inner_lr, inner_steps, order)
    rule = partial(reptile if name == "reptile" else partial(maml, together=model.is_plain), each=model.each)

    def rate(w: Tensor) -> float | Tensor:
        return inner_lr * model.head().to(w) if name == "anil" else inner_lr

    def gradient(w: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
        return rule(loss, w, tasks, inner_lr=rate(w), inner_steps=inner_steps, order=order)

    def fitted(w: Tensor, support: Batch, steps: int) -> Tensor:
        return fit(loss, w, support, inner_lr=rate(w), inner_steps=steps)

    return Inner(whole, gradient, fitted, whole)


def _learning_rates(model: FlatModel, loss: Loss, inner_lr: float, inner_steps: int, order: int) -> Inner:
    """Meta-SGD. A fit changes the model and keeps the rates."""
    size = model.size

    def gradient(w: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
        by_model, by_rates, query_loss = meta_sgd(
            loss, w[:size], w[size:], tasks, inner_steps=inner_steps, order=order, each=model.each
        )
        return torch.cat([by_model, by_rates]), query_loss

    def fitted(w: Tensor, support: Batch, steps: int) -> Tensor:
        theta = fit(loss, w[:size], support, inner_lr=w[size:], inner_steps=steps)
        return torch.cat([theta, w[size:]])

    return Inner(lambda w: torch.cat([w, torch.full_like(w, inner_lr)]), gradient, fitted, lambda w: w[:size])
