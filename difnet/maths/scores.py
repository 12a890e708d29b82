"""What do the results of many test tasks or clients come to? Numbers as they are: nothing is smoothed or left out."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = dict[str, float | None]  # None: unknown, because there are too few results


def loss_scores(losses: npt.ArrayLike) -> Scores:
    """Statistics of the query losses of T tasks, shape (T,); `std` has the divisor T - 1 and is None for one task.

    Raises: ValueError, if there are none, or it is no vector.

    >>> loss_scores([1.0, 2.0, 6.0])
    {'mean': 3.0, 'median': 2.0, 'std': 2.6457513110645907, 'best': 1.0, 'worst': 6.0}
    """
    values = _vector(losses, "losses")
    return {
        "mean": float(values.mean()), "median": float(np.median(values)), "std": _std(values),
        "best": float(values.min()), "worst": float(values.max()),
    }  # fmt: skip


def accuracy_scores(accuracies: npt.ArrayLike, samples: npt.ArrayLike) -> Scores:
    """Statistics of the accuracies of T clients, in [0, 1], shape (T,).

    `micro` is the accuracy over all samples of all clients together, `macro` the plain mean over clients.
    `worst_10_percent` is the mean over the ceil(T / 10) clients with the lowest accuracy; `worst_decile` and
    `best_decile` are the 10th and 90th percentile over clients, linear between two neighbouring results. `std` is over
    clients, with the divisor T - 1, and None for one client.

    Args: `samples`, (T,), how many query samples each client was tested on.
    Raises: ValueError, if there are none, or the two do not fit, or a client has no samples.
    Source: Chen et al., "Federated Meta-Learning with Fast Convergence and Efficient Communication", appendix A.2,
    for micro ("with respect to all data points") against macro ("with respect to all devices").

    >>> scores = accuracy_scores([1.0, 0.5], samples=[10, 30])
    >>> scores["micro"], scores["macro"], scores["worst_10_percent"]
    (0.625, 0.75, 0.5)
    """
    values, counts = _vector(accuracies, "accuracies"), _vector(samples, "samples")
    if counts.shape != values.shape or not (counts > 0).all():
        raise ValueError(f"samples are {counts.tolist()}; each of the {len(values)} clients needs one positive number")
    low, high = np.percentile(values, [10, 90])
    return {
        "micro": float(values @ counts / counts.sum()), "macro": float(values.mean()), "std": _std(values),
        "best": float(values.max()), "worst": float(values.min()),
        "worst_10_percent": float(np.sort(values)[: math.ceil(len(values) / 10)].mean()),
        "best_decile": float(high), "worst_decile": float(low),
    }  # fmt: skip


def interval(values: npt.ArrayLike, level: float = 0.95) -> tuple[float, float | None]:
    """The mean of independent runs (seeds) and the half width of Student's confidence interval around it.

    mean ± t s / sqrt(n) with s the standard deviation (divisor n - 1) and t the quantile of Student's t distribution
    with n - 1 degrees of freedom; None for one value, which says nothing of its spread.

    Raises: ValueError, if there are no values, or `level` is not between 0 and 1.

    >>> mean, half = interval([1.0, 2.0, 3.0])
    >>> mean, round(half, 3)                       # 4.303 / sqrt(3)
    (2.0, 2.484)
    """
    seen = _vector(values, "values")
    std, n = _std(seen), len(seen)
    half = None if std is None else student(level, n - 1) * std / math.sqrt(n)
    return float(seen.mean()), half


def student(level: float, degrees: int) -> float:
    """The t > 0 for which a Student t variable of so many degrees of freedom is in [-t, t] with probability `level`.

    That is the quantile of (1 + level) / 2. The distribution has a closed form in theta = arctan(t / sqrt(degrees)),
    which is halved down to the last bit.

    Raises: ValueError, if `level` is not between 0 and 1, or `degrees` is below 1.
    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.

    >>> round(student(0.95, 1), 3), round(student(0.95, 29), 3)
    (12.706, 2.045)
    """
    if not 0 < level < 1 or degrees < 1:
        raise ValueError(f"level {level}, {degrees} degrees of freedom; needed: a level between 0 and 1, degrees >= 1")
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, degrees) < level else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _within(theta: float, degrees: int) -> float:
    """A(t | degrees): the probability that |T| <= sqrt(degrees) tan(theta)."""
    sin, cos = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    term = total = (cos if odd else 1.0) if degrees > 1 else 0.0
    for j in range(2 + odd, degrees - 1, 2):  # next term: times cos^2 (j - 1) / j
        term *= cos * cos * (j - 1) / j
        total += term
    return 2 / math.pi * (theta + sin * total) if odd else sin * total


def _std(values: npt.NDArray[Any]) -> float | None:
    with np.errstate(invalid="ignore"):  # of an infinite loss: the deviation is not a number, and is said to be none
        return float(values.std(ddof=1)) if len(values) > 1 else None


def _vector(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} have shape {array.shape}; one number for each result is needed, and one at least")
    return array
