"""The contract of an algorithm: a few pure functions of values, for one agent.

One file is one algorithm; its factory bears the file's name and takes (model, loss, config) and its own options.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from difnet.meta import Batch, Tasks


class State(NamedTuple):
    """What an agent carries from one iteration to the next."""

    w: Tensor  # launch model, (M,)
    phi: Tensor  # intermediate state, what travels, (M,)
    slots: tuple[Tensor, ...]  # the outer optimiser's state, local to the agent


class Algorithm(NamedTuple):
    """The runtime owns everything else: time, sockets, processes."""

    init: Callable[[Tensor], State]  # first launch model (M,) -> state
    adapt: Callable[[State, Tasks], tuple[State, Tensor]]  # state.w -> state.phi; and the training loss, ()
    combine: Callable[[State, Tensor], State]  # mixed phi (M,) -> next state.w
    fit: Callable[[Tensor, Batch, int], Tensor]  # (w, one task's support set, inner steps) -> the model fitted to it
