"""FedProx: FedAvg whose clients are held near the launch model that a round began with.

Source: Li et al., "Federated Optimization in Heterogeneous Networks", 2020, eq. (2) and Algorithm 2.
"""

from torch import Tensor
from torch.linalg import vector_norm

from difnet.algorithms import Algorithm, Info, State
from difnet.algorithms._options import amount
from difnet.algorithms.fedavg import fedavg
from difnet.maths.flat import FlatModel
from difnet.maths.optimizers import OPTIMIZERS
from difnet.meta import Loss, Tasks, pooled


def fedprox(
    model: FlatModel,
    loss: Loss,
    *,
    inner_lr: float = 0.01,
    outer_lr: float = 0.001,
    optimizer: str = "adam",
    server: str = "sgd",
    server_lr: float = 1.0,
    clip: float | None = None,
    proximal: float = 0.1,
) -> Algorithm:
    """FedProx for one agent: FedAvg's local steps, on the loss + proximal / 2 * (distance to the round's start)^2.

    In the first of a round's `local_steps` that pull is nil: with one of them FedProx is FedAvg. What it reports are
    the loss and its "gradient_norm" without the pull.

    Args: `proximal`, the paper's mu; the others as in FedAvg.
    Raises: ConfigError for a negative `proximal`, and for options of the server that cannot be.
    """
    amount("proximal", proximal)
    plain = fedavg(model, loss, inner_lr=inner_lr, outer_lr=outer_lr, optimizer=optimizer,
                   server=server, server_lr=server_lr, clip=clip)  # fmt: skip
    outer = OPTIMIZERS[optimizer]()

    def adapt(state: State, tasks: Tasks) -> tuple[State, Info]:
        anchor, *inner = state.slots
        g, value = pooled(loss, state.w, tasks)
        phi, slots = outer.step(state.w, tuple(inner), g + proximal * (state.w - anchor), outer_lr)
        return state._replace(phi=phi, slots=(anchor, *slots)), {"loss": value, "gradient_norm": vector_norm(g)}

    def combine(state: State, mixed: Tensor) -> State:
        return state._replace(w=mixed, slots=(mixed, *state.slots[1:]))

    return plain._replace(init=lambda w: State(w, w, (w, *outer.init(w))), adapt=adapt, combine=combine)
