"""The `model` argument of modes: a copy of the prepared model in its place."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from graphpress.compressor import LifeCycleError
from graphpress.palettization import KMeansPalettizer
from graphpress.pruning import (
    MagnitudePruner,
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    PolynomialDecaySchedule,
)
from graphpress.quantization import ExecutionMode, Quantizer, QuantizerConfig

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize("mode", [*ExecutionMode])
def test_a_copy_is_calibrated_and_the_prepared_model_is_not(mode):
    quantizer = Quantizer(network(), QuantizerConfig(execution_mode=mode))
    prepared = quantizer.prepare(X)
    other, before = copy.deepcopy(prepared), prepared(X)
    with quantizer.calibration_mode(other) as calibrated:
        assert calibrated is other
        other(8 * X)
    assert torch.equal(prepared(X), before)
    assert not torch.equal(other(8 * X), prepared(8 * X))
    with pytest.raises(LifeCycleError, match="not prepared by this"), quantizer.calibration_mode(network()):
        pass


def test_steps_count_on_the_model_that_is_trained():
    schedule = PolynomialDecaySchedule(total_iters=3)
    config = MagnitudePrunerConfig(global_config=ModuleMagnitudePrunerConfig(sparsity_schedule=schedule))
    for compressor in (MagnitudePruner(network(), config), Quantizer(network()), KMeansPalettizer(network())):
        prepared = compressor.prepare(X)
        other = copy.deepcopy(prepared)
        with compressor.training_mode(other):
            compressor.step()
        assert [int(model.get_buffer("_training_steps")) for model in (prepared, other)] == [0, 1]


def test_importances_of_a_copy_are_measured():
    palettizer = KMeansPalettizer(network())
    prepared = palettizer.prepare(X)
    other, before = copy.deepcopy(prepared), prepared(X)
    with palettizer.calibration_mode(other, loss_fn=functional.mse_loss) as calibration:
        calibration.step(other(X), torch.zeros(4, 4))
    assert torch.equal(prepared(X), before)
    assert not torch.equal(other(X), before)


@pytest.mark.parametrize("mode", [*ExecutionMode])
def test_clients_find_mode_and_fake_quantizers_by_module(mode):
    quantizer = Quantizer(network(), QuantizerConfig(execution_mode=mode))
    prepared = quantizer.prepare(X)
    assert quantizer._execution_mode == mode.value
    found = quantizer._get_fake_quantize_modules()
    assert {"0", "2"} <= set(found)
    modules = {id(module) for module in prepared.modules()}
    assert all(id(each) in modules for group in found.values() for each in group)
    assert [each.is_state for each in found["0"]].count(True) == 1
