"""Combination matrices against closed forms, hand-worked cases and matrices found another way."""

from math import cos, pi, sqrt

import networkx as nx
import numpy as np
import pytest
from pytest import approx

from difnet.errors import TopologyError
from difnet.maths import spectra
from difnet.maths.combine import column, mix
from difnet.maths.mixing import (
    disagreement,
    distances,
    is_doubly_stochastic,
    iterations_to_agreement,
    mixing_rate,
    perron,
)
from difnet.topology import weights
from difnet.topology.weights import averaging, best_constant, check_matrix, fastest, metropolis

PAPER6 = nx.Graph([(0, 2), (1, 2), (2, 3), (2, 4), (3, 4), (4, 5)])


@pytest.mark.parametrize("K", [3, 6, 40, 101])
def test_a_ring_mixes_at_the_rate_fourier_gives(K):
    assert mixing_rate(metropolis(nx.cycle_graph(K))) == approx((1 + 2 * cos(2 * pi / K)) / 3, abs=1e-12)


@pytest.mark.parametrize("K", [3, 10, 50])
def test_a_metropolis_star_mixes_at_one_minus_one_over_K(K):
    assert mixing_rate(metropolis(nx.star_graph(K - 1))) == approx(1 - 1 / K, abs=1e-12)


@pytest.mark.parametrize("rule", weights.RULES.values())
def test_a_complete_graph_agrees_at_once(rule):
    A = rule(nx.complete_graph(7))
    assert mixing_rate(A) == approx(0, abs=1e-9)
    assert iterations_to_agreement(np.full((7, 7), 1 / 7)) == 1


def test_the_six_agents_of_the_paper_mix_as_their_code_says():
    assert mixing_rate(averaging(PAPER6)) == approx(0.7208, abs=5e-5)
    assert mixing_rate(metropolis(PAPER6)) == approx(0.8642, abs=5e-5)


def test_a_path_of_three_has_the_matrix_worked_by_hand():
    thirds = np.array([[2, 1, 0], [1, 1, 1], [0, 1, 2]]) / 3
    np.testing.assert_allclose(metropolis(nx.path_graph(3)), thirds, atol=1e-15)
    np.testing.assert_allclose(
        averaging(nx.path_graph(3)), [[1 / 2, 1 / 3, 0], [1 / 2, 1 / 3, 1 / 2], [0, 1 / 3, 1 / 2]]
    )


@pytest.mark.parametrize("K", [2, 1])
@pytest.mark.parametrize("rule", weights.RULES.values())
def test_one_agent_and_two_agents_need_no_special_care(rule, K):
    np.testing.assert_allclose(rule(nx.complete_graph(K)), np.full((K, K), 1 / K))
    assert mixing_rate(rule(nx.complete_graph(K))) == approx(0, abs=1e-12)


def test_best_constant_leaves_the_rate_its_formula_promises():
    """With eps = 2 / (l_1 + l_{K-1}) the rate is (l_1 - l_{K-1}) / (l_1 + l_{K-1}); Laplacian eigenvalues by numpy."""
    for graph in (nx.cycle_graph(8), nx.path_graph(5), nx.petersen_graph()):
        adjacency = nx.to_numpy_array(graph, sorted(graph))
        laplacian = np.diag(adjacency.sum(axis=0)) - adjacency
        values = np.linalg.eigvalsh(laplacian)
        A = best_constant(graph)
        assert mixing_rate(A) == approx((values[-1] - values[1]) / (values[-1] + values[1]), abs=1e-12)
        assert (A >= 0).all()


def test_best_constant_stays_non_negative_on_a_star():
    A = best_constant(nx.star_graph(9))
    assert (A >= 0).all() and A[0, 0] == approx(0, abs=1e-15)
    check_matrix(A, nx.star_graph(9))


