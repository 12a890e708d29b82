"""The outer step: how a gradient moves w. Pure functions; their state is local to an agent and never combined."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Slots = tuple[Tensor, ...]


class Optimizer(NamedTuple):
    """An outer optimiser as two pure functions."""

    init: Callable[[Tensor], Slots]  # w (M,) -> state
    step: Callable[[Tensor, Slots, Tensor, float], tuple[Tensor, Slots]]  # (w, state, gradient, rate) -> (w, state)


def sgd() -> Optimizer:
    """w - rate * g."""
    return Optimizer(lambda w: (), lambda w, slots, g, rate: (w - rate * g, ()))


def momentum(beta: float = 0.9) -> Optimizer:
    """Heavy ball (Polyak 1964): m = beta m + g; w - rate * m."""

    def step(w: Tensor, slots: Slots, g: Tensor, rate: float) -> tuple[Tensor, Slots]:
        m = beta * slots[0] + g
        return w - rate * m, (m,)

    return Optimizer(lambda w: (torch.zeros_like(w),), step)


def adam(beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """Kingma, Ba 2015, Algorithm 1, with bias correction; the step count is a tensor, so that it can be traced.

    1 - beta^t is taken as -expm1(t log beta), which keeps every digit of float32 where beta^t is near 1.
    """

    def init(w: Tensor) -> Slots:
        return torch.zeros_like(w), torch.zeros_like(w), torch.zeros((), dtype=w.dtype, device=w.device)

    def step(w: Tensor, slots: Slots, g: Tensor, rate: float) -> tuple[Tensor, Slots]:
        m, v, t = slots
        t = t + 1
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        first, second = (-torch.expm1(t * math.log(beta)) for beta in (beta1, beta2))
        direction = (m / first) / (torch.sqrt(v / second) + epsilon)
        return w - rate * direction, (m, v, t)

    return Optimizer(init, step)


def adagrad(tau: float = 1e-3) -> Optimizer:
    """v = v + g^2; w - rate * g / (sqrt(v) + tau), with v = tau^2 to begin with.

    Source: Reddi et al., "Adaptive Federated Optimization", 2021, Algorithm 2, FedAdagrad with beta1 = 0.
    """

    def step(w: Tensor, slots: Slots, g: Tensor, rate: float) -> tuple[Tensor, Slots]:
        v = slots[0] + g * g
        return w - rate * g / (torch.sqrt(v) + tau), (v,)

    return Optimizer(lambda w: (torch.full_like(w, tau**2),), step)


def yogi(beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> Optimizer:
    """Adam whose second moment moves by at most (1 - beta2) g^2: v = v - (1 - beta2) sign(v - g^2) g^2.

    Without bias correction, and with v = tau^2 to begin with: w - rate * m / (sqrt(v) + tau).

    Source: Zaheer et al., "Adaptive Methods for Nonconvex Optimization", 2018, in the form of Reddi et al., "Adaptive
    Federated Optimization", 2021, Algorithm 2, FedYogi.
    """

    def step(w: Tensor, slots: Slots, g: Tensor, rate: float) -> tuple[Tensor, Slots]:
        m, v = slots
        m = beta1 * m + (1 - beta1) * g
        v = v - (1 - beta2) * torch.sign(v - g * g) * g * g
        return w - rate * m / (torch.sqrt(v) + tau), (m, v)

    return Optimizer(lambda w: (torch.zeros_like(w), torch.full_like(w, tau**2)), step)


def clipped(g: Tensor, norm: float | None) -> Tensor:
    """g, shortened to the Euclidean length `norm` where it is longer; None leaves it as it is.

    >>> clipped(torch.tensor([3.0, 4.0]), 1.0), clipped(torch.tensor([3.0, 4.0]), 10.0)
    (tensor([0.6000, 0.8000]), tensor([3., 4.]))
    """
    if norm is None:
        return g
    return g * torch.clamp(norm / torch.linalg.vector_norm(g), max=1.0)  # of g = 0 the quotient is inf, hence 1


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": sgd, "momentum": momentum, "adam": adam, "yogi": yogi, "adagrad": adagrad,
}  # fmt: skip
