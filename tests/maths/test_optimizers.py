"""Outer optimisers against torch.optim, fifty steps long; Yogi, which is not there, against the paper's lines."""

from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from difnet.maths.optimizers import OPTIMIZERS, Optimizer, adagrad, adam, clipped, momentum, sgd, yogi

STEPS, M = 50, 17


class PlainYogi:
    """FedYogi of Reddi et al. 2021, Algorithm 2, number after number: v goes up or down by (1 - beta2) of g^2."""

    def __init__(self, parameters, lr, beta1=0.9, beta2=0.99, tau=1e-3):
        (self.w,), self.lr, self.betas, self.tau = parameters, lr, (beta1, beta2), tau
        self.m, self.v = [0.0] * M, [tau * tau] * M

    def step(self):
        beta1, beta2 = self.betas
        after = []
        for n, (w, g) in enumerate(zip(self.w.tolist(), self.w.grad.tolist(), strict=True)):
            square, change = g**2, (1 - beta2) * g**2
            self.m[n] = beta1 * self.m[n] + (1 - beta1) * g
            self.v[n] += change if square > self.v[n] else -change if square < self.v[n] else 0.0
            after.append(w - self.lr * self.m[n] / (sqrt(self.v[n]) + self.tau))
        self.w.data = torch.tensor(after, dtype=self.w.dtype)


THEIRS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "yogi": lambda parameters: PlainYogi(parameters, lr=0.01),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01, initial_accumulator_value=1e-6, eps=1e-3),
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
    (yogi(0.8, 0.95, 1e-2), lambda p: PlainYogi(p, lr=0.01, beta1=0.8, beta2=0.95, tau=1e-2)),
    (adagrad(1e-2), lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=1e-4, eps=1e-2)),
], ids=["momentum", "adam", "yogi", "adagrad"])  # fmt: skip
def test_their_constants_mean_what_they_mean_in_torch(optimizer, make):
    assert (ours(optimizer, gradients()) - theirs(make, gradients())).abs().max() < 1e-12


def test_the_first_step_of_adam_goes_by_the_rate_in_every_direction():
    """Bias correction: m / sqrt(v) is the gradient's sign, whatever its size."""
    w, g = torch.zeros(3, dtype=torch.float64), torch.tensor([1e-3, -5.0, 2e4], dtype=torch.float64)
    after, _ = adam(epsilon=0.0).step(w, adam().init(w), g, 0.01)
    torch.testing.assert_close(after, -0.01 * g.sign(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("t", [1, 2, 3, 10, 100, 1000, 100_000])
def test_adams_bias_correction_keeps_the_digits_of_single_precision(t):
    """The t-th step from moments of our own choice, by numpy in double precision; 1 - beta^t of powers is 7e-6 off."""
    m, v, g = 0.3, 0.7, 0.5
    w, slots = torch.zeros(1), (torch.full((1,), m), torch.full((1,), v), torch.tensor(float(t - 1)))
    (moved, _) = adam(epsilon=0.0).step(w, slots, torch.full((1,), g), 1.0)
    m, v = (np.float64(x) for x in (0.9 * np.float32(m) + 0.1 * g, 0.999 * np.float32(v) + 0.001 * g * g))
    want = m / -np.expm1(t * np.log(0.9)) / np.sqrt(v / -np.expm1(t * np.log(0.999)))
    assert abs(-moved.item() / want - 1) < 3e-7


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_single_precision_stays_near_double(name):
    """The step count is a float32 tensor there."""
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


def test_yogis_second_moment_falls_slowly_after_a_great_gradient_where_adams_forgets():
    """From v = 100: after a zero gradient Yogi's stays, after a small one it falls by (1 - beta2) g^2."""
    w, zero = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    slots = (zero, torch.full_like(w, 100.0))
    _, (_, after_zero) = yogi().step(w, slots, zero, 0.1)
    _, (_, after_one) = yogi().step(w, slots, torch.ones_like(w), 0.1)
    assert after_zero == 100.0 and abs(after_one - 99.99) < 1e-12


# --- clipping ------------------------------------------------------------------------------------------------------


def test_a_gradient_that_is_too_long_is_shortened_and_keeps_its_direction():
    g = torch.tensor([3.0, -4.0, 12.0], dtype=torch.float64)  # of length 13
    torch.testing.assert_close(clipped(g, 6.5), g / 2, rtol=1e-15, atol=0)


@pytest.mark.parametrize("norm", [13.0, 1e9, None])
def test_a_gradient_that_is_short_enough_keeps_its_bits(norm):
    for g in (torch.tensor([3.0, -4.0, 12.0], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)):
        assert torch.equal(clipped(g, norm), g)


def test_clipping_can_be_traced_and_mapped():
    """The choice between long and short is in the trace, whichever it was made with."""
    long, short = torch.tensor([3.0, 4.0], dtype=torch.float64), torch.tensor([0.3, 0.4], dtype=torch.float64)
    traced = make_fx(lambda g: clipped(g, 1.0))(short)
    both = torch.func.vmap(lambda g: clipped(g, 1.0))(torch.stack([long, short]))
    for got in (torch.stack([traced(long), traced(short)]), both):
        torch.testing.assert_close(got, torch.stack([long / 5, short]), rtol=1e-15, atol=0)
