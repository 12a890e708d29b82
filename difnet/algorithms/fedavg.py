"""FedAvg: the clients of a star train on their own samples, its hub means their models.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017, Algorithm 1;
Reddi et al., "Adaptive Federated Optimization", 2021, Algorithm 2, for a server with an optimiser of its own.
"""

from difnet.algorithms import Algorithm
from difnet.algorithms._servers import model_server
from difnet.algorithms.dsgd import dsgd
from difnet.maths.flat import FlatModel
from difnet.meta import Loss


def fedavg(
    model: FlatModel,
    loss: Loss,
    *,
    inner_lr: float = 0.01,
    outer_lr: float = 0.001,
    optimizer: str = "adam",
    server: str = "sgd",
    server_lr: float = 1.0,
    clip: float | None = None,
) -> Algorithm:
    """FedAvg for one agent, and for a hub: a client's step is DSGD's, and so is the whole where no hub serves.

    How many steps a client takes in a round is the run's `local_steps`; its optimiser begins anew with every round,
    since a client keeps nothing between two calls. Without inner steps at the test it is FedAvg, with them
    FedAvg(Meta): the launch model fine-tuned on a client's support set.

    Args: `server`, `server_lr` and `clip`: the hub's optimiser on w minus the mean of the models, its rate, and the
        greatest length of that difference; as they are, w becomes the mean.
    Raises: ConfigError for options of the server that cannot be.
    """
    alone = dsgd(model, loss, inner_lr=inner_lr, outer_lr=outer_lr, optimizer=optimizer)
    return alone._replace(server=model_server(server, server_lr, clip), anew=True)
