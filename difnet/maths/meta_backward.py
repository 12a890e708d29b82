"""One backward step of Meta-Backward: away from an agent's own optimum, within a ball around the average of all.

Here are radii r; the paper's delta is r^2.
Source: "Meta-Backward: Energy-Efficient Federated Meta learning", sections III and IV, whose equations are cited below.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from difnet.errors import ConfigError, did_you_mean
from difnet.maths.optimizers import clipped
from difnet.meta import Loss, Tasks, pooled

SCHEDULES = ("geometric", "linear", "constant")
SOLVERS = ("projection", "ball")  # of (23): the ascent projected, as printed; or what comes nearest to it in the ball
Schedule = str | Sequence[float]  # one of SCHEDULES, or the radii r_0 to r_{K-1} themselves


class Ascent(NamedTuple):
    """A gradient step upwards."""

    phi: Tensor  # (M,)
    loss: Tensor  # where it began, ()
    gradient_norm: Tensor  # there, before clipping, ()


def ascend(loss: Loss, phi: Tensor, tasks: Tasks, *, rate: float, clip: float | None = None) -> Ascent:
    """phi + rate * grad L(phi), L the plain loss on all samples of the tasks; `clip` bounds the gradient's norm.

    Source: eq. (25), a plus: backwards from an optimum the loss grows. Clipping is not in the paper.
    """
    gradient, value = pooled(loss, phi, tasks)
    return Ascent(phi + rate * clipped(gradient, clip), value, torch.linalg.vector_norm(gradient))


class Level(NamedTuple):
    """A point of a ball, and how far its loss is from the level that was aimed at."""

    phi: Tensor  # (M,)
    gap: Tensor  # |L(phi) - target|, ()


def reach(
    loss: Loss, phi: Tensor, tasks: Tasks, target: Tensor, *, centre: Tensor, radius: float | Tensor, steps: int
) -> Level:
    """A point of the ball ||x - centre|| <= radius whose loss comes nearer to `target` than that of phi.

    From phi, which is in the ball, so many steps x - share * (L(x) - target) * grad L / ||grad L||^2, each projected on
    the ball: whole ones (share 1) meet the level of the linearised loss. A step that brings L(x) no nearer is not
    taken, and the next is half as long; after one that does it is twice as long again, up to a whole one.

    Source: "Meta-Backward", (23), which is to bring L(phi_i^k) to the loss behind the ascent within the ball of (18).
    Its projection (25) to (32) is the nearest point to the ascent's, not the one of the nearest loss. The step is
    Polyak's (1969) for a known level.
    """
    gradient, value = pooled(loss, phi, tasks)
    share = torch.ones_like(value)
    for _ in range(steps):
        squared = torch.dot(gradient, gradient)
        along = torch.where(squared > 0, (value - target) / squared, 0.0)
        there = project(phi - share * along * gradient, centre, radius)
        gradient_there, value_there = pooled(loss, there, tasks)
        nearer = (value_there - target).abs() < (value - target).abs()
        phi, value = torch.where(nearer, there, phi), torch.where(nearer, value_there, value)
        gradient = torch.where(nearer, gradient_there, gradient)
        share = torch.where(nearer, torch.clamp(2 * share, max=1.0), share / 2)
    return Level(phi, (value - target).abs())


def project(phi: Tensor, centre: Tensor, radius: float | Tensor) -> Tensor:
    """The point of the ball ||x - centre|| <= radius nearest to phi, (M,): phi itself, if it is inside.

    It is centre + (phi - centre) * min(1, radius / ||phi - centre||), which eq. (28) gives with the multiplier of
    eq. (32). Radius 0 gives the centre, an infinite one phi, each exactly.

    Source: eq. (26) to (32).

    >>> project(torch.tensor([3.0, 4.0]), torch.zeros(2), 1.0)
    tensor([0.6000, 0.8000])
    """
    mu = multiplier(phi, centre, radius)
    return torch.where(mu > 0, centre + (phi - centre) / (1 + 2 * mu), phi)


def multiplier(phi: Tensor, centre: Tensor, radius: float | Tensor) -> Tensor:
    """The multiplier mu >= 0 of the ball's constraint when phi is projected on it, (): 0 for a phi inside.

    Outside it solves mu^2 + mu - ||phi - centre||^2 / (4 r^2) + 1/4 = 0, so mu = (||phi - centre|| / r - 1) / 2. That
    is eq. (32), which follows from (28) only with the norm of eq. (31) squared, as in (26) and (29): the squared norm
    equals delta.

    >>> multiplier(torch.tensor([3.0, 4.0]), torch.zeros(2), 1.0)
    tensor(2.)
    """
    distance = torch.linalg.vector_norm(phi - centre)
    return torch.where(distance > radius, (distance / radius - 1) / 2, 0.0)  # at 0 / 0 it is inside


def radii(schedule: Schedule, steps: int, r_max: float | Tensor, *, end: float = 1e-3) -> Tensor:
    """The radii r_0 to r_{K-1} of K backward steps, (K,), never falling with k; step k = K-1 comes first.

    "geometric" is r_max * rho^(K-1-k), and "linear" a straight line: both come down from r_max at k = K-1 to `end` at
    k = 0 (to r_max, where that is smaller; a single step has r_0 = `end`). "constant" is r_max throughout. A list gives
    the radii themselves, and r_max only their dtype.

    Raises: ConfigError for an unknown schedule, for a list that is not K radii which never fall, and for numbers of
    which no schedule can be made. An r_max that is a tensor is taken as it is, so that it can be traced.
    Source: eq. (13) and the note below it, delta_0 <= ... <= delta_{K-1}; the paper prints no schedule.

    >>> radii("geometric", 3, 0.4, end=0.1), radii("linear", 3, 0.4, end=0.2)
    (tensor([0.1000, 0.2000, 0.4000]), tensor([0.2000, 0.3000, 0.4000]))
    """
    _check_bounds(schedule, r_max, end)
    top = r_max if isinstance(r_max, Tensor) else torch.tensor(float(r_max))
    if not isinstance(schedule, str):
        return torch.tensor(_ascending(schedule, steps), dtype=top.dtype, device=top.device)
    if schedule == "constant":
        return top.expand(steps)
    share = torch.arange(steps, dtype=top.dtype, device=top.device) / max(steps - 1, 1)
    low = torch.clamp(top, max=end)
    if schedule == "linear":
        return low + share * (top - low)
    return low * (top / torch.where(low > 0, low, 1.0)) ** share


def _check_bounds(schedule: Schedule, r_max: float | Tensor, end: float) -> None:
    """Whether a named schedule can be made between these radii.

    Raises: ConfigError.
    """
    if not isinstance(schedule, str):
        return
    if schedule not in SCHEDULES:
        raise ConfigError(
            f"schedule is {schedule!r}; it must be one of {', '.join(SCHEDULES)}, or a list of radii"
            f"{did_you_mean(schedule, SCHEDULES)}"
        )
    if isinstance(r_max, float | int) and not r_max >= 0:
        raise ConfigError(f"radius is {r_max}; it must be 0 or more")
    if schedule == "constant":
        return
    if isinstance(r_max, float | int) and math.isinf(r_max):
        raise ConfigError(f"no {schedule} schedule comes down from an infinite radius; take schedule 'constant'")
    if not 0 <= end < math.inf or (schedule == "geometric" and end == 0):
        raise ConfigError(
            f"end_radius is {end}; it must be a number above 0, or also 0 for a linear schedule. "
            f"Schedule 'constant' with radius 0 is the plain average of the local models"
        )


def _ascending(given: Sequence[float], steps: int) -> list[float]:
    """A list of radii, if it is one for so many steps.

    Raises: ConfigError.
    """
    if not all(isinstance(r, float | int) and not isinstance(r, bool) and r >= 0 for r in given):
        raise ConfigError(f"schedule is {given!r}; its radii must be numbers, 0 or more")
    if len(given) != steps:
        raise ConfigError(f"schedule has {len(given)} radii for {steps} iterations; it must have one for each")
    if list(given) != sorted(given):
        raise ConfigError(
            f"schedule is {given!r}; its radii must not fall: r_0 is that of the last step, try {sorted(given)}"
        )
    return [float(r) for r in given]
