"""Dif-MAML: diffusion of launch models over a network.

Source: M. Kayaalp, S. Vlaski, A. H. Sayed, "Distributed Meta-Learning with Networked Agents", Algorithm 1, eq. (6a)
and (6b).
"""

from functools import partial

from torch import Tensor

from difnet.algorithms import Algorithm, State
from difnet.errors import ConfigError
from difnet.flat import FlatModel
from difnet.meta import Batch, Loss, Tasks, fit, maml, reptile
from difnet.optimizers import OPTIMIZERS

INNER = ("maml", "anil", "reptile")


def dif_maml(
    model: FlatModel,
    loss: Loss,
    *,
    inner_lr: float = 0.01,
    inner_steps: int = 1,
    order: int = 2,
    outer_lr: float = 0.001,
    optimizer: str = "adam",
    inner: str = "maml",
) -> Algorithm:
    """Dif-MAML for one agent.

    Args: `inner` is "maml" (with `order` 1: FOMAML), "anil" (inner steps on the last layer only) or "reptile".
    Raises: ConfigError for an unknown `inner`.
    """
    if inner not in INNER:
        raise ConfigError(f"algorithm dif-maml: inner is {inner!r}; it must be one of {', '.join(INNER)}")
    rule = reptile if inner == "reptile" else partial(maml, together=model.is_plain)
    outer = OPTIMIZERS[optimizer]()

    def rate(w: Tensor) -> float | Tensor:
        return inner_lr * model.head().to(w) if inner == "anil" else inner_lr

    def adapt(state: State, tasks: Tasks) -> tuple[State, Tensor]:
        g, query_loss = rule(loss, state.w, tasks, inner_lr=rate(state.w), inner_steps=inner_steps, order=order)
        phi, slots = outer.step(state.w, state.slots, g, outer_lr)
        return state._replace(phi=phi, slots=slots), query_loss

    def combine(state: State, mixed: Tensor) -> State:
        return state._replace(w=mixed)

    def fitted(w: Tensor, support: Batch, steps: int) -> Tensor:
        return fit(loss, w, support, inner_lr=rate(w), inner_steps=steps)

    return Algorithm(lambda w: State(w, w, outer.init(w)), adapt, combine, fitted)
