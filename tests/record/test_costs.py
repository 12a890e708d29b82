"""What a run has spent, worked by hand, and what it had spent when it first reached a target."""

from typing import Any

import pytest

from difnet.config import Channel
from difnet.errors import ConfigError
from difnet.record.costs import Target, spent, to_reach
from difnet.record.events import Validated

# P / (N0 B) = 1, so R = B: a message of 100 values of 10 bits takes 1 s and 3 J
CHANNEL = Channel(bandwidth_hz=1000, power_w=3, noise_w_per_hz=3e-3, bits=10)
RUN: dict[str, Any] = {
    "payload_bytes": 24_000, "uploads": 60, "rounds": 10, "busiest": 2, "is_served": False, "steps": 30,
    "flops_per_step": 1000, "values": 100, "channel": CHANNEL, "cpu_s": 1.5, "seconds": 4.0,
    "energy": {"joules": 12.0, "source": "RAPL", "quality": "measured"},
}  # fmt: skip


def validated(iteration: int, loss: list[float | None], accuracy: list[float] | None = None) -> Validated:
    """A validation with means before adaptation, after 1 and after 10 inner steps; medians and worst mislead."""
    def means(values):
        return [{"mean": value, "median": -9.0, "worst": 99.0} for value in values]

    before, after1, after10 = means(loss)
    scores = dict(zip(("0", "1", "10"), means(accuracy), strict=True)) if accuracy else {}
    return Validated(iteration, 0.0, 0.0, {}, before, {"1": after1, "10": after10}, scores, {"uploads": 6 * iteration})


SEEN = [
    validated(0, [4.0, 3.0, 2.0], [0.2, 0.3, 0.4]),
    validated(5, [3.9, 1.0, 0.5], [0.2, 0.6, 0.74]),
    validated(10, [3.5, 0.5, 0.1], [0.3, 0.8, 0.9]),
    validated(15, [3.0, 0.6, 0.6], [0.3, 0.7, 0.7]),
]


def test_what_a_ring_of_three_has_spent_in_ten_rounds():
    """Three agents with two neighbours each: 60 messages of 3 J, two of them, 2 s, one after another in every round."""
    assert spent(**RUN) == {
        "payload_bytes": 24_000, "uploads": 60, "steps": 30, "flops": 30_000, "cpu_s": 1.5, "joules": 12.0,
        "communication_s": pytest.approx(20.0), "communication_joules": pytest.approx(180.0), "seconds": 4.0,
    }  # fmt: skip


def test_the_hubs_answers_are_charged_where_one_serves_and_the_channel_says_so():
    star = RUN | {"uploads": 30, "busiest": 1, "is_served": True}
    silent, heard = spent(**star), spent(**star | {"channel": CHANNEL.model_copy(update={"broadcast": True})})
    assert (silent["communication_s"], silent["communication_joules"]) == pytest.approx((10.0, 90.0))
    assert (heard["communication_s"], heard["communication_joules"]) == pytest.approx((20.0, 120.0))


def test_what_is_unknown_is_none_and_nothing_else_becomes_so():
    unknown = spent(**RUN | {"flops_per_step": None, "energy": {}, "cpu_s": None, "seconds": None})
    assert {name for name, value in unknown.items() if value is None} == {"flops", "joules", "cpu_s", "seconds"}


@pytest.mark.parametrize(("text", "iteration"), [
    ("loss=0.5", 5), ("loss@10=0.49", 10), ("loss@1=0.5", 10), ("loss@0=3.5", 10), ("loss=2", 0), ("loss=0.05", None),
    ("accuracy=0.74", 5), ("accuracy=0.741", 10), ("accuracy@1=0.74", 10), ("accuracy@0=0.3", 10), ("accuracy=1", None),
    ("loss@5=9", None),
])  # fmt: skip
def test_a_target_is_reached_by_the_first_validation_whose_mean_meets_it(text, iteration):
    """Equality is enough; without a number of inner steps, 10 is meant, which is more than 1 though not as a word."""
    reached = to_reach(SEEN, *Target.parse(text))
    assert reached == (None if iteration is None else {"iteration": iteration, "uploads": 6 * iteration})


def test_a_target_speaks_of_the_most_inner_steps_whatever_their_order():
    event = validated(0, [9.0, 9.0, 9.0])
    event.after.clear()
    event.after.update({"10": {"mean": 1.0}, "9": {"mean": 2.0}})
    assert Target("loss", None, 1.0).figure(event) == 1.0


@pytest.mark.parametrize("mean", [None, float("nan")])
def test_a_mean_that_is_not_known_reaches_nothing(mean):
    """A record holds None for what was not finite."""
    event = validated(3, [mean, mean, mean])
    assert not Target("loss", None, 1e9).reached(event)
    assert not Target("accuracy", None, 0.0).reached(event)


@pytest.mark.parametrize(("text", "target"), [
    ("loss=0.5", Target("loss", None, 0.5)), (" accuracy @ 10 = 1 ", Target("accuracy", "10", 1.0)),
    ("loss@007=1e-3", Target("loss", "7", 1e-3)), ("loss@0=-2", Target("loss", "0", -2.0)),
])  # fmt: skip
def test_a_target_in_words(text, target):
    assert Target.parse(text) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(("text", "help_"), [
    ("", "try accuracy=0.74"), ("loss", "try accuracy=0.74"), ("loss=", "try accuracy=0.74"), ("=1", "try accuracy"),
    ("loss=low", "try accuracy=0.74"), ("loss=nan", "try accuracy=0.74"), ("loss=inf", "try accuracy=0.74"),
    ("loss@=1", "try accuracy=0.74"), ("loss@-1=1", "try accuracy=0.74"), ("loss@two=1", "try accuracy=0.74"),
    ("loss=1=2", "try accuracy=0.74"), ("acuracy=0.7", "did you mean 'accuracy'"), ("joules=3", "try loss=0.5"),
    ("accuracy=74", "74 % is 0.74"), ("accuracy=-0.1", "from 0 to 1, got -0.1"),
])  # fmt: skip
def test_nonsense_is_refused_with_what_would_be_right(text, help_):
    with pytest.raises(ConfigError, match=help_) as error:
        Target.parse(text)
    assert repr(text) in str(error.value)


def test_a_target_that_no_validation_speaks_of_is_refused_before_the_run():
    for text in ("loss=1", "loss@0=1", "loss@10=1"):
        Target.parse(text).check((1, 10), has_accuracy=False)
    with pytest.raises(ConfigError, match=r"loss@5=1\.0: models are tested after 0, 1, 10 .*add 5 to eval_steps"):
        Target.parse("loss@5=1").check((1, 10), has_accuracy=True)
    Target.parse("accuracy@1=0.5").check((1, 10), has_accuracy=True)
    with pytest.raises(ConfigError, match="has no accuracy; try a loss"):
        Target.parse("accuracy@1=0.5").check((1, 10), has_accuracy=False)