@pytest.mark.parametrize("K", [4, 6, 9])
def test_fastest_reaches_the_optimum_of_a_path(K):
    """S. Boyd, P. Diaconis, J. Sun, L. Xiao, 2006: weight 1/2 on every edge of a path, rate cos(pi / K)."""
    assert mixing_rate(fastest(nx.path_graph(K))) == approx(cos(pi / K), abs=1e-4)


def test_fastest_reaches_the_optimum_of_a_star():
    """With weight p on every edge the eigenvalues are 1 - p and 1 - K p, and the hub allows p <= 1 / (K - 1)."""
    assert mixing_rate(fastest(nx.star_graph(5))) == approx(1 - 1 / 5, abs=1e-4)


def test_fastest_beats_metropolis_on_the_six_agents_of_the_paper_and_is_optimal():
    """The rate is convex in the weights, so what no small feasible step improves is the best; it comes to 29/36."""
    A = fastest(PAPER6)
    rate = mixing_rate(A)
    assert rate < mixing_rate(metropolis(PAPER6)) - 0.05
    assert rate == approx(29 / 36, abs=1e-4)
    edges = np.array(PAPER6.edges)
    draw = np.random.default_rng(1)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(300):
            step = np.zeros((6, 6))
            step[edges[:, 0], edges[:, 1]] = size * draw.standard_normal(len(edges))
            B = A + step + step.T - np.diag((step + step.T).sum(axis=0))
            if (B >= 0).all():
                assert mixing_rate(B) > rate - 1e-5


def test_fastest_is_refused_where_it_would_take_minutes():
    with pytest.raises(TopologyError, match="best-constant"):
        fastest(nx.cycle_graph(301))


@pytest.mark.parametrize("rule", [metropolis, best_constant, fastest])
def test_symmetric_rules_refuse_a_directed_graph_and_say_what_works(rule):
    with pytest.raises(TopologyError, match="Use averaging"):
        rule(nx.cycle_graph(4, create_using=nx.DiGraph))


