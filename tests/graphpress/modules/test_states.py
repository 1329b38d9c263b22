"""What calibration leaves in the states of a model does not reach the finalized one."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.backends.exporting import InitialStateWarning
from graphpress.modules.states import states_restored
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from graphpress.palettization.spec import PalettizationSpec
from graphpress.pruning import MagnitudePruner
from graphpress.quantization import Quantizer, QuantizerConfig

torch.set_num_threads(1)


class Streaming(nn.Module):
    """A running mean, a count that is replaced at every call, and a batch norm, whose statistics are no states."""

    def __init__(self, start: float = 3.0):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(4, 8, 1, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.register_buffer("mean", torch.full((1, 4), start))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count = self.count + 1
        self.mean.copy_(0.5 * self.mean + self.head(self.norm(self.conv(x)).mean(-1)))
        return self.mean * self.count


def streaming(start: float = 3.0) -> Streaming:
    torch.manual_seed(0)
    return Streaming(start).eval()


def data(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(seed))


def quantized(mode: str):
    def compressed(model):
        quantizer = Quantizer(model, QuantizerConfig.presets.w8().set_execution_mode(mode))
        prepared = quantizer.prepare((data(0),))
        with quantizer.calibration_mode():
            for seed in range(4):
                prepared(data(seed))
        return quantizer, prepared

    return compressed


def palettized(model):
    spec = PalettizationSpec(n_bits=3, activation_aware=True)
    config = KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec}))
    palettizer = KMeansPalettizer(model, config)
    prepared = palettizer.prepare((data(0),))
    with palettizer.calibration_mode(), torch.no_grad():
        for seed in range(4):
            prepared(data(seed))
    return palettizer, prepared


def pruned(model):
    pruner = MagnitudePruner(model)
    return pruner, pruner.prepare((data(0),))


WAYS = {"graph": quantized("graph"), "eager": quantized("eager"), "palettized": palettized, "pruned": pruned}


@pytest.mark.parametrize("way", WAYS)
def test_a_finalized_model_starts_from_the_states_of_the_users_model(way):
    model = streaming()
    compressor, prepared = WAYS[way](model)
    assert torch.equal(prepared.get_buffer("mean"), model.mean)
    with torch.no_grad():
        prepared(data(9))  # a run that no mode undoes
        model(data(8))
    assert not torch.equal(prepared.get_buffer("mean"), model.mean)
    for finalized in (compressor.finalize(), compressor.finalize(copy.deepcopy(prepared))):
        states = dict(finalized.named_buffers())
        assert torch.equal(states["mean"], torch.full((1, 4), 3.0))
        assert torch.equal(states["count"], torch.zeros(()))
        reference, atol = streaming(), 0.1 if way in ("graph", "eager") else 1.0
        with torch.no_grad():
            for seed in (5, 6, 7):
                assert torch.allclose(finalized(data(seed)), reference(data(seed)), atol=atol)


def test_statistics_of_norms_that_training_moved_are_kept():
    quantizer = Quantizer(streaming(), QuantizerConfig.presets.w8a8().set_execution_mode("eager"))
    prepared = quantizer.prepare((data(0),))
    before = prepared.norm.running_mean.clone()
    with quantizer.training_mode(), torch.no_grad():
        prepared(data(1) + 2)
    assert not torch.equal(prepared.norm.running_mean, before)
    assert torch.equal(quantizer.finalize().norm.running_mean, prepared.norm.running_mean)


def test_states_are_restored_after_an_exception_and_others_keep_their_changes():
    model = streaming()

    def failing():
        with states_restored(model, {id(model.norm.running_var)}):
            model(data(0))
            model.norm.running_var.add_(1)
            raise KeyError

    with torch.no_grad(), pytest.raises(KeyError):
        failing()
    assert torch.equal(model.mean, torch.full((1, 4), 3.0))
    assert torch.equal(model.count, torch.zeros(()))
    assert torch.equal(model.norm.running_var, torch.full((8,), 2.0))


class Sum(nn.Module):
    def __init__(self, start: float):
        super().__init__()
        self.register_buffer("total", torch.full((4,), start))

    def forward(self, x):
        self.total.add_(x)
        return self.total * 2


@pytest.mark.parametrize("backend", [coreai, coreml])
def test_a_conversion_warns_of_states_that_do_not_start_at_zero_as_those_of_a_file_do(backend, tmp_path):
    path = tmp_path / ("sum.aimodel" if backend is coreai else "sum.mlpackage")
    with pytest.warns(InitialStateWarning, match=r"other values in the model: total; write their values"):
        backend.convert(Sum(5.0), path, torch.ones(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error", InitialStateWarning)
        backend.convert(Sum(0.0), path, torch.ones(4))


def test_states_of_an_asset_go_on_from_the_values_that_are_written_to_them(tmp_path):
    with pytest.warns(InitialStateWarning):
        coreai.convert(Sum(5.0), tmp_path / "sum.aimodel", torch.ones(4))
    expected = Sum(5.0)
    with coreai.load(tmp_path / "sum.aimodel") as loaded:
        (state,) = loaded.states.values()
        state.copy_(expected.total)
        for _ in range(3):
            assert torch.equal(loaded(torch.ones(4)), expected(torch.ones(4)))
