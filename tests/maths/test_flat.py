"""A model as a function of one flat vector, against the module it came from."""

import pytest
import torch
from torch import nn

from difnet.errors import ConfigError
from difnet.maths.flat import FlatModel, flatten


@pytest.fixture
def module():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
        )


X = torch.linspace(-1, 1, 5 * 16).reshape(5, 1, 4, 4)


def test_the_flat_model_computes_what_the_module_computes(module):
    assert torch.equal(FlatModel(module)(flatten(module, torch.float32), X), module(X))


def test_flatten_and_unflatten_are_each_others_inverse(module):
    model, w = FlatModel(module), flatten(module, torch.float32)
    named = model.unflatten(w)
    assert list(named) == [name for name, _ in module.named_parameters()]
    assert all(torch.equal(named[name], p) for name, p in module.named_parameters())
    assert torch.equal(torch.cat([p.reshape(-1) for p in named.values()]), w)
    assert model.size == w.numel() == sum(p.numel() for p in module.parameters())


def test_unflatten_gives_views_and_flatten_a_copy(module):
    model, w = FlatModel(module), flatten(module, torch.float32)
    model.unflatten(w)["0.bias"].fill_(7.0)
    assert (w == 7.0).sum() == 2 and not (module[0].bias == 7.0).any()
    assert not w.requires_grad


def test_only_the_vector_counts_once_the_model_is_made(module):
    """The module is a skeleton: changing its parameters changes nothing, changing w everything."""
    model, w = FlatModel(module), flatten(module, torch.float32)
    before = model(w, X)
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    assert torch.equal(model(w, X), before) and not torch.equal(model(2 * w, X), before)


def test_float64_vectors_compute_in_float64(module):
    w = flatten(module, torch.float64)
    assert w.dtype == torch.float64
    assert FlatModel(module)(w, X.double()).dtype == torch.float64


def test_gradients_reach_every_parameter_through_the_vector(module):
    """At the same places and with the same values as in the module itself."""
    model = FlatModel(module)
    with torch.enable_grad():
        w = flatten(module, torch.float64).requires_grad_()
        (model(w, X.double()) ** 2).sum().backward()
        module.double()
        (module(X.double()) ** 2).sum().backward()
    torch.testing.assert_close(w.grad, torch.cat([p.grad.reshape(-1) for p in module.parameters()]),
                               rtol=1e-12, atol=1e-12)  # fmt: skip


def test_the_head_is_the_last_layer_that_has_parameters(module):
    head = FlatModel(module).head()
    assert head.tolist() == [0.0] * (18 + 2 + 2 + 2) + [1.0] * 27
    assert FlatModel(nn.Sequential(module, nn.Tanh())).head().tolist() == head.tolist()
    assert FlatModel(nn.Linear(3, 2)).head().tolist() == [1.0] * 8


def test_frozen_parameters_stay_with_the_module(module):
    """They are no part of w, and are used as they are."""
    module[0].requires_grad_(False)
    model, w = FlatModel(module), flatten(module, torch.float32)
    assert model.size == w.numel() == 4 + 27 and model.pieces[0].name == "1.weight"
    assert torch.equal(model(w, X), module(X))


def test_shared_parameters_are_counted_once():
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    model, w = FlatModel(module), flatten(module, torch.float32)
    x = torch.ones(2, 3)
    assert model.size == w.numel() == 9 + 3 + 3
    assert torch.equal(model(w, x), module(x))
    with torch.no_grad():
        module[0].weight.mul_(2.0)
    assert torch.equal(model(flatten(module, torch.float32), x), module(x))


def test_the_signature_tells_two_models_apart(module):
    signature = FlatModel(module).signature()
    assert signature[0] == ("0.weight", (2, 1, 3, 3)) and signature[-1] == ("4.bias", (3,))
    assert FlatModel(nn.Linear(2, 3)).signature() != FlatModel(nn.Linear(3, 2)).signature()


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.InstanceNorm1d(4, track_running_stats=True)])
def test_running_statistics_are_refused_and_the_layer_named(layer):
    with pytest.raises(ConfigError, match=r"'1' keeps running statistics.*track_running_stats=False"):
        FlatModel(nn.Sequential(nn.Linear(4, 4), layer))


def test_a_model_that_learns_nothing_is_refused():
    with pytest.raises(ConfigError, match="ReLU has no trainable parameters"):
        FlatModel(nn.ReLU())
