"""Somebody's own module as the model of a run: refused before it, if it is no function; its last layer is the one used
last; and what its steps cost.
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from difnet.config import load
from difnet.errors import ConfigError
from difnet.workload import Workload
from difnet.workload.building import build
from difnet.workload.kernels import compile_kernels
from tests.workload.test_building import Lines


def lines(agents: int, shots: int, queries: int) -> Lines:
    return Lines(shots, queries, (1,))


class Own(nn.Module):
    """Two layers, between which a test puts what it likes."""

    def __init__(self, between) -> None:
        super().__init__()
        self.body, self.between, self.out = nn.Linear(1, 4), between, nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.between(self.body(x)))


class OwnConvolution(Own):
    """The same through a convolution, so that tasks are taken in turn."""

    def __init__(self, between) -> None:
        super().__init__(between)
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.between(self.conv(self.body(x)[:, None])[:, 0]))


def dropout() -> nn.Module:
    return Own(nn.Dropout(0.25))


def functional_dropout() -> nn.Module:
    return Own(functional.dropout)


def noise() -> nn.Module:
    return OwnConvolution(lambda h: h + 0.1 * torch.rand_like(h))


def numpy_noise() -> nn.Module:
    return Own(lambda h: h + float(np.random.default_rng().normal()))


def hidden_noise() -> nn.Module:
    """The head begins at zero, so what it outputs first is always the same."""
    module = Own(functional.dropout)
    nn.init.zeros_(module.out.weight)
    return module


def counting() -> nn.Module:
    calls: list[int] = []

    def later_is_more(h: Tensor) -> Tensor:
        calls.append(1)
        return h + len(calls)

    return Own(later_is_more)


def dropout_of_nothing() -> nn.Module:
    return Own(nn.Dropout(0.0))


def batch_norm() -> nn.Module:
    return Own(nn.BatchNorm1d(4, track_running_stats=False))


def not_a_number() -> nn.Module:
    return Own(lambda h: h / torch.zeros_like(h))


class HeadFirst(nn.Module):
    """Registered in another order than it is used."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)
        self.scale = nn.Parameter(torch.ones(1)) if scaled else 1.0
        self.body = nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.scale * self.body(x)))


def head_first(scaled: bool = False) -> nn.Module:
    return HeadFirst(scaled)


class Tied(nn.Module):
    """A last layer that has a matrix of the first one's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.middle(self.first(x))))


def tied() -> nn.Module:
    return Tied()


def attention_last() -> nn.Module:
    class AttentionLast(nn.Module):
        """Its output is the attention's, whose inner layer's own forward PyTorch never calls."""

        def __init__(self) -> None:
            super().__init__()
            self.attention, self.body = nn.MultiheadAttention(1, 1), nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x)
            return self.attention(h, h, h)[0]

    return AttentionLast()


def built(model: str, **settings) -> Workload:
    own = {"task": "tests.workload.test_own_models:lines", "model": f"tests.workload.test_own_models:{model}"}
    return build(load(settings=own | {"engine": "eager"} | settings), 3)


def test_a_layer_that_draws_random_numbers_is_refused_with_the_models_name():
    with pytest.raises(ConfigError, match=r"model 'tests\.\S+:dropout': layer 'between' \(Dropout, p=0\.25\) draws"):
        built("dropout")


@pytest.mark.parametrize("model", ["functional_dropout", "noise", "numpy_noise", "hidden_noise", "counting"])
def test_a_model_whose_output_follows_from_more_than_its_input_is_refused_before_the_run(model):
    with pytest.raises(ConfigError, match=rf"model 'tests\.\S+:{model}' gives two outputs for one input.*random"):
        built(model)


@pytest.mark.parametrize("model", ["dropout_of_nothing", "batch_norm", "not_a_number"])
def test_a_model_that_is_a_function_is_taken(model):
    """And whoever looked leaves torch's own generator as it was."""
    before = torch.get_rng_state()
    assert built(model).model.size > 0
    assert torch.equal(torch.get_rng_state(), before)


def moved(model: str, **settings) -> set[str]:
    """The parameters that ANIL's inner steps move."""
    workload = built(model, **{"algorithm.inner": "anil"}, **settings)
    w, batch = workload.first_launch_model(0), workload.draw(0, 1, np.random.default_rng(0)).support
    change = workload.algorithm.fit(w, (batch[0][0], batch[1][0]), 1) != w
    return {name for name, part in workload.model.unflatten(change).items() if part.any()}


def test_anils_head_is_the_layer_used_last_and_not_the_one_registered_last():
    assert moved("head_first") == moved("head_first", **{"model.scaled": True}) == {"head.weight", "head.bias"}


def test_a_head_has_what_its_layer_computes_with():
    """A matrix that it shares, and layers within it."""
    assert moved("tied") == {"first.weight", "last.bias"}
    last = moved("attention_last")
    assert last and all(name.startswith("attention.") for name in last)
    model = built("attention_last").model
    inside = {p.name for p in model.pieces if model.head()[p.start : p.stop].all()}
    assert inside == {name for name, _ in model.module.named_parameters() if name.startswith("attention.")}


@pytest.mark.parametrize(("order", "products"), [(2, 19_920), (1, 10_000)])
def test_flops_are_those_of_the_matrix_products_counted_by_hand(order, products):
    """The 1-40-40-1 net, five tasks of ten samples, a multiply-add as two. Multiply-adds for a sample, layer by layer:

    - forward: 40 + 1600 + 40 = 1680;
    - backward: as many for the gradients of the weights, and 1600 + 40 for those of the two hidden layers: 3320;
    - so an inner step is 5000, and the query gradient too;
    - second order, with S the support loss and v the query gradient, is the gradient of <grad S(w), v>, and grad S(w)
      is there from the inner step. Back through the gradients of the weights d_i' h_(i-1): 1680 by the d_i, 1640 by the
      hidden h_i; back through d_(i-1) = d_i W_i: 1640 by the d_i, 1640 by the W_i; back through the forward pass: 1680
      by the W_i, 1640 by the h_i. Together 9920.
    """
    settings = {"task": "sinusoid", "engine": "traced", "order": order, "eval_steps": [1], "eval_tasks": 1}
    workload = build(load(settings=settings), 3)
    assert workload.config.tasks == 5 and workload.config.shots == workload.config.queries == 10
    assert compile_kernels(workload, print).flops == 2 * 5 * 10 * products
