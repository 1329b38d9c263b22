from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.palettization import KMeansPalettizer
from graphpress.search import SearchError, find_layers
from graphpress.search.layers import entries
from graphpress.search.sensitivities import named
from tests.graphpress.search.models import Pictures, bits


def test_layers_are_the_modules_with_weights_in_the_models_order() -> None:
    layers = find_layers(Pictures())
    assert [layer.name for layer in layers] == ["stem", "block.0", "block.2", "head"]
    assert [layer.weights for layer in layers] == [432, 2304, 2304, 160]
    assert [layer.float_bytes for layer in layers] == [4 * layer.weights for layer in layers]


def test_a_block_of_layers_is_one_layer_when_named() -> None:
    layers = find_layers(Pictures(), ["head", "block"])
    assert [(layer.name, layer.weights) for layer in layers] == [("block", 4608), ("head", 160)]


def test_a_weight_belongs_to_the_innermost_of_the_named() -> None:
    layers = find_layers(Pictures(), ["block", "block.2"])
    assert [(layer.name, layer.weights) for layer in layers] == [("block", 2304), ("block.2", 2304)]
    assert list(entries(layers, {"block": 1})) == ["block", "block.2"]
    assert entries(layers, {"block": 1}) == {"block": 1, "block.2": None}


def test_modules_that_share_weights_are_one_layer() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(8, 4), "mix": nn.Linear(4, 4), "head": nn.Linear(4, 8, bias=False)})
    model["head"].weight = model["embed"].weight
    layers = find_layers(model)
    assert [(layer.name, layer.modules, layer.weights) for layer in layers] == [
        ("embed", ("embed", "head"), 32),
        ("mix", ("mix",), 16),
    ]
    assert entries(layers, {"embed": 1}) == {"embed": 1, "head": 1, "mix": None}


def test_a_module_at_two_places_is_one_layer() -> None:
    shared = nn.Linear(4, 4)
    (layer,) = find_layers(nn.Sequential(shared, nn.ReLU(), shared))
    assert (layer.modules, layer.weights) == (("0", "2"), 16)


def test_attention_and_its_output_projection_are_two_layers() -> None:
    layers = find_layers(nn.MultiheadAttention(8, 2))
    assert [(layer.name, layer.weights) for layer in layers] == [("", 192), ("out_proj", 64)]


def test_norms_and_biases_are_no_layers() -> None:
    with pytest.raises(SearchError, match="Sequential has no layers"):
        find_layers(nn.Sequential(nn.LayerNorm([2, 3]), nn.ReLU()))


def test_16_bit_weights_take_two_bytes() -> None:
    (layer,) = find_layers(nn.Sequential(nn.Linear(4, 4).half()))
    assert layer.float_bytes == 32


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("steem", "'steem' is not a module of Pictures; did you mean 'stem'"),
        ("block.1", r"module 'block\.1' has no weights"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(name: str, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        find_layers(Pictures(), [name])


def test_an_entry_means_no_other_module_whose_name_looks_alike() -> None:
    model = nn.Sequential()
    for name in ("a", "b"):
        model.add_module(name, nn.Sequential(*(nn.Linear(8, 8) for _ in range(2))))
    model.add_module("a10", nn.Linear(8, 8))  # what "a.0" matches as an expression has one character for the point
    model.add_module("ax0", nn.Linear(8, 8))
    names = [name for name, _ in model.named_modules()]
    layers = find_layers(model)
    (candidate,) = named(bits(1), KMeansPalettizer.config_class, "the model")
    config = KMeansPalettizer.config_class(global_config=None)
    for name, entry in entries(layers, {"a.0": candidate.config}, names).items():
        config.set_module_name(name, entry)
    prepared = KMeansPalettizer(model, config).prepare((torch.randn(1, 8),))
    assert [n for n in prepared.state_dict() if n.endswith("_lut")] == ["a.0.weight_lut"]
