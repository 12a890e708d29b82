"""Whatever a star's settings: who is called in a round, and what the answers come to."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difnet.config import Server
from difnet.errors import ConfigError
from difnet.workload.server_rounds import ServerRounds

K_MOST = 12


def drawn(k: int, i: int) -> float:
    """How many samples client k's answer of round i is drawn from."""
    return 1.0 + (7 * k + 3 * i) % 11


@st.composite
def rounds(draw: st.DrawFn) -> ServerRounds:
    """The rounds of any run that would be let through: numbers of clients with a gap where the hub is."""
    K = draw(st.integers(1, K_MOST))
    hub = draw(st.integers(0, K))
    clients = [k for k in range(K + 1) if k != hub]
    many: dict[str, object] = draw(st.one_of(
        st.just({}), st.integers(1, K).map(lambda m: {"clients": m}),
        st.floats(0.01, 1.0).map(lambda share: {"fraction": share}),
    ))  # fmt: skip
    settings = Server(
        **many, oversample=draw(st.integers(0, 4)), sampling=draw(st.sampled_from(["uniform", "samples"])),
        aggregation=draw(st.sampled_from(["uniform", "samples"])),
    )  # fmt: skip
    samples = {k: draw(st.integers(1, 1000)) for k in clients}
    return ServerRounds(settings, clients, samples, drawn, draw(st.integers(0, 2**63 - 1)))


numbers = st.integers(0, 2**40)


@given(run=rounds(), i=numbers)
def test_m_clients_and_those_called_beyond_them_are_distinct_clients_in_rising_order(run, i):
    """m is what was asked for, or the nearest to its share of K, but one at least; beyond them, as far as there are."""
    K, s = len(run.clients), run.settings
    m = s.clients or (min(range(1, K + 1), key=lambda m: (abs(m - s.fraction * K), m % 2)) if s.fraction else K)
    assert run.wanted == m
    called = run.called(i)
    assert called == sorted(set(called)) and set(called) <= set(run.clients)
    assert len(called) == min(m + s.oversample, K)


@given(run=rounds(), i=numbers)
def test_a_round_is_the_same_whenever_and_by_whomever_it_is_asked_for(run, i):
    """Not by what was asked before, nor by settings that have no say in it."""
    again = ServerRounds(run.settings, list(run.clients), dict(run.samples), drawn, run.seed)
    later = [again.called(j) for j in (i + 1, 0, i)][-1]
    other = run._replace(settings=run.settings.model_copy(update={"aggregation": "samples", "quorum": 1}))
    assert run.called(i) == later == other.called(i)


@given(run=rounds(), i=numbers, data=st.data())
def test_only_those_who_are_there_are_called(run, i, data):
    there = sorted(data.draw(st.sets(st.sampled_from(list(run.clients)), min_size=1)))
    called = run.called(i, there)
    assert set(called) <= set(there) and len(called) == min(run.wanted + run.settings.oversample, len(there))


@given(run=rounds(), i=numbers, data=st.data())
def test_the_mean_is_numpys_average_over_those_who_answered(run, i, data):
    """By samples, each answer weighs as much as there were to draw it from in this round."""
    answered = data.draw(st.sets(st.sampled_from(list(run.clients)), min_size=1))
    answers = {k: np.array(data.draw(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3))) for k in answered}
    weights = [drawn(k, i) for k in answers] if run.settings.aggregation == "samples" else None
    want = np.average(list(answers.values()), axis=0, weights=weights)
    np.testing.assert_allclose(run.mean(i, answers), want, rtol=1e-12, atol=1e-9)


@given(quorum=st.integers(1, K_MOST), answers=st.integers(0, K_MOST))
def test_fewer_answers_than_the_quorum_come_to_nothing(quorum, answers):
    run = ServerRounds(Server(quorum=quorum), range(1, K_MOST + 1), dict.fromkeys(range(1, K_MOST + 1), 1), drawn, 0)
    mean = run.mean(0, {k: np.ones(2) for k in range(1, answers + 1)})
    assert (mean is None) == (answers < quorum)


@pytest.mark.parametrize(("sampling", "samples", "shares"), [
    ("uniform", (1, 2, 5), (1 / 3, 1 / 3, 1 / 3)),
    ("samples", (1, 2, 5), (1 / 8, 2 / 8, 5 / 8)),
], ids=["uniform", "samples"])  # fmt: skip
def test_rounds_call_by_turns_as_often_as_the_sampling_says(sampling, samples, shares):
    """Four thousand rounds of one client: each count within five standard deviations of its share."""
    n = 4000
    held = dict(zip([1, 2, 3], samples, strict=True))
    run = ServerRounds(Server(clients=1, sampling=sampling), [1, 2, 3], held, drawn, 7)
    counts = Counter(run.called(i)[0] for i in range(n))
    for k, share in zip([1, 2, 3], shares, strict=True):
        assert abs(counts[k] - n * share) < 5 * (n * share * (1 - share)) ** 0.5
    other = run._replace(seed=8)
    assert [run.called(i) for i in range(20)] != [other.called(i) for i in range(20)]


@given(run=rounds(), more=st.integers(1, 5))
def test_rounds_that_its_clients_cannot_fill_are_refused(run, more):
    """More clients per round than there are, and a quorum beyond a round."""
    run.check()
    K = len(run.clients)
    with pytest.raises(ConfigError, match=rf"server.clients is {K + more}, but there are {K} .* at most {K}"):
        run._replace(settings=Server(clients=K + more)).check()
    quorum = run.settings.model_copy(update={"quorum": run.wanted + more})
    with pytest.raises(ConfigError, match=rf"server.quorum is {run.wanted + more}, .* has {run.wanted} clients"):
        run._replace(settings=quorum).check()
