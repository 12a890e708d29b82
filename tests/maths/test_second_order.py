"""Attention and recurrences in somebody's own model: their meta-gradients, against finite differences."""

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import mse_loss, scaled_dot_product_attention

from difnet.maths.flat import FlatModel, flatten
from difnet.meta import Each, Tasks, in_turn, maml, vmap

TASKS, SAMPLES, STEPS, SIZE = 2, 3, 2, 3
RATE, INNER_STEPS = 0.3, 2


class OwnAttention(nn.Module):
    """Heads that PyTorch's fused attention would take, in a module that nobody can look into."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(SIZE, 12), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.into(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        return self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1))


class Attention(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.into, self.layer, self.out = nn.Linear(SIZE, 4), layer, nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        attends = isinstance(self.layer, nn.MultiheadAttention)
        return self.out((self.layer(x, x, x, need_weights=False)[0] if attends else self.layer(x)).mean(1))


class Recurrence(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], layers: int = 1) -> None:
        super().__init__()
        self.layer, self.out = kind(SIZE, 4, layers, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0].mean(1))


class Cells(nn.Module):
    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell, self.out = kind(SIZE, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.out(state[0] if isinstance(state, tuple) else state)


def encoder() -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation="gelu", batch_first=True)


ATTENDING = {
    "own attention": OwnAttention,
    "multi-head attention": lambda: Attention(nn.MultiheadAttention(4, 2, batch_first=True)),
    "transformer": lambda: Attention(encoder()),
    "transformer for evaluation": lambda: Attention(encoder()).eval(),
}  # fmt: skip
RECURRENT = {
    "LSTM": lambda: Recurrence(nn.LSTM), "two layers of GRU": lambda: Recurrence(nn.GRU, 2),
    "RNN": lambda: Recurrence(nn.RNN), "LSTM cell": lambda: Cells(nn.LSTMCell), "GRU cell": lambda: Cells(nn.GRUCell),
}  # fmt: skip
NETWORKS = ATTENDING | RECURRENT


def made(name: str, dtype: torch.dtype = torch.float64) -> tuple[FlatModel, Tensor, Tasks]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = NETWORKS[name]().to(dtype)
        support, query = [(torch.randn(TASKS, SAMPLES, STEPS, SIZE).to(dtype), torch.randn(TASKS, SAMPLES, 1).to(dtype))
                          for _ in range(2)]  # fmt: skip
    return FlatModel(module), flatten(module, dtype), Tasks(support, query)


def meta_gradient(model: FlatModel, w: Tensor, tasks: Tasks, each: Each) -> Tensor:
    def loss(w: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return mse_loss(model(w, batch[0]), batch[1])

    return maml(loss, w, tasks, inner_lr=RATE, inner_steps=INNER_STEPS, together=model.is_plain, each=each)[0]


def slope(model: FlatModel, w: Tensor, tasks: Tasks, v: Tensor, step: float = 1e-5) -> float:
    """The derivative of the query loss after the inner steps along v, by central differences; no second derivative."""

    def after(u: Tensor) -> float:
        total = 0.0
        for sx, sy, qx, qy in zip(*tasks.support, *tasks.query, strict=True):
            theta = u
            for _ in range(INNER_STEPS):
                with torch.enable_grad():
                    leaf = theta.clone().requires_grad_()
                    (g,) = torch.autograd.grad(mse_loss(model(leaf, sx), sy), leaf)
                theta = theta - RATE * g
            with torch.no_grad():
                total += mse_loss(model(theta, qx), qy).item() / TASKS
        return total

    return (after(w + step * v) - after(w - step * v)) / (2 * step)


def direction(model: FlatModel) -> Tensor:
    return torch.randn(model.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "each"), [(n, in_turn) for n in NETWORKS] + [(n, vmap) for n in ATTENDING])
def test_the_meta_gradient_is_that_of_finite_differences(name, each):
    """With autograd on, and off, as agents have it."""
    model, w, tasks = made(name)
    v = direction(model)
    want = slope(model, w, tasks, v)
    for keeps_gradients in (True, False):
        with torch.set_grad_enabled(keeps_gradients):
            assert abs(meta_gradient(model, w, tasks, each) @ v - want) < 1e-6 * abs(want)


@pytest.mark.parametrize("name", ["own attention", "transformer", "LSTM"])
def test_so_is_that_of_a_trace(name):
    """Made at another w."""
    model, w, tasks = made(name)
    v, inputs = direction(model), (*tasks.support, *tasks.query)
    with torch.no_grad():
        traced = make_fx(lambda w, *t: meta_gradient(model, w, Tasks(t[:2], t[2:]), model.each))(w + 0.1, *inputs)
        got = traced(w, *inputs) @ v
    want = slope(model, w, tasks, v)
    assert abs(got - want) < 1e-6 * abs(want)


@pytest.mark.parametrize("name", NETWORKS)
def test_single_precision_takes_the_same_second_derivative(name):
    """There PyTorch has other kernels, which a model's own way of many tasks must get through."""
    double, single = made(name), made(name, torch.float32)
    want = meta_gradient(*double, double[0].each)
    assert (meta_gradient(*single, single[0].each) - want).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_recurrences_take_their_tasks_in_turn_and_attention_is_mapped(name):
    assert made(name)[0].each is (in_turn if name in RECURRENT else vmap)


def test_what_a_model_takes_another_way_for_is_as_it_was_after_it():
    """Switches of PyTorch are the process's."""

    def switches() -> tuple[bool, bool]:
        return torch.backends.cuda.flash_sdp_enabled(), torch.backends.cudnn.enabled

    seen: list[tuple[bool, bool]] = []

    class Looking(Recurrence):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(switches())
            return super().forward(x)

    module, before = Looking(nn.LSTM), switches()
    model, w = FlatModel(module), flatten(module, torch.float32)
    model(w, torch.zeros(1, 2, SIZE))
    with torch.no_grad():
        model(w, torch.zeros(1, 2, SIZE))
    assert seen == [(False, False), (False, before[1])] and switches() == before
