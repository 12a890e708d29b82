"""Dif-MAML: diffusion of launch models over a network.

Source: M. Kayaalp, S. Vlaski, A. H. Sayed, "Distributed Meta-Learning with Networked Agents", Algorithm 1, eq. (6a)
and (6b).
"""

from torch import Tensor

from difnet.algorithms import Algorithm, Info, State
from difnet.algorithms._inner import inner_rule
from difnet.algorithms._options import one_of
from difnet.maths.flat import FlatModel
from difnet.maths.optimizers import OPTIMIZERS
from difnet.meta import Loss, Tasks

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
    one_of("inner", inner, INNER)
    rule = inner_rule(inner, model, loss, inner_lr=inner_lr, inner_steps=inner_steps, order=order)
    outer = OPTIMIZERS[optimizer]()

    def adapt(state: State, tasks: Tasks) -> tuple[State, Info]:
        g, query_loss = rule.gradient(state.w, tasks)
        phi, slots = outer.step(state.w, state.slots, g, outer_lr)
        return state._replace(phi=phi, slots=slots), {"loss": query_loss}

    def combine(state: State, mixed: Tensor) -> State:
        return state._replace(w=mixed)

    return Algorithm(lambda w: State(w, w, outer.init(w)), adapt, combine, rule.fit)
