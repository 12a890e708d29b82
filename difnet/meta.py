"""How is a task fitted, and what is the gradient of that fit? Inner steps on the support set, then the query loss.

The inner rate is a number, or a vector as long as w, one rate for each parameter (zeros freeze a parameter, which is
ANIL; a learnt vector is Meta-SGD). Everything is written with `torch.func` for one task and mapped over a batch of
tasks, because a compiled function that differentiates twice through `torch.autograd.grad` silently loses an order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vjp, vmap
from torch.linalg import vector_norm
from torch.utils._pytree import tree_flatten, tree_unflatten

from difnet.errors import ConfigError

Batch = tuple[Tensor, Tensor]  # inputs (n, ...) and targets (n, ...)
Loss = Callable[[Tensor, Batch], Tensor]  # (w, batch) -> scalar, a mean over the samples
HessianProduct = Callable[[Loss, Tensor, Batch, Tensor], Tensor]  # (loss, w, batch, v) -> the Hessian at w times v
Each = Callable[[Callable[..., Any]], Callable[..., Any]]  # a function of one task -> of a batch: vmap, or `in_turn`


class Tasks(NamedTuple):
    """A batch of T tasks: every tensor has the leading size T, then the number of samples."""

    support: Batch
    query: Batch


def in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one task as a function of a batch of tasks, one after another: what `vmap` gives, otherwise made.

    For convolutions with weights of each task's own it is up to three times as fast as `vmap`, and never slower by more
    than a little; for recurrences it is somewhat slower. One task is in memory at a time, and not all of them.

    Args: `function`, of tensors, or tuples of them, whose leading size is then that of the tasks; it returns the same.
    """

    def of_all(*batches: Any) -> Any:
        inputs, shape = tree_flatten(batches)
        outputs = [tree_flatten(function(*tree_unflatten(one, shape))) for one in zip(*inputs, strict=True)]
        return tree_unflatten([torch.stack(tensors) for tensors in zip(*(o for o, _ in outputs), strict=True)],
                              outputs[0][1])  # fmt: skip

    return of_all


def fit(loss: Loss, w: Tensor, support: Batch, *, inner_lr: float | Tensor, inner_steps: int) -> Tensor:
    """The launch model after `inner_steps` gradient steps on one task's support set.

    Source: Finn, Abbeel, Levine 2017 (MAML), eq. (1), repeated.
    """
    for _ in range(inner_steps):
        w = w - inner_lr * grad(loss)(w, support)
    return w


def maml(
    loss: Loss, w: Tensor, tasks: Tasks, *, inner_lr: float | Tensor, inner_steps: int, order: int = 2,
    together: bool = False, each: Each = vmap,
) -> tuple[Tensor, Tensor]:
    """The meta-gradient over a batch of tasks and the query loss after the inner steps, both means; adjoint form.

    For each task v_J = grad Q(theta_J) and v_j = v_{j+1} - H_j (inner_lr * v_{j+1}), H_j the support loss's Hessian at
    theta_j; the meta-gradient is the mean of v_0. With order 1 (FOMAML) it is the mean of v_J. Memory is almost flat in
    the number of steps: of the last one alone the graph is kept. `together` takes the last product for all tasks at
    once, because they share theta_0 = w: faster (a fifth of the whole, compiled), but wrong where PyTorch
    differentiates through a mapped normalisation with weights (grad(vmap(grad)) of batch and layer norm: seen with
    2.13, no error); `FlatModel.is_plain` says where it is right.

    Returns: gradient (M,), query loss ().
    Source: Kayaalp, Vlaski, Sayed, "Distributed Meta-Learning with Networked Agents", eq. (4), for one step.
    """

    def down_to_first_step(task: Tasks) -> tuple[Tensor, Tensor]:
        def step(theta: Tensor) -> Tensor:
            return fit(loss, theta, task.support, inner_lr=inner_lr, inner_steps=1)

        thetas, keeps_last = [w], order == 2 and inner_steps > together
        for _ in range(inner_steps - keeps_last):
            thetas.append(step(thetas[-1]))
        theta, pull = vjp(step, thetas[-1]) if keeps_last else (thetas[-1], None)  # type: ignore[misc]
        v, query_loss = grad_and_value(loss)(theta, task.query)
        if pull is not None:
            (v,) = pull(v)
            for theta in reversed(thetas[together:-1]):
                v = v - hessian_product(loss, theta, task.support, inner_lr * v)
        return v, query_loss

    v, query_loss = each(down_to_first_step)(tasks)
    if order == 1 or not together or inner_steps == 0:
        return v.mean(0), query_loss.mean()

    def along_v(u: Tensor) -> Tensor:
        return vmap(lambda support, direction: torch.dot(grad(loss)(u, support), direction))(
            tasks.support, inner_lr * v
        ).mean()

    return v.mean(0) - grad(along_v)(w), query_loss.mean()


