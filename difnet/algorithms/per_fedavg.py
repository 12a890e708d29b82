"""Per-FedAvg: FedAvg whose clients step towards a model that one inner step makes their own.

Source: A. Fallah, A. Mokhtari, A. Ozdaglar, "Personalized Federated Learning: A Meta-Learning Approach", 2020,
Algorithm 1.
"""

from functools import partial

from difnet.algorithms import Algorithm, Info, State
from difnet.algorithms._options import amount, one_of
from difnet.algorithms.fedavg import fedavg
from difnet.maths.flat import FlatModel
from difnet.meta import HessianProduct, Loss, Tasks, difference_product, hessian_product
from difnet.meta import per_fedavg as direction


def per_fedavg(
    model: FlatModel,
    loss: Loss,
    *,
    inner_lr: float = 0.01,
    order: int = 2,
    outer_lr: float = 0.001,
    form: str | None = None,
    d: float = 1e-3,
    server: str = "sgd",
    server_lr: float = 1.0,
    clip: float | None = None,
) -> Algorithm:
    """Per-FedAvg for one agent, and for a hub: a client's step is w - outer_lr * direction, with one inner step.

    A task's query set is cut into two batches, so it takes two samples or more. All three batches are drawn from a
    client's samples alike, as the paper's D, D' and D'' are.

    Args: `form` says where the product with the Hessian comes from: "exact", "hf" (Hessian-free: from gradients at a
        distance `d` to either side) or "fo" (first order: it is left out). None: "exact", or with `order` 1 "fo". The
        options of the server are those of FedAvg.
    Raises: ConfigError for an unknown `form`, a `d` that is not above 0, and options of the server that cannot be.
    """
    products: dict[str, HessianProduct | None] = {
        "exact": hessian_product, "fo": None, "hf": partial(difference_product, d=amount("d", d, or_zero=False)),
    }  # fmt: skip
    product = products[one_of("form", form or ("fo" if order == 1 else "exact"), products)]

    def adapt(state: State, tasks: Tasks) -> tuple[State, Info]:
        v, value = direction(loss, state.w, tasks, inner_lr=inner_lr, product=product, each=model.each)
        return state._replace(phi=state.w - outer_lr * v), {"loss": value}

    plain = fedavg(model, loss, inner_lr=inner_lr, optimizer="sgd", server=server, server_lr=server_lr, clip=clip)
    return plain._replace(adapt=adapt)
