"""Local models: each agent trains alone on its own tasks before the first exchange. It is DSGD without neighbours."""

from typing import NamedTuple

from torch import Tensor

from difnet.maths.seeding import Purpose
from difnet.workload import TaskStream, Workload
from difnet.workload.kernels import Kernels


class LocalModel(NamedTuple):
    """What an agent has learnt alone."""

    w: Tensor  # (M,)
    steps: int
    loss: float  # of the last step, on its samples
    gradient_norm: float


def train_alone(workload: Workload, kernels: Kernels, k: int) -> LocalModel:
    """Agent k's local model: so many steps of Adam, or until the gradient's norm is at most `offline_epsilon`.

    Source: Meta-Backward, Algorithm 1, lines 2 to 4. Its epsilon (eq. 16) is a distance to the optimum, which cannot be
    measured where the loss is not strongly convex; the gradient's norm stands in its place.
    """
    assert kernels.train_alone is not None, "compile_kernels makes it for every run with an offline start"
    state, epsilon = workload.offline.init(workload.first_launch_model(k)), workload.config.offline_epsilon
    tasks = TaskStream(workload, k, Purpose.OFFLINE)
    done, loss, norm = 0, float("nan"), float("inf")
    while done < workload.offline_steps and norm > epsilon:
        state, info = kernels.train_alone(state, tasks(done))
        state = state._replace(w=state.phi)
        done, loss, norm = done + 1, float(info["loss"]), float(info["gradient_norm"])
    return LocalModel(state.w, done, loss, norm)
