"""The outer step: how a gradient moves w. Pure functions; their state is local to an agent and never combined."""

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
    """Kingma, Ba 2015, Algorithm 1, with bias correction; the step count is a tensor, so that it can be traced."""

    def init(w: Tensor) -> Slots:
        return torch.zeros_like(w), torch.zeros_like(w), torch.zeros((), dtype=w.dtype, device=w.device)

    def step(w: Tensor, slots: Slots, g: Tensor, rate: float) -> tuple[Tensor, Slots]:
        m, v, t = slots
        t = t + 1
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        direction = (m / (1 - beta1**t)) / (torch.sqrt(v / (1 - beta2**t)) + epsilon)
        return w - rate * direction, (m, v, t)

    return Optimizer(init, step)


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {"sgd": sgd, "momentum": momentum, "adam": adam}