def test_an_agent_of_a_directed_graph_averages_those_it_hears():
    A = averaging(nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 2)]))
    np.testing.assert_allclose(A[:, 2], [1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(A[:, 0], [1 / 2, 0, 1 / 2])
    assert not is_doubly_stochastic(A)
    np.testing.assert_allclose(A @ perron(A), perron(A), atol=1e-15)


def test_a_directed_ring_mixes_at_half_of_one_plus_the_root_of_unity():
    A = averaging(nx.cycle_graph(10, create_using=nx.DiGraph))
    assert mixing_rate(A) == approx(abs(1 + np.exp(2j * pi / 10)) / 2, abs=1e-12)


def test_averaging_agrees_on_the_mean_weighted_by_how_many_an_agent_hears():
    n = np.array([degree + 1 for _, degree in sorted(PAPER6.degree)])
    np.testing.assert_allclose(perron(averaging(PAPER6)), n / n.sum(), atol=1e-14)
    W = np.random.default_rng(0).standard_normal((6, 3))
    settled = np.linalg.matrix_power(averaging(PAPER6).T, 200) @ W
    np.testing.assert_allclose(settled, np.tile(n / n.sum() @ W, (6, 1)), atol=1e-12)


def test_disagreement_decays_exactly_at_the_mixing_rate_from_the_second_eigenvector():
    A = metropolis(PAPER6)
    W = np.linalg.eigh(A)[1][:, -2:-1]
    for _ in range(20):
        before, W = disagreement(W), A.T @ W
        assert sqrt(disagreement(W) / before) == approx(mixing_rate(A), rel=1e-9)


def test_the_mean_stays_where_it_is_exactly_when_A_is_doubly_stochastic():
    W = np.random.default_rng(0).standard_normal((6, 4))
    for rule in weights.RULES.values():
        A = rule(PAPER6)
        moved = np.abs((A.T @ W).mean(0) - W.mean(0)).max()
        assert (moved < 1e-14) == is_doubly_stochastic(A) == (rule is not averaging)


@pytest.mark.parametrize("rule", [averaging, metropolis, best_constant])
def test_relabelling_the_agents_permutes_A(rule):
    order = np.random.default_rng(3).permutation(6)
    P = np.eye(6)[order]  # agent order[i] becomes i
    relabelled = nx.relabel_nodes(PAPER6, {int(old): new for new, old in enumerate(order)})
    np.testing.assert_allclose(rule(relabelled), P @ rule(PAPER6) @ P.T, atol=1e-12)


def test_the_mixing_rate_of_a_large_network_is_that_of_a_small_method(monkeypatch):
    graph = nx.connected_watts_strogatz_graph(300, 4, 0.2, seed=1)
    for A in (metropolis(graph), averaging(graph)):
        small = mixing_rate(A)
        with monkeypatch.context() as patched:
            patched.setattr(spectra, "_DENSE", 10)
            assert mixing_rate(A) == approx(small, abs=1e-12)
        assert small == approx(np.sort(np.abs(np.linalg.eigvals(A)))[-2], abs=1e-9)


def test_a_ring_of_two_thousand_agents_has_its_mixing_rate_in_reach():
    assert mixing_rate(metropolis(nx.cycle_graph(2000))) == approx((1 + 2 * cos(2 * pi / 2000)) / 3, abs=1e-13)


def test_agents_that_never_agree_have_rate_one_and_no_number_of_iterations():
    assert mixing_rate(np.eye(3)) == 1 and iterations_to_agreement(np.eye(3)) is None
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert iterations_to_agreement(swap) is None


def test_iterations_to_agreement_are_enough_and_one_fewer_is_not():
    A = metropolis(nx.cycle_graph(12))
    rate, enough = mixing_rate(A), iterations_to_agreement(A)
    assert rate**enough <= 1e-3 < rate ** (enough - 1)


@pytest.mark.parametrize(
    ("A", "graph", "said"),
    [
        (np.eye(2), nx.path_graph(3), "shape"),
        ([[1.5, 0.5], [-0.5, 0.5]], nx.path_graph(2), r"A\[1, 0\] is -0.5"),
        ([[np.nan, 0.5], [0.5, 0.5]], nx.path_graph(2), "finite"),
        ([[0.5, 0.5], [0.4, 0.5]], nx.path_graph(2), "column 0 of A sums to 0.9"),
        ([[0.5, 0.5], [0.25, 0.75]], nx.path_graph(2), "transpose"),
        (np.full((3, 3), 1 / 3), nx.path_graph(3), "does not hear"),
        (np.eye(2), nx.path_graph(2), "not strongly connected"),
        ([[0.0, 1.0], [1.0, 0.0]], nx.path_graph(2), "never mixes"),
    ],
)
def test_a_matrix_that_is_no_combination_matrix_is_refused_with_its_reason(A, graph, said):
    with pytest.raises(TopologyError, match=said):
        check_matrix(np.array(A), graph)


def test_distances_are_accumulated_in_float64_whatever_the_launch_models_are():
    W = np.array([[1.0], [1.0 + 2**-20]], dtype=np.float32)
    np.testing.assert_allclose(distances(W), [2.0**-42, 2.0**-42], rtol=1e-12)


def test_combining_keeps_the_weight_of_the_silent_with_the_agent_itself():
    A = metropolis(PAPER6)
    phi = {k: np.array([float(k)]) for k in range(6)}
    mixed = mix(column(A, 2), 2, phi[2], {l: phi[l] for l in (0, 4)})
    assert mixed[0] == approx(A[0, 2] * 0 + A[4, 2] * 4 + (1 - A[0, 2] - A[4, 2]) * 2)


def test_the_rim_of_a_star_may_take_the_hub_as_it_is():
    assert mix({0: 1.0, 3: 0.0}, 3, np.array([7.0]), {0: np.array([2.0])}).tolist() == [2.0]
    assert mix({0: 1.0}, 3, np.array([7.0]), {0: np.array([2.0])}).tolist() == [2.0]
