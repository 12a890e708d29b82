"""The rules for neighbours that lie, against numpy written another way, and against what a lie may do at most."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from difnet.config import RunConfig
from difnet.maths import combine, robust
from difnet.maths.robust import rule
from difnet.runtime.stacked import mixing_of
from difnet.topology import networks

NAMES = ("mean", "clip", "trim:1", "trim:2", "median")
VALUES = 4


def stacks(least: int = 1, most: int = 16, dtype: type = np.float64) -> st.SearchStrategy[np.ndarray]:
    """States (n + 1, 4), the own one first, of so many neighbours."""
    elements = st.floats(-100, 100, width=64 if dtype == np.float64 else 32)
    return st.integers(least, most).flatmap(lambda n: hnp.arrays(dtype, (n + 1, VALUES), elements=elements))


def combined(name: str, stack: np.ndarray, **words: float) -> np.ndarray:
    """What an agent 0 makes of the others, all with the same weight."""
    weights = dict.fromkeys(range(len(stack)), 1 / len(stack))
    return rule(name)(weights, 0, stack[0], dict(enumerate(stack[1:], start=1)), **words)


@given(stack=stacks(least=3), data=st.data())
def test_the_trimmed_mean_drops_the_largest_and_smallest_of_the_neighbours_and_keeps_the_own(stack, data):
    n = len(stack) - 1
    b = data.draw(st.integers(1, (n - 1) // 2))
    masked = np.sort(stack[1:], axis=0)
    masked[:b] = masked[n - b :] = np.nan
    np.testing.assert_allclose(combined(f"trim:{b}", stack), np.nanmean([stack[0], *masked], axis=0), atol=1e-12)


@given(stack=stacks())
def test_the_median_is_numpys(stack):
    np.testing.assert_allclose(combined("median", stack), np.median(stack, axis=0), atol=1e-12)


@given(stack=stacks(), tau=st.floats(1e-3, 300.0))
def test_clipping_pulls_no_farther_than_tau_in_each_neighbours_direction(stack, tau):
    """As the paper writes it, difference by difference."""
    by_hand = stack[0].copy()
    for state in stack[1:]:
        apart = state - stack[0]
        by_hand += apart * min(1.0, tau / max(np.linalg.norm(apart), 1e-300)) / len(stack)
    np.testing.assert_allclose(combined("clip", stack, tau=tau), by_hand, atol=1e-11)


@given(stack=stacks())
def test_without_a_tau_the_median_distance_is_taken(stack):
    far = sorted(np.linalg.norm(stack[1:] - stack[0], axis=1))
    tau = far[(len(far) - 1) // 2]
    np.testing.assert_allclose(combined("clip", stack), combined("clip", stack, tau=tau), atol=1e-11)


@given(stack=stacks(dtype=np.float32))
def test_clipping_at_infinity_is_the_mean_bit_for_bit(stack):
    assert combined("clip", stack, tau=np.inf).tobytes() == combined("mean", stack).tobytes()


@given(n=st.integers(5, 20), state=hnp.arrays(np.float64, VALUES, elements=st.floats(-100, 100)))
@pytest.mark.parametrize("name", NAMES)
def test_equal_states_stay_where_they_are(name, n, state):
    np.testing.assert_allclose(combined(name, np.tile(state, (n + 1, 1))), state, rtol=1e-14, atol=1e-14)


@given(stack=stacks(least=5), data=st.data())
@pytest.mark.parametrize("name", NAMES)
def test_who_bears_which_number_makes_no_difference(name, stack, data):
    order = data.draw(st.permutations(range(1, len(stack))))
    np.testing.assert_allclose(combined(name, stack[[0, *order]]), combined(name, stack), atol=1e-11)


@given(stack=stacks(least=5), lie=hnp.arrays(np.float64, VALUES, elements=st.sampled_from([-1e300, -7.0, 0.0, 1e300])))
@pytest.mark.parametrize("name", ["trim:1", "median"])
def test_one_lie_moves_no_coordinate_out_of_what_the_honest_have(name, stack, lie):
    stack[1] = lie
    honest = np.delete(stack, 1, axis=0)
    got, room = combined(name, stack), 1e-9
    assert (honest.min(axis=0) - room <= got).all() and (got <= honest.max(axis=0) + room).all()


@given(stack=stacks(least=2, dtype=np.float32), lie=st.sampled_from([-3e38, 1e6, 3e38]))
def test_one_lie_pulls_a_clipping_agent_no_farther_than_its_honest_neighbours_are(stack, lie):
    stack[1] = lie
    farthest = np.linalg.norm((stack[2:] - stack[0]).astype(np.float64), axis=1).max()
    assert np.linalg.norm((combined("clip", stack) - stack[0]).astype(np.float64)) <= 1.01 * farthest + 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_who_hears_nobody_keeps_its_own_state(name):
    own = np.array([1.0, -2.0])
    assert rule(name)({0: 0.5, 1: 0.25, 2: 0.25}, 0, own, {}).tolist() == own.tolist()


def test_silent_neighbours_leave_trimming_to_those_who_answered_and_too_few_leave_the_own_state():
    weights, own = dict.fromkeys(range(6), 1 / 6), np.array([0.0])
    heard = {l: np.array([float(l)]) for l in range(1, 6)}
    assert rule("trim:1")(weights, 0, own, heard).tolist() == [(0 + 2 + 3 + 4) / 4]
    del heard[5], heard[3]
    assert rule("trim:1")(weights, 0, own, heard).tolist() == [(0 + 2) / 2]
    del heard[4]
    assert rule("trim:1")(weights, 0, own, heard).tolist() == [0.0]


def test_the_weight_that_is_clipped_stays_with_the_agent_as_that_of_the_silent_does():
    weights = {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}  # 3 is silent; 1 is twice as far away as 2
    got = rule("clip")(weights, 0, np.array([0.0]), {1: np.array([2.0]), 2: np.array([1.0])})
    assert got[0] == pytest.approx(0.3 * 1.0 + 0.2 * 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["clip", "trim:1", "median"])
@pytest.mark.parametrize("spec", ["exponential32", "complete_graph(n=16)", "complete10"])
def test_all_agents_at_once_have_the_bits_of_each_alone(spec, name, dtype):
    """Whatever order the neighbours come in, and wherever in memory a state lies."""
    network = networks.load(spec)
    Phi = np.random.default_rng(0).standard_normal((network.agents, 33)).astype(dtype)
    Phi[:, :3] = np.array([0.0, -0.0] * network.agents)[: network.agents, None]
    mixing = mixing_of(RunConfig(topology=spec, combine=name, dtype=np.dtype(dtype).name), network)
    W = mixing(0, torch.from_numpy(Phi)).numpy()
    assert W.dtype == dtype
    for k in range(network.agents):
        elsewhere = {l: np.concatenate([[dtype(0)], Phi[l]])[1:] for l in reversed(network.hears(k))}
        one = rule(name)(combine.column(network.A, k), k, Phi[k], elsewhere)
        assert one.dtype == dtype and one.tobytes() == W[k].tobytes()


@pytest.mark.parametrize(
    ("own", "heard", "named"),
    [
        (1.0, {1: 1e38, 2: 1.0, 5: 2.0}, [1]),
        (1.0, {1: 999.0, 2: 1.0}, []),
        (1.0, {1: 1001.0}, [1]),  # one neighbour: against the own state alone
        (1.0, {1: 1e5, 2: 1e5, 3: 1.0}, [1, 2]),  # against the lower of the middle two of the others
        (1e38, {1: 1.0, 2: 1.0}, []),  # who has believed a lie itself names nobody
        (1.0, {1: 1e5, 2: 1e5}, []),  # nor where most say so
        (0.0, {1: 5.0, 2: 0.0, 3: 0.0}, []),  # nothing to measure by
        (1.0, {}, []),
    ],
)
def test_a_state_a_thousand_times_as_long_as_the_own_and_as_the_others_is_named(own, heard, named):
    states = {l: np.full(VALUES, length, np.float32) for l, length in heard.items()}
    assert robust.outsized(np.full(VALUES, own, np.float32), states) == named
