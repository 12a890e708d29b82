"""Meta-Backward: from models that agents trained alone, backwards to a common launch model, by ascent and projection.

Lines 2 to 7 of the algorithm, training alone and the first exchange, are the runtime's offline start; every adapt is
one backward step k = K-1, ..., 0 of lines 8 to 12, with K iterations in all.
Source: "Meta-Backward: Energy-Efficient Federated Meta learning", Algorithm 1.
"""

import math

import torch
from torch import Tensor

from difnet.algorithms import Algorithm, Info, State
from difnet.algorithms._options import amount, one_of
from difnet.algorithms._servers import model_server
from difnet.errors import ConfigError
from difnet.maths.flat import FlatModel
from difnet.maths.meta_backward import SOLVERS, Schedule, ascend, multiplier, project, radii, reach
from difnet.meta import Batch, Loss, Tasks, fit, pooled


def meta_backward(
    model: FlatModel,
    loss: Loss,
    *,
    inner_lr: float = 0.01,
    iterations: int = 50,
    rate: float = 1e-4,
    schedule: Schedule = "geometric",
    end_radius: float = 1e-3,
    radius: float | None = None,
    clip: float | None = None,
    solve: str = "projection",
    solve_steps: int = 10,
) -> Algorithm:
    """Meta-Backward for one agent, and for the hub of a star, which takes the mean of all agents.

    Step k goes up the agent's own loss from phi^{k+1} (eq. 25) and is drawn back into the ball of radius r_k around
    Phi^{k+1}, the mean that came from the hub (eq. 26 to 32). On a graph without a hub, that is the mix of the
    neighbours' models. After step 0 an agent goes on with r_0.

    Once the ball binds, the projection does not minimise (23): the ascent asks for a little more loss, and the nearest
    point of the ball may have much more. With `solve` "ball" an agent goes on from there, within the ball, towards the
    loss that the ascent asks for.

    Args: `rate` is alpha; `clip` bounds the norm of the gradient. `schedule` is "geometric" or "linear", from the
        first radius down to `end_radius`, "constant", or the list r_0, ..., r_{K-1} (square roots of the paper's
        delta_k). `radius` is the first radius; None: each agent takes its own ||phi*_i - Phi^K||. Its balls then lie
        within those of the common radius max_i ||phi*_i - Phi^K||, so (13) holds for that too, and nobody has to be
        told the maximum.
        `solve` is "projection", the printed form, or "ball", and `solve_steps` how many steps the latter takes.
    Reports: "loss" and "gradient_norm" where the step began, "distance" ||phi^k - Phi^{k+1}||, and "projected", 1
        where the ascent had left the ball; with "ball" also the "gap" that is left between the loss and what was asked.
    Raises: ConfigError for an option that is out of range, or a schedule that eq. (13) does not allow.

    The state's slots are phi_i, the number of steps done, and the first radius (until the first step 0, if not given).
    """
    _check(iterations, rate, schedule, end_radius, radius, clip)
    solving = _solving(solve, solve_steps)

    def init(w: Tensor) -> State:
        return State(w, w, (w, w.new_zeros(()), w.new_full((), radius or 0.0)))

    def adapt(state: State, tasks: Tasks) -> tuple[State, Info]:
        phi, done, first = state.slots
        if radius is None:
            first = torch.where(done == 0, torch.linalg.vector_norm(phi - state.w), first)
        k = torch.clamp(iterations - 1 - done, min=0).to(torch.int64)
        r = radii(schedule, iterations, first, end=end_radius).index_select(0, k.reshape(1)).reshape(())
        phi, info = _step(loss, phi, tasks, state.w, r, rate=rate, clip=clip, solve_steps=solving)
        return state._replace(phi=phi, slots=(phi, done + 1, first)), info

    def combine(state: State, mixed: Tensor) -> State:
        return state._replace(w=mixed)

    def fitted(w: Tensor, support: Batch, steps: int) -> Tensor:
        return fit(loss, w, support, inner_lr=inner_lr, inner_steps=steps)

    return Algorithm(init, adapt, combine, fitted, server=model_server(), offline=True, everyone=True,
                     alike=True)  # fmt: skip


def _step(
    loss: Loss, phi: Tensor, tasks: Tasks, centre: Tensor, r: Tensor, *, rate: float, clip: float | None,
    solve_steps: int,
) -> tuple[Tensor, Info]:  # fmt: skip
    """One backward step from phi^{k+1}, within the ball of radius r around `centre`; 0 steps: as printed."""
    ascent = ascend(loss, phi, tasks, rate=rate, clip=clip)
    phi, gap = project(ascent.phi, centre, r), {}
    if solve_steps:
        target = pooled(loss, ascent.phi, tasks)[1]
        phi, gap["gap"] = reach(loss, phi, tasks, target, centre=centre, radius=r, steps=solve_steps)
    return phi, {
        "loss": ascent.loss,
        "gradient_norm": ascent.gradient_norm,
        "distance": torch.linalg.vector_norm(phi - centre),
        "projected": (multiplier(ascent.phi, centre, r) > 0).to(phi.dtype),
        **gap,
    }


def _solving(solve: str, solve_steps: int) -> int:
    """How many steps bring a step nearer to the solution of (23) in its ball: 0 as printed.

    Raises: ConfigError.
    """
    if not (type(solve_steps) is int and solve_steps >= 1):
        raise ConfigError(f"algorithm.solve_steps is {solve_steps!r}; it must be a whole number, 1 or more")
    return solve_steps if one_of("solve", solve, SOLVERS) == "ball" else 0


def _check(
    iterations: int, rate: float, schedule: Schedule, end_radius: float, radius: float | None, clip: float | None
) -> None:
    """Refuse before the run what a traced step could not.

    Raises: ConfigError.
    """
    amount("rate", rate)
    if clip is not None:
        amount("clip", clip, or_zero=False)
    if radius is not None and radius != math.inf:
        amount("radius", radius)
    if radius is not None and not isinstance(schedule, str):
        raise ConfigError(
            f"algorithm.radius is {radius}, but algorithm.schedule is a list, which has its own radii; leave one away"
        )
    radii(schedule, iterations, 1.0 if radius is None else radius, end=end_radius)
