"""A task family and a model that do not fit together are refused before anything runs."""

import numpy as np
import pytest
import torch
from torch import nn

from difnet.config import load
from difnet.errors import ConfigError
from difnet.meta import Tasks
from difnet.workload import TaskStream
from difnet.workload.building import build
from difnet.workload.kernels import compile_kernels


class Lines:
    """Points on lines, with targets of a shape that the test says, and a loss of one's own that minds none."""

    default_model = "mlp"

    def __init__(self, shots: int, queries: int, last: tuple[int, ...]) -> None:
        self.shots, self.queries, self.last = shots, queries, last

    @staticmethod
    def loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((prediction - target) ** 2).mean()

    def draw(self, agent: int | None, count: int, rng: np.random.Generator) -> Tasks:
        def sample(n: int) -> tuple[torch.Tensor, torch.Tensor]:
            x = torch.from_numpy(rng.normal(size=(count, n, 1)))
            return x, 2.0 * x.expand(count, n, *self.last or (1,)).reshape(count, n, *self.last)

        return Tasks(sample(self.shots), sample(self.queries))


def column(agents: int, shots: int, queries: int) -> Lines:
    return Lines(shots, queries, (1,))


def flat(agents: int, shots: int, queries: int) -> Lines:
    return Lines(shots, queries, ())


def gaussian(agents: int, shots: int, queries: int) -> Lines:
    """Two outputs for each target, as a mean and a variance would be: they broadcast as they should."""
    family = Lines(shots, queries, (1,))
    family.loss = lambda prediction, target: (prediction[:, :1] - target).square().mean() + prediction.square().mean()
    return family


def two_outputs() -> nn.Module:
    return nn.Linear(1, 2)


def fitted(task: str, **settings):
    return build(load(settings={"task": f"tests.workload.test_building:{task}", "engine": "eager", **settings}), 3)


@pytest.mark.parametrize("samples", [{}, {"shots": 1}, {"queries": 1}])
def test_targets_that_would_be_paired_with_every_prediction_are_refused(samples):
    """With (n,) against (n, 1) the loss is a number, falls, and ends at a model that predicts the mean."""
    with pytest.raises(ConfigError, match=r"targets have shape \(10,\) and .* predictions \(10, 1\).*every other"):
        fitted("flat", **samples)


def test_targets_of_the_predictions_shape_and_a_loss_that_knows_better_are_not():
    assert fitted("column").length == 1761
    assert fitted("gaussian", model="tests.workload.test_building:two_outputs").length == 4


@pytest.mark.parametrize(("settings", "cautious"), [
    ({"algorithm": "fedavg"}, True), ({"algorithm": "fedprox"}, True), ({"algorithm": "per-fedavg"}, False),
    ({"algorithm": "fedavg", "local_steps": 2}, False), ({"algorithm": "fedavg", "optimizer": "sgd"}, False),
    ({"algorithm": "fedmeta"}, False),
], ids=str)  # fmt: skip
def test_a_run_says_that_one_step_of_an_adam_anew_is_the_sign_of_the_gradient(settings, cautious):
    """And it is so: a step goes by the rate in every direction, however long the gradient is."""
    workload = build(load(settings={"engine": "traced", **settings}), 4, hub=0)
    said: list[str] = []
    kernels = compile_kernels(workload, said.append)
    assert any("signs alone" in text for text in said) == cautious
    state = workload.algorithm.begin(workload.first_state(1), workload.first_state(1).w) if cautious else None
    if state is not None:
        moved = (kernels.adapt(state, TaskStream(workload, 1)(0))[0].phi - state.w).abs()
        assert moved[moved > 0].median().item() == pytest.approx(workload.config.outer_lr, rel=1e-3)


def test_centralised_learning_has_nothing_to_begin_from_that_others_learnt():
    with pytest.raises(ConfigError, match=r"begins from local models.*one learner"):
        build(load(settings={"algorithm": "meta-backward", "strategy": "centralised"}), 1, None, 6)


def test_where_a_family_does_not_tell_an_answer_weighs_what_its_agent_has():
    workload = fitted("column")
    assert workload.samples_drawn(2, 7) == workload.samples()[2] == 1
