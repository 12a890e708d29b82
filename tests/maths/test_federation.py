"""Who is held out, whose data is cut where, who takes part in a round, and what the mean of the answers is."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difnet.errors import ConfigError
from difnet.maths.federation import (
    deal_clients,
    sample_clients,
    sample_rows,
    split_clients,
    split_samples,
    weighted_mean,
)

seeds = st.integers(0, 2**32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def chi_square(counts: Counter, expected: dict) -> float:
    """Pearson's statistic; its mean is the number of cells less one."""
    assert set(counts) <= set(expected)
    return sum((counts[cell] - want) ** 2 / want for cell, want in expected.items())


# --- dividing clients ------------------------------------------------------------------------------------------------


@given(clients=st.integers(3, 300), weights=st.tuples(*[st.integers(1, 20)] * 3), seed=seeds)
def test_every_client_is_in_exactly_one_part_of_about_its_share_or_no_division_is_made(clients, weights, seed):
    shares = [weight / sum(weights) for weight in weights]
    try:
        parts = split_clients(clients, shares, rng=rng(seed))
    except ConfigError:
        assert clients * min(shares) < 1  # with a whole client in every share nothing is refused
        return
    assert sorted(np.concatenate(parts).tolist()) == list(range(clients))
    for part, share in zip(parts, shares, strict=True):
        assert len(part) > 0 and abs(len(part) - share * clients) <= 1 + 1e-9
        assert (np.diff(part) > 0).all()


def test_a_division_that_leaves_a_part_empty_says_how_many_clients_would_do():
    """And so many do."""
    with pytest.raises(ConfigError, match=r"^4 clients in shares \[0.8, 0.1, 0.1\] leave 3 \+ 1 \+ 0 .* 10 clients"):
        split_clients(4, rng=rng())
    for seed in range(5):
        assert [len(part) for part in split_clients(10, rng=rng(seed))] == [8, 1, 1]


@pytest.mark.parametrize(
    "shares", [(0.8, 0.2), (0.9, 0.2, -0.1), (1.0, 0.0, 0.0), (0.5, 0.1, 0.1), (math.nan, 0.5, 0.5), (1e-309, 0.5, 0.5)]
)
def test_shares_that_are_no_shares_are_refused(shares):
    with pytest.raises(ConfigError, match=r"shares are .*sum to 1, such as"):
        split_clients(50, shares, rng=rng())


def test_every_client_is_held_out_about_as_often_as_any_other():
    """1000 divisions of 20 clients: how often each is a test client, against the binomial law's chi-square."""
    counts = Counter(int(c) for seed in range(1000) for c in split_clients(20, (0.5, 0.25, 0.25), rng=rng(seed)).test)
    assert chi_square(counts, dict.fromkeys(range(20), 250.0)) < 43.8  # 99.9 % point of 19 degrees, a bound from above


# --- cutting a client's samples --------------------------------------------------------------------------------------


@given(samples=st.integers(0, 500), fraction=st.floats(0.001, 0.999), seed=seeds)
def test_support_and_query_share_no_sample_and_miss_none_or_no_cut_is_made(samples, fraction, seed):
    if samples * min(fraction, 1 - fraction) > 0.5 + 1e-9:  # something rounds to a sample on either side
        support, query = split_samples(samples, fraction, rng(seed))
        assert len(support) and len(query)
        assert sorted([*support.tolist(), *query.tolist()]) == list(range(samples))
        assert abs(len(support) - fraction * samples) <= 0.5 + 1e-9
    elif samples * min(fraction, 1 - fraction) < 0.5 - 1e-9:
        with pytest.raises(ConfigError, match=str(fraction)):
            split_samples(samples, fraction, rng(seed))


@given(fraction=st.floats(0.001, 0.999), seed=seeds)
def test_the_number_of_samples_that_a_refusal_names_is_the_smallest_that_will_do(fraction, seed):
    with pytest.raises(ConfigError, match="needs") as refused:
        split_samples(1, fraction, rng(seed))
    least = int(str(refused.value).partition("needs ")[2].split()[0])
    assert all(map(len, split_samples(least, fraction, rng(seed))))
    with pytest.raises(ConfigError, match=f"{fraction} of a client's {least - 1} samples"):
        split_samples(least - 1, fraction, rng(seed))


