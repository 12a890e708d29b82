"""What does one agent do? Adapt, exchange, combine. And the hub of a star? Call, hear, take the server's step."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from difnet.algorithms import Info, Server, State
from difnet.maths.combine import mix
from difnet.maths.robust import Rule
from difnet.meta import Tasks

Adapt = Callable[[State, Tasks], tuple[State, Info]]
Combine = Callable[[State, Tensor], State]
Share = Callable[[int, Tensor], Tensor]  # (iteration, what this agent has) -> the mix of it with what it heard
Ask = Callable[[int, Tensor], Tensor | None]  # (iteration, launch model) -> mean answer; None: too few answered
Exchange = Callable[[int, np.ndarray], Mapping[int, np.ndarray]]  # (iteration, phi) -> {l: phi_l} of who answered
Observe = Callable[[int, State, Info], bool]  # (iterations done, state, what the step reports) -> go on?


def sharing(k: int, weights: Mapping[int, float], exchange: Exchange, rule: Rule = mix) -> Share:
    """Exchange and mix as one function of agent k. `weights` is column k of A, `rule` how it combines."""

    def share(i: int, phi: Tensor) -> Tensor:
        own = phi.numpy()
        return aligned(rule(weights, k, own, exchange(i, own)))

    return share


def aligned(values: np.ndarray) -> Tensor:
    """An array as a tensor in memory aligned as torch aligns it, so that kernels give equal bits everywhere."""
    return torch.tensor(values)


def run(
    adapt: Adapt,
    combine: Combine,
    state: State,
    tasks: Callable[[int], Tasks],
    share: Share,
    *,
    iterations: Iterable[int],
    local_steps: int,
    combine_first: bool,
    observe: Observe,
) -> State:
    """Run one agent: the recursion of diffusion for one k; on the rim of a served star, the work of one client.

    Adapt-then-combine (Dif-MAML's eq. 6a, 6b) shares phi after adapting; combine-then-adapt shares w before. With
    several local steps an agent adapts so often between two exchanges, each step from the last one's phi. `iterations`
    counts up, or yields the numbers of the rounds that a hub calls for.
    """
    for i in iterations:
        if combine_first:
            state = combine(state, share(i, state.w))
        for step in range(i * local_steps, (i + 1) * local_steps):
            if step > i * local_steps:
                state = state._replace(w=state.phi)
            state, info = adapt(state, tasks(step))
        state = combine(state, state.phi if combine_first else share(i, state.phi))
        if not observe(i + 1, state, info):
            break
    return state


def serve(server: Server, state: State, ask: Ask, *, iterations: Iterable[int], observe: Observe) -> State:
    """Run the hub of a star: call some clients with the launch model, hear them, take the server's step.

    A round in which too few answered changes nothing.
    Source: Chen et al., "Federated Meta-Learning", Algorithm 1, lines 4 to 10; McMahan et al. 2017, Algorithm 1.
    """
    for i in iterations:
        mean = ask(i, state.w)
        if mean is not None:
            state = server.step(state, mean)
        if not observe(i + 1, state, {}):
            break
    return state
