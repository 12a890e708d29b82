"""The meta-gradient of an inner problem that was solved, not unrolled: a proximal minimiser and a linear system.

The inner problem is min S(phi) + weight / 2 ||phi - w||^2. At its minimiser the Jacobian of phi by w is
(I + H / weight)^-1, H the Hessian of S there: the path to it does not matter, and nothing of it is kept.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from difnet.meta import Batch, Each, Loss, Tasks, fit, hessian_product


class Solution(NamedTuple):
    """What conjugate gradients came to."""

    x: Tensor  # (M,)
    residual_norm: Tensor  # ||b - A x|| as the recursion carries it, ()
    negative_curvature: Tensor  # whether it had to stop at a direction p with p'Ap <= 0, bool ()


def with_proximal_term(loss: Loss, w: Tensor, weight: float) -> Loss:
    """The inner objective of w: phi -> S(phi) + weight / 2 ||phi - w||^2.

    Source: Meta-Backward, eq. (4).
    """
    return lambda phi, batch: loss(phi, batch) + weight / 2 * torch.sum((phi - w) ** 2)


def proximal(loss: Loss, w: Tensor, support: Batch, *, weight: float, inner_lr: float, steps: int) -> Tensor:
    """Gradient descent from w on S(phi) + weight / 2 ||phi - w||^2, S the loss on the support set: phi, (M,).

    It converges where inner_lr is below 2 / (weight + the largest eigenvalue of S's Hessian).

    Source: Rajeswaran, Finn, Kakade, Levine, "Meta-Learning with Implicit Gradients", 2019; Meta-Backward, eq. (4).

    >>> square = lambda phi, batch: 0.5 * ((phi - batch[0]) ** 2).sum()  # pulls to 1, the proximal term to w = 0
    >>> one = torch.ones(1)
    >>> proximal(square, torch.zeros(1), (one, one), weight=1.0, inner_lr=0.5, steps=1)
    tensor([0.5000])
    """
    return fit(with_proximal_term(loss, w, weight), w, support, inner_lr=inner_lr, inner_steps=steps)


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, *, steps: int) -> Solution:
    """A x = b for a symmetric A given by v -> A v, by so many steps of conjugate gradients from x = 0.

    Exact after as many steps as A has distinct eigenvalues. It stops where there is nothing left to do (a residual of
    rounding size) and at a direction p of p'Ap <= 0, before it is taken: A is then not positive definite, and x is
    what was reached so far, 0 if that was the first direction, else with b'x > 0: still a descent direction for a
    gradient b. A stop is a mask, so the steps can be traced and mapped.

    Source: Hestenes, Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952.

    >>> conjugate_gradient(lambda v: 2 * v, torch.tensor([2.0, 4.0]), steps=1).x  # one distinct eigenvalue, one step
    tensor([1., 2.])
    """
    x, r, p = torch.zeros_like(b), b, b
    rr = torch.dot(r, r)
    done = torch.finfo(b.dtype).eps ** 2 * rr  # below it p'Ap is rounding, and its sign says nothing
    negative = torch.zeros_like(rr, dtype=torch.bool)
    for _ in range(steps):
        Ap = product(p)
        curvature = torch.dot(p, Ap)
        negative = negative | ((rr > done) & (curvature <= 0))
        go = (rr > done) & ~negative
        length = torch.where(go, rr / torch.where(go, curvature, 1.0), 0.0)
        x, r = x + length * p, r - length * Ap
        before, rr = rr, torch.dot(r, r)
        p = torch.where(go, r + rr / torch.where(go, before, 1.0) * p, p)
    return Solution(x, torch.sqrt(rr), negative)


def imaml(
    loss: Loss, w: Tensor, tasks: Tasks, *, weight: float, inner_lr: float, inner_steps: int, cg_steps: int,
    damping: float = 0.0, each: Each = vmap,
) -> tuple[Tensor, dict[str, Tensor]]:
    """iMAML's meta-gradient over a batch of tasks, a mean, and how far its two approximations can be trusted.

    For each task phi by `proximal`, then (I + H / weight + damping I) x = grad Q(phi) by `conjugate_gradient`; x is the
    gradient of Q(phi(w)) by w if phi is the minimiser. The system is positive definite where weight > -lambda_min(H),
    H at phi: certain for a convex loss alone. A task whose first direction is one of negative curvature adds nothing
    (x = 0), and is counted.

    Returns: gradient (M,), and scalars: "loss", the mean query loss at phi; "proximal_residual", the mean of
    ||grad S(phi) + weight (phi - w)||, 0 at the minimiser; "cg_residual", the mean ||residual|| of the system;
    "negative_curvature", the number of tasks in which conjugate gradients stopped at a negative (or no) curvature.
    Source: Rajeswaran, Finn, Kakade, Levine, "Meta-Learning with Implicit Gradients", 2019; Meta-Backward, eq. (3) to
    (5). The damping is not in either paper's system.
    """

    def one(task: Tasks) -> tuple[Tensor, Tensor, Solution]:
        phi = proximal(loss, w, task.support, weight=weight, inner_lr=inner_lr, steps=inner_steps)
        slope, query_loss = grad_and_value(loss)(phi, task.query)
        inner_slope = grad(with_proximal_term(loss, w, weight))(phi, task.support)

        def product(v: Tensor) -> Tensor:
            return (1 + damping) * v + hessian_product(loss, phi, task.support, v) / weight

        solution = conjugate_gradient(product, slope, steps=cg_steps)
        return query_loss, torch.linalg.vector_norm(inner_slope), solution

    query_loss, proximal_residual, solution = each(one)(tasks)
    return solution.x.mean(0), {
        "loss": query_loss.mean(),
        "proximal_residual": proximal_residual.mean(),
        "cg_residual": solution.residual_norm.mean(),
        "negative_curvature": solution.negative_curvature.to(w.dtype).sum(),
    }