@pytest.mark.parametrize("fraction", [0, 1, 0.0, 1.0, -0.2, 1.5, math.nan, 1e-309])
def test_a_fraction_that_empties_a_set_by_itself_is_refused_by_name(fraction):
    with pytest.raises(ConfigError, match=rf"{fraction} of a client's 50 samples .* from 0.001 to 0.999"):
        split_samples(50, fraction, rng())


def test_which_samples_support_is_chance():
    counts = Counter(int(s) for seed in range(2000) for s in split_samples(10, 0.2, rng(seed))[0])
    assert chi_square(counts, dict.fromkeys(range(10), 400.0)) < 27.9  # 99.9 % point of 9 degrees, from above


# --- dealing clients to agents ---------------------------------------------------------------------------------------


@given(clients=st.lists(st.integers(0, 1000), unique=True, min_size=1, max_size=80), agents=st.integers(1, 100))
def test_clients_are_dealt_evenly_and_each_to_one_agent(clients, agents):
    if len(clients) < agents:
        with pytest.raises(ConfigError, match=f"{len(clients)} training clients for {agents} agents"):
            deal_clients(clients, agents)
        return
    hands = deal_clients(clients, agents)
    assert len(hands) == agents
    assert sorted(np.concatenate(hands).tolist()) == sorted(clients)
    assert {len(hand) for hand in hands} <= {len(clients) // agents, -(-len(clients) // agents)}


# --- who takes part --------------------------------------------------------------------------------------------------


@given(candidates=st.lists(st.integers(0, 99), unique=True, min_size=1), data=st.data(), seed=seeds)
def test_m_different_candidates_take_part_in_ascending_order(candidates, data, seed):
    m = data.draw(st.integers(1, len(candidates)))
    amounts = st.floats(1.0, 1e6) | st.floats(1e302, 1e308)  # a sum of the larger ones overflows
    weights = data.draw(st.none() | st.lists(amounts, min_size=len(candidates), max_size=len(candidates)))
    if weights is not None and max(weights) > 1e10 * min(weights):
        weights = [max(w, 1e302) for w in weights]  # what underflows is nobody's chance
    chosen = sample_clients(rng(seed), candidates, m, weights)
    assert len(chosen) == len(set(chosen)) == m and set(chosen) <= set(candidates)
    assert chosen == sorted(chosen) and all(type(k) is int for k in chosen)
    assert chosen == sample_clients(rng(seed), candidates, m, weights)


def test_unweighted_every_set_of_candidates_is_as_likely_as_any_other():
    r = rng(0)
    counts = Counter(tuple(sample_clients(r, [1, 3, 5, 7, 9], 2)) for _ in range(4000))
    assert chi_square(counts, dict.fromkeys(itertools.combinations([1, 3, 5, 7, 9], 2), 400.0)) < 27.9


def test_one_client_is_chosen_in_proportion_to_its_weight():
    r, weights = rng(1), [10, 20, 70]
    counts = Counter(sample_clients(r, [0, 1, 2], 1, weights)[0] for _ in range(5000))
    assert chi_square(counts, {k: 5000 * weight / 100 for k, weight in enumerate(weights)}) < 13.8  # 2 degrees


def test_several_are_chosen_one_after_another_by_weight_among_those_left():
    """The law of a pair by hand: first i, then j among the rest, or the other way round."""
    r, p = rng(2), [0.1, 0.2, 0.3, 0.4]
    counts = Counter(tuple(sample_clients(r, range(4), 2, p)) for _ in range(6000))
    expected = {(i, j): 6000 * p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j]))
                for i, j in itertools.combinations(range(4), 2)}  # fmt: skip
    assert chi_square(counts, expected) < 20.5  # 99.9 % point of 5 degrees


def test_who_has_no_weight_is_never_chosen():
    r = rng(3)
    assert {tuple(sample_clients(r, [4, 5, 6], 2, [1.0, 0.0, 3.0])) for _ in range(50)} == {(4, 6)}


@pytest.mark.parametrize("m", [0, -1, 4])
def test_more_clients_per_round_than_there_are_is_an_error(m):
    with pytest.raises(ConfigError, match=rf"{m} clients per round out of 3; .* from 1 to 3"):
        sample_clients(rng(), [1, 2, 3], m)


