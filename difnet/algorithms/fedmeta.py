"""FedMeta: the clients of a star send meta-gradients, its hub takes the outer step.

Source: F. Chen, M. Luo, Z. Dong, Z. Li, X. He, "Federated Meta-Learning with Fast Convergence and Efficient
Communication", Algorithm 1.
"""

from torch import Tensor

from difnet.algorithms import Algorithm, Info, State
from difnet.algorithms._inner import inner_rule
from difnet.algorithms._options import one_of
from difnet.algorithms._servers import gradient_server
from difnet.maths.flat import FlatModel
from difnet.meta import Loss, Tasks

INNER = ("maml", "meta-sgd", "reptile", "anil")


def fedmeta(
    model: FlatModel,
    loss: Loss,
    *,
    inner_lr: float = 0.01,
    inner_steps: int = 1,
    order: int = 2,
    outer_lr: float = 0.001,
    optimizer: str = "adam",
    inner: str = "maml",
    clip: float | None = None,
) -> Algorithm:
    """FedMeta for one client, and for the hub, whose outer step has the rate `outer_lr`.

    Args: `inner` is "maml" (with `order` 1: FOMAML), "meta-sgd" (the inner rates are learnt too: w, and what travels,
        is the model and its rates, 2M values), "reptile" or "anil" (inner steps on the last layer only); `clip` is the
        greatest length of a mean gradient.
    Raises: ConfigError for an unknown `inner` or a `clip` that is not above 0.
    """
    one_of("inner", inner, INNER)
    rule = inner_rule(inner, model, loss, inner_lr=inner_lr, inner_steps=inner_steps, order=order)

    def init(w: Tensor) -> State:
        begun = rule.begin(w)
        return State(begun, begun, ())

    def adapt(state: State, tasks: Tasks) -> tuple[State, Info]:
        g, query_loss = rule.gradient(state.w, tasks)
        return state._replace(phi=g), {"loss": query_loss}

    def combine(state: State, w: Tensor) -> State:
        return state._replace(w=w)

    server = gradient_server(optimizer, outer_lr, clip)
    return Algorithm(init, adapt, combine, rule.fit, server=server, needs_hub=True, model=rule.model)
