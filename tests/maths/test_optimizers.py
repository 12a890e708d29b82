"""Outer optimisers against torch.optim, fifty steps long."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from difnet.optimizers import OPTIMIZERS, Optimizer, adam, momentum, sgd

STEPS, M = 50, 17
THEIRS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}


def gradients(dtype=torch.float64) -> Tensor:
    """Of very different sizes, with zeros among them."""
    rng = np.random.default_rng(0)
    g = rng.standard_normal((STEPS, M)) * 10.0 ** rng.integers(-6, 3, (STEPS, M))
    return torch.from_numpy(np.where(rng.random((STEPS, M)) < 0.1, 0.0, g)).to(dtype)


def ours(optimizer: Optimizer, gradients: Tensor) -> Tensor:
    w = torch.linspace(-1, 1, M, dtype=gradients.dtype)
    slots, path = optimizer.init(w), []
    for g in gradients:
        w, slots = optimizer.step(w, slots, g, 0.01)
        path.append(w)
    return torch.stack(path)


def theirs(make, gradients: Tensor) -> Tensor:
    w = torch.linspace(-1, 1, M, dtype=gradients.dtype).requires_grad_()
    optimizer, path = make([w]), []
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
        path.append(w.detach().clone())
    return torch.stack(path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_walks_the_path_of_its_namesake_in_torch(name):
    """Every one of fifty positions, float64; a new optimiser needs its namesake in this file."""
    apart = (ours(OPTIMIZERS[name](), gradients()) - theirs(THEIRS[name], gradients())).abs().max()
    assert apart < 1e-12


def test_sgd_is_one_multiplication_and_one_subtraction():
    w, g = torch.randn(2, M, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sgd().step(w, (), g, 0.1)[0], w - 0.1 * g)


@pytest.mark.parametrize(("optimizer", "make"), [
    (momentum(0.5), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.5)),
    (adam(0.8, 0.95, 1e-4), lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-4)),
], ids=["momentum", "adam"])  # fmt: skip
def test_their_constants_mean_what_they_mean_in_torch(optimizer, make):
    assert (ours(optimizer, gradients()) - theirs(make, gradients())).abs().max() < 1e-12


def test_the_first_step_of_adam_goes_by_the_rate_in_every_direction():
    """Bias correction: m / sqrt(v) is the gradient's sign, whatever its size."""
    w, g = torch.zeros(3, dtype=torch.float64), torch.tensor([1e-3, -5.0, 2e4], dtype=torch.float64)
    after, _ = adam(epsilon=0.0).step(w, adam().init(w), g, 0.01)
    torch.testing.assert_close(after, -0.01 * g.sign(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_single_precision_stays_near_double(name):
    """The step count is a float32 tensor there; its bias correction costs accuracy, but not a digit that matters."""
    single = ours(OPTIMIZERS[name](), gradients(torch.float32)).double()
    want = theirs(THEIRS[name], gradients(torch.float32).double())
    assert ((single - want).abs() / want.abs().clamp(min=1.0)).max() < 1e-5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_changes_nothing_in_place(name):
    """States are values: what came before can be used again."""
    optimizer, w = OPTIMIZERS[name](), torch.ones(M)
    slots, g = optimizer.init(w), torch.full((M,), 2.0)
    before = [t.clone() for t in (w, g, *slots)]
    first, second = optimizer.step(w, slots, g, 0.1), optimizer.step(w, slots, g, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, (w, g, *slots), strict=True))
    assert torch.equal(first[0], second[0])


def test_a_trace_counts_the_steps_of_adam():
    """Were the count a Python number, a trace would repeat the first step's bias correction for ever."""
    def step(w, m, v, t, g):
        w, slots = adam().step(w, (m, v, t), g, 0.01)
        return w, *slots

    w = torch.linspace(-1, 1, M, dtype=torch.float64)
    state = (w, *adam().init(w))
    traced = make_fx(step)(*state, gradients()[0])
    path = []
    for g in gradients():
        state = traced(*state, g)
        path.append(state[0])
    assert (torch.stack(path) - ours(adam(), gradients())).abs().max() < 1e-14
