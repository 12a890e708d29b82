"""One task: inner steps on the support set, outer loss on the query set, its gradient.

The inner rate is a number, or a vector as long as w, one rate for each parameter (zeros freeze a parameter, which is
ANIL; a learnt vector is Meta-SGD). Everything is written with `torch.func` for one task and mapped over a batch of
tasks, because a compiled function that differentiates twice through `torch.autograd.grad` silently loses an order.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

Batch = tuple[Tensor, Tensor]  # inputs (n, ...) and targets (n, ...)
Loss = Callable[[Tensor, Batch], Tensor]  # (w, batch) -> scalar, a mean over the samples


class Tasks(NamedTuple):
    """A batch of T tasks: every tensor has the leading size T, then the number of samples."""

    support: Batch
    query: Batch


def fit(loss: Loss, w: Tensor, support: Batch, *, inner_lr: float | Tensor, inner_steps: int) -> Tensor:
    """The launch model after `inner_steps` gradient steps on one task's support set.

    Source: Finn, Abbeel, Levine 2017 (MAML), eq. (1), repeated.
    """
    for _ in range(inner_steps):
        w = w - inner_lr * grad(loss)(w, support)
    return w


def maml(
    loss: Loss, w: Tensor, tasks: Tasks, *, inner_lr: float | Tensor, inner_steps: int, order: int = 2,
    together: bool = False,
) -> tuple[Tensor, Tensor]:
    """The meta-gradient over a batch of tasks and the query loss after the inner steps, both means; adjoint form.

    For each task v_J = grad Q(theta_J) and v_j = v_{j+1} - H_j (inner_lr * v_{j+1}), H_j the support loss's Hessian at
    theta_j; the meta-gradient is the mean of v_0. With order 1 (FOMAML) it is the mean of v_J. Memory is almost flat in
    the number of steps. `together` takes the last product for all tasks at once, because they share theta_0 = w: faster
    (a fifth of the whole, compiled), but wrong where PyTorch differentiates through a mapped normalisation with weights
    (grad(vmap(grad)) of batch and layer norm: seen with 2.13, no error); `FlatModel.is_plain` says where it is right.

    Returns: gradient (M,), query loss ().
    Source: Kayaalp, Vlaski, Sayed, "Distributed Meta-Learning with Networked Agents", eq. (4), for one step.
    """

    def down_to_first_step(task: Tasks) -> tuple[Tensor, Tensor]:
        thetas = [w]
        for _ in range(inner_steps):
            thetas.append(fit(loss, thetas[-1], task.support, inner_lr=inner_lr, inner_steps=1))
        v, query_loss = grad_and_value(loss)(thetas[-1], task.query)
        if order == 2:
            for theta in reversed(thetas[1:-1] if together else thetas[:-1]):
                v = v - hessian_product(loss, theta, task.support, inner_lr * v)
        return v, query_loss

    v, query_loss = vmap(down_to_first_step)(tasks)
    if order == 1 or not together or inner_steps == 0:
        return v.mean(0), query_loss.mean()

    def along_v(u: Tensor) -> Tensor:
        return vmap(lambda support, direction: torch.dot(grad(loss)(u, support), direction))(
            tasks.support, inner_lr * v
        ).mean()

    return v.mean(0) - grad(along_v)(w), query_loss.mean()


def reptile(
    loss: Loss, w: Tensor, tasks: Tasks, *, inner_lr: float | Tensor, inner_steps: int, order: int = 1
) -> tuple[Tensor, Tensor]:
    """Reptile's direction w - theta_J and the query loss after the inner steps, both means over a batch of tasks.

    With plain SGD as outer optimiser, w - outer_lr * (w - theta_J) is Reptile's interpolation. It needs no second
    derivative: `order` has no effect.

    Returns: direction (M,), query loss ().
    Source: Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, Algorithm 2.
    """

    def one(task: Tasks) -> tuple[Tensor, Tensor]:
        theta = fit(loss, w, task.support, inner_lr=inner_lr, inner_steps=inner_steps)
        return w - theta, loss(theta, task.query)

    directions, query_loss = vmap(one)(tasks)
    return directions.mean(0), query_loss.mean()


def hessian_product(loss: Loss, w: Tensor, batch: Batch, v: Tensor) -> Tensor:
    """The loss's Hessian at w times v, shape (M,), without forming the Hessian."""
    return grad(lambda u: torch.dot(grad(loss)(u, batch), v))(w)
