"""How does an agent adapt and combine? An algorithm is a few pure functions, for an agent and for the hub of a star.

One file is one algorithm; its factory bears the file's name and takes (model, loss), of the run's common words those it
has a use for (inner_lr, inner_steps, order, outer_lr, optimizer, iterations), and its own options.

Imports: errors, meta, maths.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from difnet.meta import Batch, Tasks

Info = dict[str, Tensor]  # "loss" and whatever else an algorithm reports of a step, scalars


class State(NamedTuple):
    """What an agent carries from one iteration to the next. L is M, or more where more than a model is learnt."""

    w: Tensor  # launch model, (L,)
    phi: Tensor  # intermediate state, what travels, (L,): a model, or for an algorithm that needs a hub a gradient
    slots: tuple[Tensor, ...]  # the optimiser's state and the like, local to the agent


class Server(NamedTuple):
    """What the hub of a star does with the mean of what its clients sent."""

    init: Callable[[Tensor], State]  # first launch model (L,) -> the hub's state
    step: Callable[[State, Tensor], State]  # mean message (L,) -> next state.w


def whole(w: Tensor) -> Tensor:
    """All of w is the model."""
    return w


class Algorithm(NamedTuple):
    """The runtime owns everything else: time, sockets, processes."""

    init: Callable[[Tensor], State]  # first launch model (M,) -> state
    adapt: Callable[[State, Tasks], tuple[State, Info]]  # state.w -> state.phi; and "loss" first of what it reports
    combine: Callable[[State, Tensor], State]  # mixed phi, or the hub's w, (L,) -> next state.w
    fit: Callable[[Tensor, Batch, int], Tensor]  # (w, one task's support set, inner steps) -> w fitted to it, (L,)
    server: Server | None = None  # None: a star is a graph like any other
    needs_hub: bool = False  # what travels is of use to a hub alone
    offline: bool = False  # begins from local models, each trained alone
    everyone: bool = False  # every client takes part in every round
    model: Callable[[Tensor], Tensor] = whole  # the model (M,) within w (L,)
    alike: bool = False  # trains on a minibatch of all its samples alike, not on support and query parts
    anew: bool = False  # a client of a served star begins every round as it began the first, but for w

    def begin(self, state: State, w: Tensor) -> State:
        """How a client of a served star begins a round, from the hub's w (L,)."""
        return self.init(w) if self.anew else self.combine(state, w)
