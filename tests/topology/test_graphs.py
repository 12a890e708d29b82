"""What holds for every connected graph, on graphs drawn at random."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from difnet.maths import combine, mixing, spectra
from difnet.topology import Topology, weights


@st.composite
def connected_graphs(draw, most=12, directed=False):
    """A random tree (a ring, if directed, so that all hear of all) with random edges more."""
    K = draw(st.integers(1, most))
    graph = nx.DiGraph() if directed else nx.Graph()
    graph.add_nodes_from(range(K))
    if directed:
        graph.add_edges_from((k, (k + 1) % K) for k in range(K) if K > 1)
    else:
        graph.add_edges_from((draw(st.integers(0, k - 1)), k) for k in range(1, K))
    pairs = st.tuples(st.integers(0, K - 1), st.integers(0, K - 1)).filter(lambda pair: pair[0] != pair[1])
    graph.add_edges_from(draw(st.lists(pairs, max_size=2 * K)) if K > 1 else [])
    return graph


@given(graph=connected_graphs(), rule=st.sampled_from(["metropolis", "averaging", "best-constant"]))
@settings(deadline=None)
def test_every_rule_gives_a_combination_matrix_of_every_graph(graph, rule):
    A = weights.RULES[rule](graph)
    weights.check_matrix(A, graph)
    assert A.dtype == np.float64
    assert mixing.mixing_rate(A) < 1
    if rule != "averaging":
        np.testing.assert_allclose(A, A.T, atol=1e-15)


@given(graph=connected_graphs(most=7))
@settings(deadline=None, max_examples=10)
def test_fastest_is_valid_and_never_slower_than_metropolis(graph):
    A = weights.fastest(graph, iterations=80)
    weights.check_matrix(A, graph)
    np.testing.assert_allclose(A, A.T, atol=1e-15)
    assert mixing.mixing_rate(A) <= mixing.mixing_rate(weights.metropolis(graph)) + 1e-12


@given(graph=connected_graphs(directed=True))
@settings(deadline=None)
def test_averaging_is_a_combination_matrix_of_every_strongly_connected_graph(graph):
    A = weights.averaging(graph)
    weights.check_matrix(A, graph)
    p = mixing.perron(A)
    np.testing.assert_allclose(A @ p, p, atol=1e-12)
    assert (p > 0).all() and abs(p.sum() - 1) < 1e-12


@given(graph=connected_graphs())
@settings(deadline=None)
def test_the_averaging_matrix_turns_symmetric_with_the_same_eigenvalues(graph):
    A = weights.averaging(graph)
    S, top = spectra.symmetrised(A)
    np.testing.assert_allclose(S, S.T)
    np.testing.assert_allclose(S @ top, top, atol=1e-12)
    np.testing.assert_allclose(np.linalg.eigvalsh(S), np.sort(np.linalg.eigvals(A).real), atol=1e-7)


@given(graph=connected_graphs(), data=st.data())
@settings(deadline=None)
def test_mutual_silence_leaves_the_centroid_alone(graph, data):
    """Where A is symmetric and both ends of a cut edge miss each other, the mean of all launch models stays put."""
    edges = list(graph.edges)
    cut = set(data.draw(st.lists(st.sampled_from(edges), unique=True))) if edges else set()
    silent = cut | {(k, l) for l, k in cut}
    A = weights.metropolis(graph)
    Phi = np.random.default_rng(len(edges)).standard_normal((len(graph), 5))
    W = [
        combine.mix(combine.column(A, k), k, Phi[k], {l: Phi[l] for l in graph[k] if (l, k) not in silent})
        for k in range(len(graph))
    ]
    np.testing.assert_allclose(mixing.centroid(W), mixing.centroid(Phi), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
@settings(deadline=None)
def test_mixing_all_agents_at_once_gives_the_bits_of_mixing_each(dtype, data):
    """Down to the sign of zero: the network and the simulator may not differ in anything."""
    graph = data.draw(connected_graphs() | connected_graphs(directed=True))
    rule = data.draw(
        st.sampled_from(["averaging"] if graph.is_directed() else ["averaging", "metropolis", "best-constant"])
    )
    A = weights.RULES[rule](graph)
    width = 32 if dtype == np.float32 else 64
    finite = st.floats(-(2.0**60), 2.0**60, width=width)
    Phi = data.draw(hnp.arrays(dtype, (len(graph), 3), elements=finite))
    W = combine.mix_all(combine.padded(A, dtype), Phi)
    assert W.dtype == dtype
    for k in range(len(graph)):
        own = combine.column(A, k)
        one = combine.mix(own, k, Phi[k], {l: Phi[l] for l in reversed(own) if l != k})
        assert one.dtype == dtype
        assert one.tobytes() == W[k].tobytes()


@given(graph=connected_graphs() | connected_graphs(directed=True))
@settings(deadline=None)
def test_a_network_survives_its_own_dictionary(graph):
    A = weights.averaging(graph)
    before = Topology("any", graph, A, "averaging", "drawn")
    after = Topology.from_dict(before.to_dict())
    assert after.to_dict() == before.to_dict()
    assert [after.hears(k) for k in range(after.agents)] == [before.hears(k) for k in range(before.agents)]
    assert all(k in before.tells(l) for k in range(before.agents) for l in before.hears(k))
