"""The networks of the papers: their sizes, counted by hand, and derivatives, found another way."""

import pytest
import torch
from torch import nn
from torch.func import grad
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from difnet.maths.flat import FlatModel, flatten
from difnet.meta import Tasks, in_turn, maml
from difnet.models._recurrent import LSTM
from difnet.models.char_lstm import char_lstm
from difnet.models.conv4 import conv4
from difnet.models.femnist_cnn import femnist_cnn
from difnet.models.mlp import mlp
from difnet.models.word_lstm import word_lstm


def lstm_size(inputs: int, hidden: int) -> int:
    """Four gates, each with two matrices and two biases."""
    return 4 * hidden * (inputs + hidden + 2)


SIZES = {
    "mlp 1-40-40-1": (mlp, {}, 1761),
    "mlp 784-8-8-10": (mlp, {"inputs": 784, "hidden": (8, 8), "outputs": 10}, 6442),
    "omniglot": (conv4, {}, 640 + 64 * 2 + 3 * (64 * 64 * 9 + 64 + 64 * 2) + 65 * 5),
    "miniimagenet": (conv4, {"channels": 3, "size": 84}, 32 * 27 + 32 * 3 + 3 * (32 * 32 * 9 + 32 * 3) + 801 * 5),
    "femnist": (femnist_cnn, {}, 6603710),
    "shakespeare": (char_lstm, {}, 819920),
    "shakespeare by hand": (char_lstm, {}, 640 + lstm_size(8, 256) + lstm_size(256, 256) + 257 * 80),
    "sent140": (word_lstm, {}, lstm_size(300, 100) + lstm_size(100, 100) + 101 * 2),
    "sent140, learnt": (word_lstm, {"vocabulary": 9, "vectors": 5}, 45 + lstm_size(5, 100) + lstm_size(100, 100) + 202),
}


@pytest.mark.parametrize("name", SIZES)
def test_models_have_the_papers_numbers_of_parameters(name):
    model, options, size = SIZES[name]
    assert sum(p.numel() for p in model(**options).parameters()) == size


def small(**options: int) -> nn.Module:
    torch.manual_seed(0)
    return char_lstm(vocabulary=5, outputs=3, dimensions=2, hidden=4, layers=2, **options).double()


def batch(n: int = 6, steps: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, (n, steps), generator=generator), torch.randint(3, (n,), generator=generator)


def loss_of(module: nn.Module):
    model = FlatModel(module)
    return lambda w, b: cross_entropy(model(w, b[0]), b[1])


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_our_lstm_is_pytorchs_in_outputs_gradients_and_names(layers):
    torch.manual_seed(0)
    theirs, ours = nn.LSTM(3, 5, layers, batch_first=True).double(), LSTM(3, 5, layers).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 6, 5, dtype=torch.float64)
    expected = torch.autograd.grad((theirs(x)[0] * weights).sum(), [x, *theirs.parameters()])
    found = torch.autograd.grad((ours(x) * weights).sum(), [x, *ours.parameters()])
    assert_close(ours(x), theirs(x)[0])
    assert_close(found, expected)
    with torch.no_grad():
        assert_close(ours(x), theirs(x)[0])


def test_the_lstm_is_one_step_after_another_by_hand():
    """One layer, one unit, every gate's weights different: the recurrence of Hochreiter and Schmidhuber, in numbers."""
    lstm = LSTM(1, 1, 1).double()
    with torch.no_grad():
        for p, values in zip(lstm.parameters(), ([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8],
                                                 [0.9, 1.0, 1.1, 1.2], [0.0, 0.1, 0.0, 0.1]), strict=True):  # fmt: skip
            p.copy_(torch.tensor(values).view_as(p))
    h = c = torch.zeros((), dtype=torch.float64)
    for x in (1.0, -2.0):
        entry = torch.sigmoid(0.1 * x + 0.5 * h + torch.tensor(0.9))
        forget = torch.sigmoid(0.2 * x + 0.6 * h + torch.tensor(1.1))
        change = torch.tanh(0.3 * x + 0.7 * h + torch.tensor(1.1))
        out = torch.sigmoid(0.4 * x + 0.8 * h + torch.tensor(1.3))
        c = forget * c + entry * change
        h = out * torch.tanh(c)
    assert_close(lstm(torch.tensor([[[1.0], [-2.0]]], dtype=torch.float64))[0, -1, 0], h, rtol=1e-6, atol=1e-6)


