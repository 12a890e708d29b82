"""What does an agent make of what it has heard if some of it may be a lie? Rules to combine by, and who sends too much.

Every rule takes what `combine.mix` takes, and neighbours who are silent, in a fixed order: the same bits for one agent
and for all. They bound what a lie can do as long as the liars among an agent's neighbours are few; none finds them out.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from difnet.maths.combine import mix

Values = npt.NDArray[Any]
Rule = Callable[[Mapping[int, float], int, Values, Mapping[int, Values]], Values]  # as `combine.mix`

TIMES = 1e3  # as long as its receiver's own state, and as those of the others: a state that is named
MOST_PAIRWISE = 12  # rows that are compared pair by pair, whole vectors at once; more are sorted


def rule(name: str) -> Rule:
    """The rule that a run's `combine` names: mean, clip, median or trim:b.

    >>> heard = {0: np.array([0.0]), 2: np.array([3.0]), 3: np.array([1e6])}
    >>> for name in ("clip", "trim:1", "median"):
    ...     print(name, rule(name)({0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25}, 1, np.array([1.0]), heard))
    clip [1.75]
    trim:1 [2.]
    median [2.]
    """
    kind, _, b = name.partition(":")
    if kind == "trim":
        return partial(trim, b=int(b))
    rules: dict[str, Rule] = {"mean": mix, "clip": clip, "median": median}
    return rules[kind]


def least_neighbours(name: str) -> int:
    """How many neighbours an agent must have for a rule to use any of them.

    >>> least_neighbours("trim:2"), least_neighbours("median")
    (5, 0)
    """
    kind, _, b = name.partition(":")
    return 2 * int(b) + 1 if kind == "trim" else 0


def trim(weights: Mapping[int, float], k: int, phi: Values, heard: Mapping[int, Values], b: int) -> Values:
    """Coordinate-wise trimmed mean: without the b largest and b smallest of the neighbours' values, the own one kept.

    What is left has equal weights: those of A play no part. The own state, unless 2 b + 1 neighbours answered.
    Source: C. Fang, Z. Yang, W. U. Bajwa, "BRIDGE: Byzantine-Resilient Decentralized Gradient Descent", 2022: BRIDGE-T.
    """
    if len(heard) < 2 * b + 1:
        return phi
    return _mean([phi, *_inner([heard[l] for l in sorted(heard)], b)])


def median(weights: Mapping[int, float], k: int, phi: Values, heard: Mapping[int, Values]) -> Values:
    """Coordinate-wise median of the own state and of those of the neighbours who answered; the weights play no part.

    Of an even number, the mean of the middle two.
    Source: Fang et al. 2022: BRIDGE-M.
    """
    rows = [phi, *(heard[l] for l in sorted(heard))]
    return _mean(_inner(rows, (len(rows) - 1) // 2))


def clip(
    weights: Mapping[int, float], k: int, phi: Values, heard: Mapping[int, Values], tau: float | None = None
) -> Values:
    """Self-centred clipping: phi_k + sum over l of a_lk clip(phi_l - phi_k, tau), clip(z, tau) = min(1, tau / |z|) z.

    That is a mean in which a neighbour farther away than tau weighs less, and the rest of its weight stays with k, as
    that of the silent does. Args: `tau`; None: the median distance of those who answered, the lower one of an even
    number, so that half of them may lie about it. Of one neighbour alone everything is believed.
    Source: L. He, S. P. Karimireddy, M. Jaggi, "Byzantine-Robust Decentralized Learning via ClippedGossip", 2022; their
    released code takes the second largest distance where no tau is given.
    """
    far = {l: _distance(phi, heard[l]) for l in sorted(heard)}
    tau = _lower_median(far.values()) if tau is None else tau
    kept = {l: a * (tau / far[l]) if far.get(l, 0.0) > tau else a for l, a in weights.items() if l != k}
    own = weights.get(k, 0.0) + sum(weights[l] - kept[l] for l in far)
    return mix({**kept, k: own}, k, phi, heard)


def outsized(phi: Values, heard: Mapping[int, Values], times: float = TIMES) -> list[int]:
    """The neighbours whose state is longer than `times` the own one and `times` the median one of the others.

    Nobody is where both of these are 0, or too long for their squares to be numbers of their type.

    >>> outsized(np.ones(4), {0: np.ones(4), 3: np.full(4, 1e38), 5: np.full(4, 900.0)})
    [3]
    """
    own = float(np.vdot(phi, phi))
    squares = {l: float(np.vdot(state, state)) for l, state in heard.items()}  # which overflow to inf, without a word
    bound = times * times
    named = [l for l, square in squares.items() if square > bound * own]
    if not named:
        return named
    usual = {l: max(own, _lower_median(s for m, s in squares.items() if m != l)) for l in named}
    return sorted(l for l in named if usual[l] > 0 and squares[l] > bound * usual[l])


def _mean(rows: Sequence[Values]) -> Values:
    """The plain mean; from 0.0 on, so that the sign of a zero, which no comparison sees, is the same everywhere."""
    total = 0.0 + rows[0]
    for row in rows[1:]:
        total = total + row
    return total / len(rows)


def _inner(rows: Sequence[Values], b: int) -> Sequence[Values]:
    """What is left of n rows (M,) when the b largest and the b smallest values of each coordinate are gone."""
    if len(rows) > MOST_PAIRWISE:
        return list(np.sort(np.stack(rows), axis=0)[b : len(rows) - b])
    left = list(rows)

    def order(n: int) -> None:
        left[n], left[n + 1] = np.minimum(left[n], left[n + 1]), np.maximum(left[n], left[n + 1])

    for _ in range(b):
        for n in range(len(left) - 1):
            order(n)
        left.pop()
        for n in reversed(range(len(left) - 1)):
            order(n)
        left.pop(0)
    return left


def _distance(one: Values, other: Values) -> float:
    """Euclidean, in float64 and summed in one order whatever the memory's alignment; inf where it overflows."""
    with np.errstate(over="ignore"):
        apart = np.subtract(one, other, dtype=np.float64)
        return math.sqrt(np.square(apart, out=apart).sum())


def _lower_median(values: Iterable[float]) -> float:
    """The middle one, or the lower of the middle two; 0 of none."""
    rising = sorted(values)
    return rising[(len(rising) - 1) // 2] if rising else 0.0
