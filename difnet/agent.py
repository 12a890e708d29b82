"""What does one agent do? Adapt, exchange, combine."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from difnet.algorithms import State
from difnet.meta import Tasks
from difnet.mixing import mix

Adapt = Callable[[State, Tasks], tuple[State, Tensor]]
Combine = Callable[[State, Tensor], State]
Share = Callable[[int, Tensor], Tensor]  # (iteration, what this agent has) -> the mix of it with what it heard
Exchange = Callable[[int, np.ndarray], Mapping[int, np.ndarray]]  # (iteration, phi) -> {l: phi_l} of who answered
Observe = Callable[[int, State, Tensor], bool]  # (iterations done, state, loss) -> go on?


def sharing(k: int, weights: Mapping[int, float], exchange: Exchange) -> Share:
    """Exchange and mix as one function of agent k. `weights` is column k of A."""

    def share(i: int, phi: Tensor) -> Tensor:
        own = phi.numpy()
        mixed = mix(weights, k, own, exchange(i, own))
        return torch.from_numpy(mixed).clone()  # in memory aligned as torch aligns it, so that kernels give equal bits

    return share


def run(
    adapt: Adapt,
    combine: Combine,
    state: State,
    tasks: Callable[[int], Tasks],
    share: Share,
    *,
    iterations: int,
    local_steps: int,
    combine_first: bool,
    observe: Observe,
) -> State:
    """Run one agent: the recursion of diffusion for one k.

    Adapt-then-combine (the paper's eq. 6a, 6b) shares phi after adapting; combine-then-adapt shares w before. With
    several local steps an agent adapts so often between two exchanges, each step from the last one's phi.
    """
    for i in range(iterations):
        if combine_first:
            state = combine(state, share(i, state.w))
        for step in range(i * local_steps, (i + 1) * local_steps):
            if step > i * local_steps:
                state = combine(state, state.phi)
            state, loss = adapt(state, tasks(step))
        state = combine(state, state.phi if combine_first else share(i, state.phi))
        if not observe(i + 1, state, loss):
            break
    return state
