"""How are the scores of many tasks or clients spread? The empirical distribution function and a kernel density."""

import math

import numpy as np

REFLECTIONS = 3  # mirror images kept on either side: what lies farther away is many bandwidths off


def cdf(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The empirical distribution function, F(x) = share of the samples that are at most x.

    A sample that is not finite (the loss of a task on which the model diverged) counts as greater than every x, so F
    then ends below one.

    Returns: the finite samples in ascending order, (n,), and F at each of them, (n,): draw them as steps.
    Raises: ValueError, if there is no sample.

    >>> [values.tolist() for values in cdf(np.array([3.0, 1.0, 2.0, float("nan")]))]
    [[1.0, 2.0, 3.0], [0.25, 0.5, 0.75]]
    """
    samples = np.asarray(samples, dtype=float)
    if not samples.size:
        raise ValueError("no samples, so no distribution; give at least one")
    x = np.sort(samples[np.isfinite(samples)])
    return x, np.searchsorted(x, x, side="right") / samples.size


def bandwidth(samples: np.ndarray, rule: str = "silverman") -> float:
    """The standard deviation of a Gaussian kernel by a rule of thumb, in the samples' unit; 0 where all are the same.

    "silverman": 0.9 min(s, IQR / 1.34) n^(-1/5), and s alone where the quartiles coincide; "scott": 1.06 s n^(-1/5).
    s is the standard deviation with n - 1.

    Raises: ValueError, for fewer than two samples, a sample that is not finite, or another rule.
    Source: B. W. Silverman, "Density Estimation for Statistics and Data Analysis", 1986, eq. (3.31);
    D. W. Scott, "Multivariate Density Estimation", 1992: the normal reference rule.
    """
    samples = np.asarray(samples, dtype=float)
    if samples.size < 2 or not np.isfinite(samples).all():
        raise ValueError(f"a bandwidth needs two finite samples or more, got {samples.tolist()}")
    shrinkage, s = samples.size ** (-1 / 5), float(samples.std(ddof=1))
    if rule == "scott":
        return 1.06 * s * shrinkage
    if rule != "silverman":
        raise ValueError(f"no rule called {rule!r}; there are 'silverman' and 'scott'")
    low, high = np.quantile(samples, [0.25, 0.75])
    return 0.9 * (min(s, float(high - low) / 1.34) if high > low else s) * shrinkage


def density(
    samples: np.ndarray, at: np.ndarray, width: float, low: float = -math.inf, high: float = math.inf
) -> np.ndarray:
    """The Gaussian kernel density estimate of samples (n,) at points (m,): (m,), integrating to one over [low, high].

    At a finite end, such as 0 and 1 of an accuracy, the mass that would lie beyond it is reflected back; outside
    [low, high] the density is 0. `width` is the kernel's standard deviation: see `bandwidth`.

    Raises: ValueError, if width is not positive, there is no sample or one lies outside [low, high].
    Source: B. W. Silverman, 1986: p. 15, the kernel estimator, and section 2.10, reflection at a boundary.

    >>> density(np.array([0.0]), np.array([0.0, -0.1]), width=1.0, low=0.0) * math.sqrt(2 * math.pi)
    array([2., 0.])
    """
    samples, at = np.asarray(samples, dtype=float), np.asarray(at, dtype=float)
    if not width > 0:
        raise ValueError(f"the kernel's width is {width}; it must be positive")
    if not samples.size or not ((samples >= low) & (samples <= high)).all():
        raise ValueError(f"samples must be at least one and lie in [{low}, {high}], got {samples.tolist()}")
    sources = _images(samples, low, high)
    z = (at[:, None] - sources) / width
    height = np.exp(-(z**2) / 2).sum(axis=1) / (samples.size * width * math.sqrt(2 * math.pi))
    return np.where((at >= low) & (at <= high), height, 0.0)


def _images(samples: np.ndarray, low: float, high: float) -> np.ndarray:
    """The samples and their mirror images at the finite ends; between two mirrors, images of images as well."""
    if math.isfinite(low) and math.isfinite(high):
        shifts = 2 * (high - low) * np.arange(-REFLECTIONS, REFLECTIONS + 1)[:, None]
        return np.concatenate([samples + shifts, 2 * low - samples + shifts]).ravel()
    ends = [end for end in (low, high) if math.isfinite(end)]
    return np.concatenate([samples, *(2 * end - samples for end in ends)])
