"""DSGD: decentralised gradient descent on the plain loss, without an inner step.

Each agent steps along the gradient on its own samples, then combines with its neighbours: the order of diffusion.
Source: J. Chen, A. H. Sayed, "Diffusion Adaptation Strategies for Distributed Optimization and Learning over Networks",
2012, adapt-then-combine, with gradients of a batch.
"""

from torch import Tensor
from torch.linalg import vector_norm

from difnet.algorithms import Algorithm, Info, State
from difnet.maths.flat import FlatModel
from difnet.maths.optimizers import OPTIMIZERS
from difnet.meta import Batch, Loss, Tasks, fit, pooled


def dsgd(
    model: FlatModel, loss: Loss, *, inner_lr: float = 0.01, outer_lr: float = 0.001, optimizer: str = "adam"
) -> Algorithm:
    """DSGD for one agent: one step of the optimiser on a minibatch, `shots` + `queries` samples of each of its tasks.

    They are drawn from all samples of a client alike, whichever of them others would take for support.

    A new task is fitted by plain gradient steps, at `inner_lr`. Reports "gradient_norm" besides the loss.
    """
    outer = OPTIMIZERS[optimizer]()

    def adapt(state: State, tasks: Tasks) -> tuple[State, Info]:
        g, value = pooled(loss, state.w, tasks)
        phi, slots = outer.step(state.w, state.slots, g, outer_lr)
        return state._replace(phi=phi, slots=slots), {"loss": value, "gradient_norm": vector_norm(g)}

    def combine(state: State, mixed: Tensor) -> State:
        return state._replace(w=mixed)

    def fitted(w: Tensor, support: Batch, steps: int) -> Tensor:
        return fit(loss, w, support, inner_lr=inner_lr, inner_steps=steps)

    return Algorithm(lambda w: State(w, w, outer.init(w)), adapt, combine, fitted, alike=True)
