"""The modelled channel against the paper's constants, Shannon's limits, and messages sent one by one."""

import math

import pytest

from difnet.config import Channel
from difnet.maths.channel import Upload, charge, rate_bits_per_s, upload

PAPER = Channel()


def test_the_defaults_are_the_constants_of_the_papers_sinusoid_experiment():
    constants = PAPER.bandwidth_hz, PAPER.power_w, PAPER.noise_w_per_hz, PAPER.bits, PAPER.broadcast
    assert constants == (5000, 2, 1e-4, 32, False)


@pytest.mark.parametrize(("values", "seconds", "joules"), [(1761, 4.8539, 9.7078), (6442, 17.7563, 35.5126)])
def test_one_upload_of_the_papers_models(values, seconds, joules):
    """The 1-40-40-1 regression and the 784-8-8-10 digits; at a ratio of 4, R is B log2 5."""
    assert rate_bits_per_s(5000, 2, 1e-4) == pytest.approx(5000 * math.log(5, 2), rel=1e-14)
    assert upload(values, PAPER) == pytest.approx((seconds, joules), abs=5e-5)


def test_the_papers_decibels_are_ten_natural_logarithms_of_its_ratio():
    """What eq. (33) takes is P / (N0 B) = 4, i.e. 6.02 dB; the printed figure would be a ratio of 24."""
    ratio = PAPER.power_w / (PAPER.noise_w_per_hz * PAPER.bandwidth_hz)
    assert (round(10 * math.log(ratio), 2), round(10 * math.log10(ratio), 2)) == (13.86, 6.02)
    from_rate = 2 ** (rate_bits_per_s(5000, 2, 1e-4) / 5000) - 1
    assert from_rate == pytest.approx(ratio, rel=1e-13)


@pytest.mark.parametrize("bandwidth_hz", [1e12, 1e25])
def test_on_an_endless_band_the_rate_is_shannons_limit(bandwidth_hz):
    """P / (N0 ln 2): every bit costs at least N0 ln 2 joules."""
    assert rate_bits_per_s(bandwidth_hz, 2, 1e-4) == pytest.approx(2 / (1e-4 * math.log(2)), rel=1e-7)
    wide = PAPER.model_copy(update={"bandwidth_hz": bandwidth_hz, "bits": 1})
    assert upload(1, wide).joules == pytest.approx(1e-4 * math.log(2), rel=1e-7)


def test_a_message_half_as_precise_takes_half():
    whole, half = upload(1761, PAPER), upload(1761, PAPER.model_copy(update={"bits": 16}))
    assert half == pytest.approx((whole.seconds / 2, whole.joules / 2), rel=1e-15)


def sent_one_by_one(neighbours: list[int], rounds: int, one: Upload, answers: int) -> Upload:
    """Agent k sends neighbours[k] messages in each round, and nobody begins the next one before all have sent."""
    now = joules = 0.0
    for _ in range(rounds):
        ends = []
        for count in neighbours:
            mine = now
            for _ in range(count):
                mine, joules = mine + one.seconds, joules + one.joules
            ends.append(mine)
        now = max(ends) + answers * one.seconds
        joules += answers * one.joules
    return Upload(now, joules)


@pytest.mark.parametrize(("neighbours", "is_served", "broadcast"), [
    ([2] * 6, False, False), ([2] * 6, False, True), ([1, 1, 3, 2, 4, 1], False, False),
    ([1] * 5, True, False), ([1] * 5, True, True),
], ids=["ring", "ring, broadcast", "irregular", "star", "star, broadcast"])  # fmt: skip
def test_all_messages_cost_what_they_cost_one_by_one(neighbours, is_served, broadcast):
    """A ring has no hub whose answers could be charged; on a star an answer is one more message per round."""
    channel, rounds = PAPER.model_copy(update={"broadcast": broadcast}), 7
    total = charge(rounds * sum(neighbours), rounds, max(neighbours), 401, channel, is_served=is_served)
    by_hand = sent_one_by_one(neighbours, rounds, upload(401, channel), answers=int(is_served and broadcast))
    assert total == pytest.approx(by_hand, rel=1e-12)
