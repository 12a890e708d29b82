"""Distributions of scores, against definitions worked by hand, integrals, and closed forms for normal samples."""

import math
from statistics import NormalDist, stdev

import numpy as np
import pytest

from difnet.maths.distributions import bandwidth, cdf, density

rng = np.random.default_rng(20_261)


def integral(f, low, high, points=20_001):
    """By the trapezium rule, finely enough for 1e-9."""
    x = np.linspace(low, high, points)
    y = f(x)
    return float(((y[1:] + y[:-1]) * np.diff(x)).sum() / 2)


def test_the_distribution_function_counts_the_samples_at_most_x():
    samples = rng.integers(0, 20, size=50) / 4  # with ties
    x, F = cdf(samples)
    assert F.tolist() == [sum(s <= at for s in samples) / 50 for at in x]
    assert F[-1] == 1 and (np.diff(x) >= 0).all()


def test_a_diverged_task_keeps_the_distribution_function_below_one():
    x, F = cdf(np.array([2.0, math.inf, 1.0, math.nan, 3.0]))
    assert x.tolist() == [1.0, 2.0, 3.0] and F.tolist() == [1 / 5, 2 / 5, 3 / 5]


def test_both_rules_of_thumb_give_what_their_formulas_give_by_hand():
    samples = [0.0, 1.0, 2.0, 3.0, 10.0]  # quartiles 1 and 3
    assert bandwidth(np.array(samples)) == pytest.approx(0.9 * (2 / 1.34) * 5**-0.2, rel=1e-14)
    assert bandwidth(np.array(samples), "scott") == pytest.approx(1.06 * stdev(samples) * 5**-0.2, rel=1e-14)


def test_the_bandwidth_is_in_the_unit_of_the_samples_and_blind_to_where_they_are():
    samples = rng.normal(size=40)
    for rule in ("silverman", "scott"):
        assert bandwidth(3 * samples + 7, rule) == pytest.approx(3 * bandwidth(samples, rule), rel=1e-12)


def test_coinciding_quartiles_leave_the_standard_deviation_and_equal_samples_nothing():
    samples = np.array([0.5] * 9 + [1.0])
    assert bandwidth(samples) == pytest.approx(0.9 * samples.std(ddof=1) * 10**-0.2, rel=1e-14)
    assert bandwidth(np.full(4, 0.25)) == 0


def test_without_ends_the_density_is_the_mean_of_normal_densities():
    samples, at = rng.normal(size=7), np.linspace(-3, 3, 11)
    by_hand = [np.mean([NormalDist(s, 0.4).pdf(x) for s in samples]) for x in at]
    np.testing.assert_allclose(density(samples, at, 0.4), by_hand, rtol=1e-13)


@pytest.mark.parametrize("width", [0.01, 0.1, 0.5])
def test_reflection_keeps_the_whole_mass_between_the_ends(width):
    samples = np.array([0.0, 0.02, 0.5, 0.97, 1.0, 1.0])
    assert integral(lambda x: density(samples, x, width, 0.0, 1.0), 0.0, 1.0) == pytest.approx(1, abs=1e-6)
    assert integral(lambda x: density(samples, x, width), 0.0, 1.0) < 0.9  # what is lost without it
    assert density(samples, np.array([-1e-9, 1 + 1e-9]), width, 0.0, 1.0).tolist() == [0, 0]


def test_reflection_folds_the_tails_back_and_so_is_flat_at_an_end():
    """By the definition: f(x) + f(2 low - x) at one end; hence an even function about it."""
    samples, x, h = np.array([0.1, 0.4, 2.0]), np.linspace(0, 3, 9), 0.3
    folded = density(samples, x, h) + density(samples, -x, h)
    np.testing.assert_allclose(density(samples, x, h, low=0.0), folded, rtol=1e-13)
    step = 1e-5
    rise = np.diff(density(np.array([0.05, 0.9]), np.array([0.0, step, 1 - step, 1.0]), 0.2, 0.0, 1.0))
    assert abs(rise[0] / step) < 1e-3 and abs(rise[2] / step) < 1e-3


def test_a_very_wide_kernel_between_two_ends_knows_nothing_and_is_uniform():
    np.testing.assert_allclose(density(np.array([0.3]), np.linspace(0, 1, 5), 1.5, 0.0, 1.0), 1.0, atol=1e-3)


def test_the_estimate_nears_the_density_it_was_drawn_from():
    """Samples at the quantiles of a normal law, so nothing is left to chance; the bias is about h² f″ / 2."""
    law, n = NormalDist(0.5, 0.1), 4000
    samples = np.array([law.inv_cdf((i + 0.5) / n) for i in range(n)])
    at = np.linspace(0.2, 0.8, 13)
    for rule in ("silverman", "scott"):
        h = bandwidth(samples, rule)
        smoothed = NormalDist(0.5, math.hypot(0.1, h))  # a normal law smoothed by a normal kernel
        np.testing.assert_allclose(density(samples, at, h, 0.0, 1.0), [smoothed.pdf(x) for x in at], rtol=0.01)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cdf(np.array([])), "no samples"),
        (lambda: bandwidth(np.array([1.0])), "two finite samples"),
        (lambda: bandwidth(np.array([1.0, math.nan])), "two finite samples"),
        (lambda: bandwidth(np.array([1.0, 2.0]), "sheather"), "'silverman' and 'scott'"),
        (lambda: density(np.array([0.5]), np.array([0.5]), 0.0), "must be positive"),
        (lambda: density(np.array([1.5]), np.array([0.5]), 0.1, 0.0, 1.0), r"lie in \[0.0, 1.0\]"),
    ],
)
def test_what_has_no_distribution_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
