"""iMAML: MAML whose inner problem is held to the launch model and differentiated at its solution.

Source: A. Rajeswaran, C. Finn, S. Kakade, S. Levine, "Meta-Learning with Implicit Gradients", 2019; in the federated
form that Meta-Backward compares itself with, eq. (3) to (5): agents send gradients, a hub takes the step.
"""

from torch import Tensor

from difnet.algorithms import Algorithm, Info, State
from difnet.algorithms._options import amount
from difnet.algorithms._servers import gradient_server
from difnet.errors import ConfigError
from difnet.maths import implicit
from difnet.maths.flat import FlatModel
from difnet.meta import Batch, Loss, Tasks, fit


def imaml(
    model: FlatModel,
    loss: Loss,
    *,
    inner_lr: float = 0.01,
    inner_steps: int = 1,
    outer_lr: float = 0.001,
    optimizer: str = "adam",
    weight: float = 2.0,
    cg_steps: int = 5,
    damping: float = 0.0,
    clip: float | None = None,
) -> Algorithm:
    """iMAML for one agent and for the hub; it needs a hub, because what an agent sends is a gradient.

    A new task is fitted by plain gradient steps, without the proximal term.

    Args: `weight` is the lambda of the proximal term, `cg_steps` how many conjugate-gradient steps solve the system,
        to whose diagonal `damping` is added; the hub shortens a mean gradient longer than `clip`. The
        defaults, lambda = 2 and 5 steps, are those of Meta-Backward's comparison.
    Reports: "loss", "proximal_residual", "cg_residual", "negative_curvature": see `difnet.maths.implicit.imaml`.
    Where "negative_curvature", a number of tasks a step, is not 0, a greater `weight` is due. Seen with the 1-40-40-1
    ReLU network on sinusoids of amplitude 3: near its first models the least eigenvalue of H is -3 to -10; 2 is too
    small for most tasks, 20 for none.
    Raises: ConfigError for an option that is out of range.
    """
    amount("weight", weight, or_zero=False)
    amount("damping", damping)
    if type(cg_steps) is not int or cg_steps < 1:
        raise ConfigError(f"algorithm.cg_steps is {cg_steps!r}; it must be a whole number from 1 up")

    def adapt(state: State, tasks: Tasks) -> tuple[State, Info]:
        gradient, info = implicit.imaml(
            loss, state.w, tasks, weight=weight, inner_lr=inner_lr, inner_steps=inner_steps, cg_steps=cg_steps,
            damping=damping, each=model.each,
        )
        return state._replace(phi=gradient), info

    def combine(state: State, mixed: Tensor) -> State:
        return state._replace(w=mixed)

    def fitted(w: Tensor, support: Batch, steps: int) -> Tensor:
        return fit(loss, w, support, inner_lr=inner_lr, inner_steps=steps)

    return Algorithm(
        lambda w: State(w, w, ()), adapt, combine, fitted,
        server=gradient_server(optimizer, outer_lr, clip), needs_hub=True,
    )