@pytest.mark.parametrize("weights", [[1, 2], [1, -1, 2], [1, math.inf, 2], [1, math.nan, 2], [1, 0, 0], [[1, 2, 3]]])
def test_weights_by_which_two_cannot_be_chosen_are_an_error(weights):
    with pytest.raises(ConfigError, match="2 clients per round by weights"):
        sample_clients(rng(), [1, 2, 3], 2, weights)


# --- picking samples -------------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), n=st.integers(1, 30), seed=seeds)
def test_what_is_picked_is_a_member_and_no_member_twice_where_there_are_enough(sizes, n, seed):
    picked = sample_rows(rng(seed), sizes, n)
    assert picked.shape == (len(sizes), n)
    for row, size in zip(picked.tolist(), sizes, strict=True):
        assert set(row) <= set(range(size))
        assert size < n or len(set(row)) == n


def test_every_ordered_pick_is_as_likely_as_any_other():
    """Two of four without replacement, and two of one set of size three beside larger ones."""
    r = rng(4)
    picked = sample_rows(r, [4, 40] * 3000, 2)
    counts = Counter(map(tuple, picked[::2].tolist()))
    assert chi_square(counts, dict.fromkeys(itertools.permutations(range(4), 2), 250.0)) < 31.3  # 11 degrees
    assert len(set(picked[1::2].ravel().tolist())) == 40


def test_too_small_a_set_is_drawn_from_with_replacement():
    counts = Counter(map(tuple, sample_rows(rng(5), [2] * 4000, 3).tolist()))
    assert chi_square(counts, dict.fromkeys(itertools.product(range(2), repeat=3), 500.0)) < 24.4  # 7 degrees


# --- the mean of the answers -----------------------------------------------------------------------------------------

answers = st.dictionaries(st.integers(0, 50), st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=1)


@given(answers=answers)
def test_equal_weights_give_the_plain_mean(answers):
    messages = {k: np.array(values) for k, values in answers.items()}
    got = weighted_mean(messages, dict.fromkeys(range(51), 0.3))
    np.testing.assert_allclose(got, np.mean(list(messages.values()), axis=0), rtol=1e-12, atol=1e-9)


@given(answers=answers, data=st.data())
def test_the_mean_is_numpys_average_by_the_weights_of_those_who_answered(answers, data):
    weights = {k: data.draw(st.floats(0.01, 100)) for k in range(51)}
    messages = {k: np.array(values) for k, values in answers.items()}
    want = np.average(list(messages.values()), axis=0, weights=[weights[k] for k in messages])
    np.testing.assert_allclose(weighted_mean(messages, weights), want, rtol=1e-12, atol=1e-9)


@given(order=st.permutations(range(7)))
def test_the_order_of_arrival_changes_no_bit(order):
    """In single precision, where the order of a sum shows: reversed, this one differs."""
    values = rng(6).standard_normal((7, 50)).astype(np.float32)
    weights = {k: 1.0 + k for k in range(7)}
    want = weighted_mean(dict(enumerate(values)), weights)
    got = weighted_mean({k: values[k] for k in order}, weights)
    assert got.dtype == np.float32 and (got == want).all()
    backwards = weighted_mean({6 - k: values[k] for k in range(7)}, {6 - k: weights[k] for k in range(7)})
    assert (backwards != want).any()


def test_one_answer_is_its_own_mean_exactly_and_no_message_is_changed():
    message = np.array([0.1, -0.0, 1e-320])
    got = weighted_mean({3: message}, {3: 0.7, 4: 9.0})
    assert got.tobytes() == message.tobytes() and got is not message
    two = {1: np.ones(3), 2: np.full(3, 3.0)}
    assert weighted_mean(two, {1: 1, 2: 1}).tolist() == [2.0] * 3 and two[1].tolist() == [1.0] * 3


def test_a_mean_of_nothing_or_of_nobodys_weight_is_refused():
    with pytest.raises(ValueError, match="no messages"):
        weighted_mean({}, {1: 1.0})
    with pytest.raises(ValueError, match=r"agents \[1\] sum to 0.0"):
        weighted_mean({1: np.ones(2)}, {1: 0.0, 2: 1.0})