def directional(function, w: torch.Tensor, v: torch.Tensor, step: float = 1e-5) -> torch.Tensor:
    """The derivative along v, by central differences."""
    return (function(w + step * v) - function(w - step * v)) / (2 * step)


def test_gradients_and_hessian_products_of_an_lstm_are_those_of_finite_differences():
    module = small()
    loss, w, b = loss_of(module), flatten(module, torch.float64), batch()
    torch.manual_seed(1)
    for v in torch.randn(5, len(w), dtype=torch.float64):
        gradient = grad(loss)(w, b)
        assert_close(gradient @ v, directional(lambda u: loss(u, b), w, v), rtol=1e-6, atol=1e-8)
        product = grad(lambda u, d=v: grad(loss)(u, b) @ d)(w)
        assert_close(product, directional(lambda u: grad(loss)(u, b), w, v), rtol=1e-5, atol=1e-8)


def test_the_meta_gradient_of_an_lstm_is_that_of_finite_differences_and_of_pytorchs_autograd():
    module = small()
    loss, w = loss_of(module), flatten(module, torch.float64)
    support, query = [(x[None], y[None]) for x, y in (batch(seed=1), batch(seed=2))]
    found, _ = maml(loss, w, Tasks(support, query), inner_lr=0.5, inner_steps=2, each=in_turn)

    def after(u: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            (g,) = torch.autograd.grad(loss(u, batch(seed=1)), u, create_graph=True)
            u = u - 0.5 * g
        return loss(u, batch(seed=2))

    leaf = w.clone().requires_grad_()
    (expected,) = torch.autograd.grad(after(leaf), leaf)
    assert_close(found, expected)
    v = torch.randn(len(w), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert_close(found @ v, directional(lambda u: after(u.requires_grad_()).detach(), w, v), rtol=1e-6, atol=1e-8)


def test_an_lstm_predicts_with_the_parameters_it_is_given_with_and_without_gradients():
    """Without, PyTorch's own runs, which has its weights in a list beside the module's parameters."""
    model, other = FlatModel(small()), small()
    w = torch.randn(model.size, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    nn.utils.vector_to_parameters(w, other.parameters())
    x, _ = batch()
    expected = other.linear(other.lstm(other.embedding(x))[:, -1])
    assert_close(model(w, x), expected)
    with torch.no_grad():
        assert_close(model(w, x), expected)
        assert not torch.allclose(model(w * 2, x), expected)


def test_lstms_take_their_tasks_in_turn():
    assert FlatModel(char_lstm()).each is FlatModel(word_lstm()).each is in_turn


def test_only_the_last_step_counts_and_numbers_may_be_of_any_kind():
    module = small()
    x, _ = batch()
    assert_close(module(x.to(torch.uint8)), module(x))
    outputs = module.linear(module.lstm(module.embedding(x)))
    assert_close(module(x), outputs[:, -1])


def test_the_femnist_network_sees_a_row_of_pixels_as_a_picture():
    """What convolutions see moves down with the picture, which two poolings make a quarter as high."""
    torch.manual_seed(0)
    model = femnist_cnn(filters=(2, 3), hidden=4)
    picture = torch.zeros(1, 28, 28)
    picture[0, 10:14, 8:12] = torch.rand(4, 4)
    below = picture.roll(4, 1)  # four rows: one in the last feature map
    features = nn.Sequential(*list(model)[:7])
    assert_close(features(below.flatten(1)), features(picture.flatten(1)).roll(1, 2))
    assert model(picture.flatten(1)).shape == (1, 62)
