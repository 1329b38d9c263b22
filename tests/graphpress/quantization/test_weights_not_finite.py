"""Weights with NaN or infinity, which have no codes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.passes.config import ExecutionMode
from graphpress.passes.weights.errors import QuantizationError
from graphpress.quantization import ModuleQuantizerConfig, Quantizer, QuantizerConfig

MODES = [ExecutionMode.GRAPH, ExecutionMode.EAGER]
INPUT = torch.linspace(-1, 1, 8).reshape(2, 4)
MESSAGE = r"0\.weight: 1 of 24 elements are NaN or infinite; all must be finite"


def model_with(bad: float, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).to(dtype).eval()
    with torch.no_grad():
        model[0].weight[2, 3] = bad
    return model


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_prepare_refuses_a_weight_that_is_not_finite_by_its_name(bad, dtype, mode):
    quantizer = Quantizer(model_with(bad, dtype), QuantizerConfig(execution_mode=mode))
    with pytest.raises(QuantizationError, match=MESSAGE):
        quantizer.prepare((INPUT.to(dtype),))


@pytest.mark.parametrize("mode", MODES)
def test_finalize_refuses_a_weight_that_training_made_nan(mode):
    quantizer = Quantizer(model_with(0.5), QuantizerConfig(execution_mode=mode))
    prepared = quantizer.prepare((INPUT,))
    with quantizer.calibration_mode():
        prepared(INPUT)
    weight = dict(prepared.named_parameters())["0.weight"]
    with torch.no_grad():
        weight[2, 3] = torch.nan
    with pytest.raises(QuantizationError, match=MESSAGE):
        quantizer.finalize()


def test_a_weight_under_a_folded_norm_is_named_as_the_user_named_it():
    model = nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6)).eval()
    with torch.no_grad():
        model[0].weight[2, 3] = torch.inf
    with pytest.raises(QuantizationError, match=MESSAGE):
        Quantizer(model).prepare((INPUT.unsqueeze(2),))


@pytest.mark.parametrize("mode", MODES)
def test_a_weight_that_is_not_quantized_may_be_anything(mode):
    config = QuantizerConfig(
        global_config=ModuleQuantizerConfig(), module_name_configs={"0": None}, execution_mode=mode
    )
    model = model_with(torch.inf)
    prepared = Quantizer(model, config).prepare((INPUT,))
    assert torch.equal(dict(prepared.named_parameters())["0.weight"], model[0].weight)


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_a_weight_without_elements_is_named(mode):
    model = nn.Sequential(nn.Linear(0, 4))
    quantizer = Quantizer(model, QuantizerConfig(execution_mode=mode))
    with pytest.raises(QuantizationError, match=r"0\.weight of shape \(4, 0\) has no elements to quantize"):
        quantizer.prepare((torch.ones(2, 0),))
