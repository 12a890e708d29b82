"""A launch model is a function: a layer that draws random numbers is refused by name, one that draws none is taken."""

import pytest
import torch
from torch import nn
from torch.func import vmap

from difnet.errors import ConfigError
from difnet.maths.flat import FlatModel, flatten


def around(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 1))


RANDOM = {
    "Dropout, p=0.5": nn.Dropout(), "Dropout2d, p=0.2": nn.Dropout2d(0.2), "AlphaDropout, p=0.1": nn.AlphaDropout(0.1),
    "FeatureAlphaDropout, p=0.5": nn.FeatureAlphaDropout(), "RReLU, slopes from 0.125 to 0.333": nn.RReLU(),
    "LSTM, dropout=0.3": nn.LSTM(4, 4, 2, dropout=0.3), "GRU, dropout=0.3": nn.GRU(4, 4, 2, dropout=0.3),
    "RNN, dropout=0.3": nn.RNN(4, 4, 2, dropout=0.3),
    "MultiheadAttention, dropout=0.1": nn.MultiheadAttention(4, 2, dropout=0.1),
    "TransformerEncoderLayer, dropout=0.1": nn.TransformerEncoderLayer(4, 2),
    "TransformerDecoderLayer, dropout=0.2": nn.TransformerDecoderLayer(4, 2, dropout=0.2),
}  # fmt: skip


@pytest.mark.parametrize("told", RANDOM)
def test_a_layer_that_draws_random_numbers_is_refused_by_its_name_and_kind(told):
    """With what would be right."""
    right = "take nn.LeakyReLU" if "RReLU" in told else f"build it with {told.split(', ')[1].split('=')[0]}=0"
    with pytest.raises(ConfigError) as refused:
        FlatModel(nn.Sequential(nn.Identity(), nn.ModuleDict({"drop": around(RANDOM[told])})))
    assert f"layer '1.drop.1' ({told}) draws random numbers" in str(refused.value)
    assert str(refused.value).endswith(right)


def test_a_layer_deep_in_pytorchs_transformer_is_named_as_it_was_given():
    with pytest.raises(ConfigError, match=r"layer 'encoder\.layers\.0' \(TransformerEncoderLayer, dropout=0\.1\)"):
        FlatModel(nn.Transformer(4, 2, batch_first=True))


@pytest.mark.parametrize("layer", [
    nn.Dropout(0.0), nn.AlphaDropout(0.0), nn.Dropout(0.5).eval(), nn.FeatureAlphaDropout(0.0),
])  # fmt: skip
def test_a_layer_that_draws_none_is_taken(layer):
    """Nor is it in the way where tasks are mapped."""
    model, w = FlatModel(around(layer)), flatten(around(layer), torch.float32)
    assert vmap(lambda x: model(w, x))(torch.ones(2, 5, 4)).shape == (2, 5, 1)


@pytest.mark.parametrize("layer", [
    nn.LSTM(4, 4, 2), nn.MultiheadAttention(4, 2), nn.TransformerEncoderLayer(4, 2, dropout=0.0),
    nn.RReLU(0.2, 0.2), nn.BatchNorm1d(4, track_running_stats=False),
])  # fmt: skip
def test_layers_that_could_draw_random_numbers_and_were_not_told_to_are_taken(layer):
    assert FlatModel(around(layer)).size > 0


@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
def test_dropout_between_the_layers_of_a_recurrence_that_has_one_is_none():
    assert FlatModel(around(nn.LSTM(4, 4, 1, dropout=0.3))).size > 0
