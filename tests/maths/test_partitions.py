"""Samples divided into clients: what every partition promises, and the law of each."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difnet.errors import ConfigError
from difnet.maths.partitions import partition_labels

MADE = ("class", "shards", "dirichlet", "iid")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def table(parts, labels) -> np.ndarray:
    """How many samples of each class each client has: (clients, classes)."""
    classes = np.unique(labels)
    return np.array([[np.count_nonzero(labels[part] == c) for c in classes] for part in parts])


@given(how=st.sampled_from(MADE), clients=st.integers(1, 9), classes=st.integers(1, 6), each=st.integers(54, 60),
       per_client=st.integers(1, 6), alpha=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32))  # fmt: skip
def test_every_sample_belongs_to_exactly_one_client_and_no_client_to_nobody(
    how, clients, classes, each, per_client, alpha, seed
):
    labels = rng(seed).permutation(np.repeat(np.arange(classes) * 3 - 1, each))
    if how == "class" and not (per_client <= classes <= clients * per_client):
        with pytest.raises(ConfigError):
            partition_labels(labels, how, clients, rng=rng(seed), per_client=per_client)
        return
    parts = partition_labels(labels, how, clients, rng=rng(seed), alpha=alpha, per_client=per_client)
    assert len(parts) == clients and all(len(part) for part in parts)
    assert all((np.diff(part) > 0).all() for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    again = partition_labels(labels, how, clients, rng=rng(seed), alpha=alpha, per_client=per_client)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    if how == "class":
        having = table(parts, labels)
        assert ((having > 0).sum(axis=1) == per_client).all(), "each client has exactly so many classes"
        for column in having.T:
            assert np.ptp(column[column > 0]) <= 1, "and a class is split evenly among those who have it"
        assert np.ptp((having > 0).sum(axis=0)) <= 2, "of whom each class has about as many"
    if how == "iid":
        assert np.ptp([len(part) for part in parts]) <= 1


def test_a_class_of_their_own_for_each_of_two_clients():
    labels = np.array([4, 8, 4, 8, 8])
    parts = partition_labels(labels, "class", 2, rng=rng(), per_client=1)
    assert sorted(part.tolist() for part in parts) == [[0, 2], [1, 3, 4]]


def test_two_hundred_shards_of_digits_give_a_client_two_classes_or_a_few_more():
    """As in McMahan et al.: 100 clients of equal size; where classes are multiples of a shard, two classes at most."""
    labels = rng(1).permutation(np.repeat(np.arange(10), 600))
    parts = partition_labels(labels, "shards", 100, rng=rng(2))
    assert {len(part) for part in parts} == {60}
    having = table(parts, labels)
    assert set(np.unique(having)) == {0, 30, 60}, "a shard is of one class"
    assert Counter((having > 0).sum(axis=1).tolist())[2] > 70, "by chance 9 in 10 clients have two different classes"


def test_shards_that_straddle_two_classes_are_cut_from_the_sorted_samples():
    labels = np.array([1, 0, 0, 1, 0, 1])  # sorted: three of class 0, three of class 1, in shards of two
    having = table(partition_labels(labels, "shards", 3, rng=rng(), per_client=1), labels)
    assert sorted(having.tolist()) == [[0, 2], [1, 1], [2, 0]]


def test_within_a_class_shards_are_drawn_at_random():
    """Whatever order the samples come in, by writer for example, says nothing about who gets them."""
    parts = partition_labels(np.zeros(100, dtype=int), "shards", 4, rng=rng(), per_client=1)
    assert all(np.ptp(part) > 50 for part in parts)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_shares_of_a_class_have_the_moments_of_a_dirichlet_distribution(alpha):
    """Mean 1 / n and variance (n - 1) / (n^2 (n alpha + 1)), over 400 classes, drawn independently."""
    n, classes, each = 4, 400, 200
    labels = np.repeat(np.arange(classes), each)
    shares = table(partition_labels(labels, "dirichlet", n, rng=rng(3), alpha=alpha), labels) / each
    variance = (n - 1) / (n**2 * (n * alpha + 1))
    assert shares.mean(axis=1) == pytest.approx(1 / n, abs=4 * np.sqrt(variance / classes))
    assert shares.var(axis=1) == pytest.approx(variance, rel=0.3)
    between = np.corrcoef(shares[:, ::2].ravel(), shares[:, 1::2].ravel())[0, 1]
    assert abs(between) < 4 / np.sqrt(n * classes / 2)


def test_a_large_concentration_gives_everybody_alike_and_a_small_one_gives_a_class_to_one_client():
    labels = np.repeat(np.arange(10), 100)
    even = table(partition_labels(labels, "dirichlet", 5, rng=rng(), alpha=1e9), labels)
    assert np.abs(even - 20).max() <= 1
    owned = table(partition_labels(labels, "dirichlet", 3, rng=rng(), alpha=1e-4), labels)
    assert (owned.max(axis=0) >= 98).all(), "but for a sample or two that an empty client was given"


def test_a_client_that_dirichlet_leaves_empty_gets_one_sample_of_the_richest():
    labels = np.zeros(50, dtype=int)
    parts = partition_labels(labels, "dirichlet", 20, rng=rng(), alpha=1e-6)
    assert sorted(map(len, parts)) == [1] * 19 + [31]


def test_iid_clients_have_the_classes_of_the_whole():
    labels = np.repeat(np.arange(4), 1000)
    having = table(partition_labels(labels, "iid", 10, rng=rng()), labels)
    assert having.sum(axis=1).tolist() == [400] * 10
    statistic = ((having - 100) ** 2 / 100).sum()
    assert 5 < statistic < 70, "chi-square with (10 - 1)(4 - 1) = 27 degrees of freedom, and not all exactly even"


def test_another_generator_divides_otherwise():
    labels = np.repeat(np.arange(5), 20)
    for how in MADE:
        one, other = (partition_labels(labels, how, 5, rng=rng(seed)) for seed in (0, 1))
        assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)), how


@pytest.mark.parametrize(("how", "clients", "options", "said"), [
    ("shard", 2, {}, "did you mean 'shards'"),
    ("natural", 2, {}, "no natural owners"),
    ("iid", 0, {}, "clients is 0"),
    ("iid", 2.0, {}, "clients is 2.0"),
    ("iid", 11, {}, "10 samples"),
    ("class", 2, {"per_client": 0}, "per_client is 0"),
    ("class", 2, {"per_client": 6}, "from 1 to 5"),
    ("class", 2, {"per_client": 2}, "take 3 classes per client, or 3 clients"),
    ("class", 8, {"per_client": 4}, "share it"),
    ("shards", 6, {"per_client": 2}, "12 shards, of 10 samples"),
    ("dirichlet", 2, {"alpha": 0}, "positive"),
    ("dirichlet", 2, {"alpha": float("inf")}, "positive"),
    ("dirichlet", 2, {"alpha": float("nan")}, "positive"),
])  # fmt: skip
def test_a_partition_that_cannot_be_made_is_refused_with_what_would_do(how, clients, options, said):
    with pytest.raises(ConfigError, match=said):
        partition_labels(np.repeat(np.arange(5), 2), how, clients, rng=rng(), **options)


def test_numbers_to_be_predicted_are_no_classes():
    labels = np.linspace(0, 1, 9)
    assert len(partition_labels(labels, "iid", 3, rng=rng())) == 3
    with pytest.raises(ConfigError, match="float64"):
        partition_labels(labels, "shards", 3, rng=rng())
