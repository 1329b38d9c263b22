"""Rotated residual streams of the quantizer: accuracy, training, state dicts, refusals and assets."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from graphpress.backends import coreai
from graphpress.quantization import Quantizer, QuantizerConfig
from graphpress.quantization.config import InvalidExecutionModeError
from graphpress.quantization.graph_mode import UnrotatedWarning
from graphpress.quantization.switches import switched
from tests.graphpress.quantization.outliers import batches, encoder, snr, with_outliers_in_the_stream


def calibrated(model: nn.Module, **options):
    data = batches(model)
    quantizer = Quantizer(model, QuantizerConfig(**options))
    prepared = quantizer.prepare((data[0],))
    with quantizer.calibration_mode():
        for batch in data:
            prepared(batch)
    return quantizer, prepared


def test_rotation_keeps_more_of_a_model_with_outliers_in_its_stream():
    model = with_outliers_in_the_stream(encoder())
    x = batches(model, seed=9)[0]
    _, smooth = calibrated(model, smooth_layers=True)
    _, both = calibrated(model, rotate_residual=True, smooth_layers=True)
    with torch.no_grad():
        expected = model(x)
        assert snr(expected, both(x)) > snr(expected, smooth(x)) + 6


def test_the_float_model_inside_stays_the_same():
    model = with_outliers_in_the_stream(encoder())
    _, prepared = calibrated(model, rotate_residual=True, smooth_layers=True)
    x = batches(model, seed=9)[0]
    with torch.no_grad(), switched(prepared, observer=False, fake_quant=False):
        torch.testing.assert_close(prepared(x), model(x), rtol=1e-3, atol=1e-3)


def test_finalized_and_prepared_models_agree():
    model = with_outliers_in_the_stream(encoder())
    quantizer, prepared = calibrated(model, rotate_residual=True, weight_rounding="gptq")
    finalized = quantizer.finalize()
    x = batches(model, seed=9)[0]
    with torch.no_grad():
        torch.testing.assert_close(finalized(x), prepared(x), rtol=0, atol=1e-5)
    assert not any("rotation" in name for name, _ in finalized.named_buffers())


def test_the_original_parameters_can_be_trained():
    model = encoder()
    quantizer, prepared = calibrated(model, rotate_residual=True)
    with quantizer.training_mode():
        prepared(batches(model)[0]).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in prepared.named_parameters()}
    for name in ("embedding.weight", "layers.0.norm.weight", "layers.1.down.weight", "layers.1.down.bias"):
        assert gradients[name] is not None, name
        assert bool(gradients[name].any()), name


def test_a_model_that_cannot_be_rotated_is_told_why():
    model = nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8, elementwise_affine=False), nn.ReLU()).eval()
    quantizer = Quantizer(model, QuantizerConfig(rotate_residual=True))
    with pytest.warns(UnrotatedWarning, match="rotates nothing in this model: relu .* reads it"):
        quantizer.prepare((torch.randn(2, 8),))
    with pytest.warns(UnrotatedWarning, match="it has no norm over its last axis"):
        Quantizer(model[:1], QuantizerConfig(rotate_residual=True)).prepare((torch.randn(2, 8),))


def test_a_model_that_is_rotated_causes_no_warning():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        calibrated(encoder(), rotate_residual=True)
    assert not [each for each in seen if issubclass(each.category, UnrotatedWarning)]


def test_eager_mode_refuses_it():
    config = QuantizerConfig(rotate_residual=True, execution_mode="eager")
    with pytest.raises(InvalidExecutionModeError, match="rotate_residual cannot be used in execution_mode 'eager'"):
        Quantizer(encoder(), config).prepare((batches(encoder())[0],))


def test_the_asset_computes_what_the_finalized_model_does(tmp_path):
    model = with_outliers_in_the_stream(encoder())
    quantizer, _ = calibrated(model, rotate_residual=True, smooth_layers=True)
    finalized, x = quantizer.finalize(), batches(model, seed=9)[0]
    path = tmp_path / "rotated.aimodel"
    coreai.convert(finalized, path, (x,))
    report = coreai.check(path, finalized, (x,), tolerance=1e-5)
    assert report.ok, str(report)
