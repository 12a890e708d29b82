"""Where do the outermost eigenvalues of a combination matrix lie? Exact to rounding, and in reach for 10 000 agents.

Every rule on an undirected graph gives a matrix that is symmetric, or becomes so in the coordinates of its own weighted
mean. Small ones are decomposed; large ones, which are sparse, meet Lanczos' method.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_DENSE = 1000  # agents up to which a full decomposition takes a fraction of a second


def symmetrised(A: Array) -> tuple[Array, Array] | None:
    """A symmetric S with the eigenvalues of A, and S's unit eigenvector to the eigenvalue 1; None if there is none.

    S = D^-1/2 A D^1/2 with D = diag(p) is symmetric when p is in detailed balance with A: a_lk p_k = a_kl p_l. That is
    so for symmetric A (p = 1) and for the averaging rule on undirected graphs (p_k = n_k).

    >>> symmetrised(np.array([[0.5, 0.25], [0.5, 0.75]]))[1].round(3).tolist()     # p = 1/3, 2/3
    [0.577, 0.816]
    """
    if (A == A.T).all():
        return A, np.full(len(A), len(A) ** -0.5)
    p = np.zeros(len(A))
    p[0], reached = 1.0, [0]
    for k in reached:  # grows as it is walked: breadth first
        for l in np.flatnonzero((A[:, k] > 0) & (p == 0)):
            if A[k, l] == 0:
                return None
            p[l] = p[k] * A[l, k] / A[k, l]
            reached.append(int(l))
    if len(reached) < len(A) or not np.isfinite(p).all():
        return None
    root = np.sqrt(p / p.sum())
    S = A * root / root[:, None]
    return ((S + S.T) / 2, root) if np.allclose(S, S.T, rtol=1e-12, atol=1e-14) else None


def extremes(S: Array, top: Array | None = None) -> tuple[float, float]:
    """The smallest and the second largest eigenvalue of a symmetric S whose largest belongs to the unit vector `top`.

    S is float64 (K, K), K >= 2; `top` is float64 (K,), constant by default.

    >>> [round(value, 9) for value in extremes(np.array([[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]))]
    [-0.5, 0.5]
    """
    agents = len(S)
    if agents <= _DENSE:
        values = np.linalg.eigvalsh(S)
        return float(values[0]), float(values[-2])
    top = np.full(agents, agents**-0.5) if top is None else top
    rows, columns = np.nonzero(S)
    if len(rows) > agents * agents / 16:
        return _lanczos(lambda x: S @ x, top)
    entries = S[rows, columns]
    return _lanczos(lambda x: np.bincount(rows, entries * x[columns], agents), top)


def _lanczos(times: Callable[[Array], Array], top: Array, tolerance: float = 1e-13) -> tuple[float, float]:
    """The outermost eigenvalues of x -> times(x) on what is orthogonal to `top`.

    Lost orthogonality only repeats eigenvalues already found, so nothing is reorthogonalised, except against `top`.
    Source: G. H. Golub, C. F. Van Loan, "Matrix Computations", 4th ed., 2013, ch. 10.1 (and 8.4 for the bisection).
    """
    x = np.random.default_rng(0).standard_normal(len(top))
    x -= top * (top @ x)
    x, before = x / np.linalg.norm(x), np.zeros(len(top))
    diagonal: list[float] = []
    beside = [0.0]
    found, look = (math.inf, -math.inf), 32
    for _ in range(2 * len(top)):
        y = times(x) - beside[-1] * before
        diagonal.append(float(x @ y))
        y -= diagonal[-1] * x
        y -= top * (top @ y)
        beside.append(float(np.linalg.norm(y)))
        if len(diagonal) == look or beside[-1] < tolerance:
            last, found, look = found, _tridiagonal_ends(diagonal, beside[1:-1]), look + look // 2
            if beside[-1] < tolerance or max(abs(found[0] - last[0]), abs(found[1] - last[1])) < tolerance:
                return found
        before, x = x, y / beside[-1]
    return _tridiagonal_ends(diagonal, beside[1:-1])


def _tridiagonal_ends(diagonal: list[float], beside: list[float]) -> tuple[float, float]:
    """Smallest and largest eigenvalue of a symmetric tridiagonal matrix, by bisection on Sturm's count."""
    squares = [0.0, *(b * b for b in beside)]

    def below(shift: float) -> int:
        pivot, count = 1.0, 0
        for a, square in zip(diagonal, squares, strict=True):
            pivot = a - shift - square / pivot
            if pivot == 0:
                pivot = -1e-300
            count += pivot < 0
        return count

    reach = max(map(abs, diagonal)) + 2 * max(beside, default=0.0)

    def bisect(wanted: int) -> float:
        low, high = -reach, reach
        while (middle := (low + high) / 2) not in (low, high) and high - low > 1e-15 * reach:
            low, high = (low, middle) if below(middle) >= wanted else (middle, high)
        return (low + high) / 2

    return bisect(1), bisect(len(diagonal))
