"""What the hub of a star does with the mean of what its clients sent: it steps along a gradient, or to a model.

An optimiser's state is part of the hub's, so it lasts from round to round: made anew each time, Adam would step by the
sign of the gradient alone.
"""

from torch import Tensor

from difnet.algorithms import Server, State
from difnet.algorithms._options import amount, one_of
from difnet.maths.optimizers import OPTIMIZERS, clipped


def gradient_server(optimizer: str, rate: float, clip: float | None = None) -> Server:
    """A server whose clients send gradients: one step of an optimiser along their mean.

    Args: `clip` is the greatest length of a mean gradient; a longer one is shortened to it first. None: none is.
    Raises: ConfigError for a `clip` that is not above 0.
    Source: Chen et al., "Federated Meta-Learning with Fast Convergence and Efficient Communication", Algorithm 1,
    line 9, which is "sgd".
    """
    outer = OPTIMIZERS[optimizer]()
    if clip is not None:
        amount("clip", clip, or_zero=False)

    def step(state: State, mean: Tensor) -> State:
        w, slots = outer.step(state.w, state.slots, clipped(mean, clip), rate)
        return state._replace(w=w, slots=slots)

    return Server(lambda w: State(w, w, outer.init(w)), step)


def model_server(optimizer: str = "sgd", rate: float = 1.0, clip: float | None = None) -> Server:
    """A server whose clients send models: one step of an optimiser along the pseudo-gradient, w minus their mean.

    With "sgd", rate 1 and no clip that is the mean, and then the mean itself is taken, which rounding does not touch.

    Raises: ConfigError for an unknown optimiser, a rate that is not 0 or more, or a `clip` that is not above 0.
    Source: Reddi et al., "Adaptive Federated Optimization", 2021, Algorithm 1 (FedOpt); McMahan et al.,
    "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017, Algorithm 1, for the mean.
    """
    along = gradient_server(one_of("server", optimizer, OPTIMIZERS), amount("server_lr", rate), clip)
    if optimizer == "sgd" and rate == 1.0 and clip is None:
        return along._replace(step=lambda state, mean: state._replace(w=mean))
    return along._replace(step=lambda state, mean: along.step(state, state.w - mean))