def reptile(
    loss: Loss, w: Tensor, tasks: Tasks, *, inner_lr: float | Tensor, inner_steps: int, order: int = 1,
    each: Each = vmap,
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

    directions, query_loss = each(one)(tasks)
    return directions.mean(0), query_loss.mean()


def meta_sgd(
    loss: Loss, w: Tensor, rates: Tensor, tasks: Tasks, *, inner_steps: int, order: int = 2, each: Each = vmap
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the query loss after the inner steps by w and by the inner rates, and that loss; all means.

    As in `maml`, v_j = v_{j+1} - H_j (rates * v_{j+1}): the rates act before the Hessian. The gradient by the rates is
    minus the sum of grad S(theta_j) * v_{j+1}. With order 1 every v_j is v_J, in both gradients.

    Args: `rates`, one for each parameter, (M,).
    Returns: gradient by w (M,), gradient by the rates (M,), query loss ().
    Source: Z. Li et al., "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017; F. Chen et al., "Federated
    Meta-Learning with Fast Convergence and Efficient Communication", eq. (3), for one step.

    With S = Q = w^2 / 2 the loss after one step is ((1 - rate) w)^2 / 2:

    >>> square, zeros = lambda w, batch: 0.5 * torch.dot(w, w), torch.zeros(1, 1)
    >>> tasks = Tasks((zeros, zeros), (zeros, zeros))
    >>> meta_sgd(square, torch.tensor([2.0]), torch.tensor([0.5]), tasks, inner_steps=1)
    (tensor([0.5000]), tensor([-2.]), tensor(0.5000))
    """

    def one(task: Tasks) -> tuple[Tensor, Tensor, Tensor]:
        thetas, slopes = [w], []
        for _ in range(inner_steps):
            slopes.append(grad(loss)(thetas[-1], task.support))
            thetas.append(thetas[-1] - rates * slopes[-1])
        v, query_loss = grad_and_value(loss)(thetas[-1], task.query)
        by_rates = torch.zeros_like(w)
        for theta, slope in zip(reversed(thetas[:-1]), reversed(slopes), strict=True):
            by_rates = by_rates - slope * v
            if order == 2:
                v = v - hessian_product(loss, theta, task.support, rates * v)
        return v, by_rates, query_loss

    by_w, by_rates, query_loss = each(one)(tasks)
    return by_w.mean(0), by_rates.mean(0), query_loss.mean()


def per_fedavg(
    loss: Loss, w: Tensor, tasks: Tasks, *, inner_lr: float, product: HessianProduct | None = None, each: Each = vmap
) -> tuple[Tensor, Tensor]:
    """Per-FedAvg's direction over a batch of tasks and the loss after the inner step, both means.

    A task's three independent batches are its support set D, the first half D' of its query set and the rest D'':
    with theta = w - inner_lr * grad f(w; D) and v = grad f(theta; D'), it is v - inner_lr * H(w; D'') v.

    Args: `product` makes H v: `hessian_product`, or `difference_product` (HF); None leaves it out (FO).
    Returns: direction (M,), loss on D' ().
    Raises: ConfigError, if a task has fewer than two query samples.
    Source: Fallah, Mokhtari, Ozdaglar, "Personalized Federated Learning: A Meta-Learning Approach", 2020, Algorithm 1
    (Per-FedAvg), with its two approximations FO and HF.
    """
    samples = tasks.query[0].shape[1]
    if samples < 2:
        raise ConfigError(
            f"Per-FedAvg cuts a task's query set into two batches, but a set has {samples} sample; "
            f"it must have 2 or more: try --queries 10"
        )

    def one(task: Tasks) -> tuple[Tensor, Tensor]:
        (x, y), half = task.query, samples // 2
        theta = fit(loss, w, task.support, inner_lr=inner_lr, inner_steps=1)
        v, value = grad_and_value(loss)(theta, (x[:half], y[:half]))
        if product is not None:
            v = v - inner_lr * product(loss, w, (x[half:], y[half:]), v)
        return v, value

    directions, values = each(one)(tasks)
    return directions.mean(0), values.mean()


def pooled(loss: Loss, w: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
    """The plain loss on all samples of a batch of tasks, support and query together, and its gradient: no inner step.

    It is what FedAvg and DSGD train on.

    Returns: gradient (M,), loss ().
    """
    inputs, targets = (torch.cat(parts, dim=1).flatten(0, 1) for parts in zip(tasks.support, tasks.query, strict=True))
    return grad_and_value(loss)(w, (inputs, targets))


def hessian_product(loss: Loss, w: Tensor, batch: Batch, v: Tensor) -> Tensor:
    """The loss's Hessian at w times v, shape (M,), without forming the Hessian."""
    return grad(lambda u: torch.dot(grad(loss)(u, batch), v))(w)


def difference_product(loss: Loss, w: Tensor, batch: Batch, v: Tensor, *, d: float = 1e-3) -> Tensor:
    """The loss's Hessian at w times v, shape (M,), by central differences of the gradient, a distance d along v to
    either side.

    No second derivative is taken; the error falls like d^2, until rounding (which grows like 1 / d) takes over. The
    distance does not depend on the length of v: d v would be lost in w's last digits where v is short, and where it is
    long it would leave the neighbourhood in which the gradient is nearly linear.
    Source: Fallah, Mokhtari, Ozdaglar 2020, the approximation HF, in which the step is d v.
    """
    length = vector_norm(v)
    step = d / torch.where(length > 0, length, 1.0)  # a product with zero is zero
    return (grad(loss)(w + step * v, batch) - grad(loss)(w - step * v, batch)) / (2 * step)
