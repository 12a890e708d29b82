"""What the results of many tasks or clients come to, and how sure a mean over seeds is."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difnet.maths.scores import accuracy_scores, interval, loss_scores, student

results = st.lists(st.floats(0, 1), min_size=2, max_size=60)


# --- losses ----------------------------------------------------------------------------------------------------------


@given(losses=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60))
def test_losses_are_summed_up_as_pythons_own_statistics_do(losses):
    scores = loss_scores(losses)
    assert list(scores) == ["mean", "median", "std", "best", "worst"]
    assert scores["mean"] == pytest.approx(statistics.fmean(losses), rel=1e-12, abs=1e-6)
    assert scores["median"] == pytest.approx(statistics.median(losses), rel=1e-12, abs=1e-6)
    assert scores["std"] == pytest.approx(statistics.stdev(losses), rel=1e-9, abs=1e-6)
    assert (scores["best"], scores["worst"]) == (min(losses), max(losses))


# --- accuracies ------------------------------------------------------------------------------------------------------


@given(right=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=40))
def test_micro_accuracy_counts_samples_and_macro_accuracy_clients(right):
    """From how many of how many samples were right: all right ones over all samples, and the mean of the quotients."""
    right = [(min(hits, samples), samples) for hits, samples in right]
    scores = accuracy_scores([hits / samples for hits, samples in right], [samples for _, samples in right])
    assert scores["micro"] == pytest.approx(sum(h for h, _ in right) / sum(s for _, s in right), rel=1e-12)
    assert scores["macro"] == pytest.approx(statistics.fmean(h / s for h, s in right), rel=1e-12)


@pytest.mark.parametrize(("clients", "worst"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (25, 3)])
def test_the_worst_ten_per_cent_are_the_tenth_of_the_clients_rounded_up(clients, worst):
    accuracies = np.random.default_rng(clients).permutation(np.linspace(0.2, 0.9, clients))
    got = accuracy_scores(accuracies, np.ones(clients))["worst_10_percent"]
    assert got == pytest.approx(sum(sorted(accuracies)[:worst]) / worst, rel=1e-12)


@given(accuracies=results)
def test_deciles_lie_a_tenth_from_either_end_between_two_neighbours(accuracies):
    """The q-th of T sorted results has place q (T - 1); between two places the line between them."""

    def quantile(q):
        ordered, place = sorted(accuracies), q * (len(accuracies) - 1)
        below = math.floor(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    scores = accuracy_scores(accuracies, [1] * len(accuracies))
    assert scores["worst_decile"] == pytest.approx(quantile(0.1), abs=1e-12)
    assert scores["best_decile"] == pytest.approx(quantile(0.9), abs=1e-12)
    assert (scores["worst"], scores["best"]) == (min(accuracies), max(accuracies))
    assert scores["std"] == pytest.approx(statistics.stdev(accuracies), rel=1e-9, abs=1e-9)


def test_the_spread_of_one_result_is_unknown_not_zero():
    assert loss_scores([2.0]) == {"mean": 2.0, "median": 2.0, "std": None, "best": 2.0, "worst": 2.0}
    assert accuracy_scores([0.5], [8])["std"] is None
    assert interval([0.7]) == (0.7, None)


@pytest.mark.parametrize("wrong", [[], [[1.0, 2.0]], 3.0])
def test_what_is_no_list_of_results_is_refused(wrong):
    for score in (loss_scores, interval, lambda a: accuracy_scores(a, [1, 1])):
        with pytest.raises(ValueError, match="one number for each result"):
            score(wrong)


@pytest.mark.parametrize("samples", [[1], [1, 2, 3], [1, 0], [1, -2], [1, math.nan]])
def test_samples_that_do_not_belong_to_the_clients_are_refused(samples):
    with pytest.raises(ValueError, match="each of the 2 clients"):
        accuracy_scores([0.5, 0.6], samples)


# --- how sure a mean is ----------------------------------------------------------------------------------------------

TABLE = {  # two-sided 95 % and 99 % points of Student's t, as printed in statistical tables: degrees -> (95, 99)
    1: (12.706, 63.657), 2: (4.303, 9.925), 3: (3.182, 5.841), 4: (2.776, 4.604), 5: (2.571, 4.032), 9: (2.262, 3.250),
    10: (2.228, 3.169), 19: (2.093, 2.861), 29: (2.045, 2.756), 120: (1.980, 2.617),
}  # fmt: skip


@pytest.mark.parametrize("degrees", TABLE)
def test_quantiles_are_those_of_the_printed_tables(degrees):
    assert round(student(0.95, degrees), 3) == TABLE[degrees][0]
    assert round(student(0.99, degrees), 3) == TABLE[degrees][1]


@pytest.mark.slow
@given(level=st.floats(0.01, 0.999), degrees=st.integers(1, 40))
def test_the_density_of_students_t_has_that_much_mass_within_the_quantile(level, degrees):
    """By Gauss-Legendre quadrature of the density in t = sqrt(degrees) tan(x), which is smooth in x."""
    nodes, weights = np.polynomial.legendre.leggauss(80)
    edge = math.atan(student(level, degrees) / math.sqrt(degrees))
    x = edge * (nodes + 1) / 2
    t = math.sqrt(degrees) * np.tan(x)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    density = scale * (1 + t * t / degrees) ** (-(degrees + 1) / 2)
    mass = 2 * (edge / 2) * np.sum(weights * density * math.sqrt(degrees) / np.cos(x) ** 2)
    assert mass == pytest.approx(level, abs=1e-11)


def test_many_degrees_come_near_to_the_normal_law():
    assert student(0.95, 100_000) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), abs=1e-4)


@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_the_half_width_is_t_standard_errors(values):
    mean, half = interval(values, level=0.99)
    assert mean == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-9)
    want = student(0.99, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    assert half == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """4000 samples of 3 normal values: about 95 % of the intervals, where the normal law's 1.96 would give 82 %."""
    values = np.random.default_rng(0).standard_normal((4000, 3))
    held = sum(abs(mean) <= half for mean, half in map(interval, values)) / 4000
    assert abs(held - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


@pytest.mark.parametrize(("level", "degrees"), [(0.0, 3), (1.0, 3), (95, 3), (math.nan, 3), (0.95, 0)])
def test_a_level_that_is_no_probability_is_refused(level, degrees):
    with pytest.raises(ValueError, match="between 0 and 1"):
        student(level, degrees)
