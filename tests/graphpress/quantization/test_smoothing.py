"""Smoothed layers of the quantizer: factors from calibration data, ranges after them, and assets."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from graphpress.backends import coreai
from graphpress.quantization import Quantizer, QuantizerConfig, UncalibratedWarning
from graphpress.quantization.config import InvalidExecutionModeError
from graphpress.quantization.refinement import calibration
from graphpress.quantization.switches import quantizers_of, switched
from tests.graphpress.quantization.outliers import batches, encoder, snr


def observe(quantizer: Quantizer, prepared: nn.Module, data) -> None:
    with quantizer.calibration_mode():
        for batch in data:
            prepared(batch)


def calibrated(model: nn.Module, data=None, **options):
    data = batches(model) if data is None else data
    quantizer = Quantizer(model, QuantizerConfig(**options))
    prepared = quantizer.prepare((data[0],))
    observe(quantizer, prepared, data)
    return quantizer, prepared


def factors(prepared) -> dict[str, torch.Tensor]:
    return {name: buffer for name, buffer in prepared.named_buffers() if name.endswith("_smoothing")}


def test_smoothing_keeps_more_of_a_model_with_outlier_channels():
    model = encoder()
    _, plain = calibrated(model)
    _, smooth = calibrated(model, smooth_layers=True)
    held_out = batches(model, seed=9)[0]
    with torch.no_grad():
        expected = model(held_out)
        assert snr(expected, plain(held_out)) < 20
        assert snr(expected, smooth(held_out)) > 28


def test_the_float_model_inside_stays_the_same():
    model = encoder()
    _, prepared = calibrated(model, smooth_layers=True)
    x = batches(model, seed=9)[0]
    assert any(bool((factor != 1).any()) for factor in factors(prepared).values())
    with torch.no_grad(), switched(prepared, observer=False, fake_quant=False):
        torch.testing.assert_close(prepared(x), model(x), rtol=1e-4, atol=1e-4)


def test_the_factors_are_those_of_the_formula():
    model = encoder()
    data = batches(model)
    _, prepared = calibrated(model, data, smooth_layers=0.7)
    seen = []
    handle = model.layers[0].norm.register_forward_hook(lambda *call: seen.append(call[2].abs().amax((0, 1))))
    with torch.no_grad():
        for batch in data:
            model(batch)
    handle.remove()
    layer = model.layers[0]
    weight = torch.cat([part.weight for part in (layer.query, layer.key, layer.value)]).abs().amax(0)
    wanted = torch.stack(seen).amax(0) ** 0.7 / weight**0.3
    torch.testing.assert_close(factors(prepared)["rms_norm_smoothing"], wanted, rtol=1e-4, atol=0)


def test_ranges_are_those_of_the_smoothed_activations():
    model = encoder()
    data = batches(model)
    spec = {"qparam_calculator_cls": "global_minmax", "dtype": "int8"}
    options = {"global_config": {"op_input_spec": {"*": spec}, "op_output_spec": {"*": spec}}}
    _, prepared = calibrated(model, data, smooth_layers=True, **options)
    ranges = {quantizer.name: quantizer.calculator for quantizer in quantizers_of(prepared) if not quantizer.is_state}
    before = {name: (each.running_min.clone(), each.running_max.clone()) for name, each in ranges.items()}
    with torch.no_grad(), switched(prepared, observer=True, fake_quant=False):
        for batch in data:
            prepared(batch)
    for name, calculator in ranges.items():
        assert torch.equal(calculator.running_min, before[name][0]), name
        assert torch.equal(calculator.running_max, before[name][1]), name


def test_a_second_calibration_starts_from_the_model_as_it_was():
    model = encoder()
    first, second = batches(model), batches(model, seed=5)
    quantizer, prepared = calibrated(model, first, smooth_layers=True)
    observe(quantizer, prepared, second)
    _, expected = calibrated(model, second, smooth_layers=True)
    for name, factor in factors(expected).items():
        assert torch.equal(factors(prepared)[name], factor)
    x = batches(model, seed=9)[0]
    with torch.no_grad():
        assert torch.equal(prepared(x), expected(x))


def test_a_calibration_without_data_or_with_an_error_changes_nothing():
    model = encoder()
    quantizer, prepared = calibrated(model, smooth_layers=True)
    before, x = copy.deepcopy(factors(prepared)), batches(model, seed=9)[0]
    with torch.no_grad():
        expected = prepared(x)
    with quantizer.calibration_mode():
        pass
    with pytest.raises(IndexError):
        observe(quantizer, prepared, [*batches(model, seed=5), x + 40])  # beyond the embedding
    with torch.no_grad():
        assert torch.equal(prepared(x), expected)
    for name, factor in factors(prepared).items():
        assert torch.equal(factor, before[name])


def test_finalized_and_prepared_models_agree_bit_for_bit():
    model = encoder()
    quantizer, prepared = calibrated(model, smooth_layers=True, weight_rounding="gptq", bias_correction="empirical")
    finalized = quantizer.finalize()
    x = batches(model, seed=9)[0]
    with torch.no_grad():
        torch.testing.assert_close(finalized(x), prepared(x), rtol=0, atol=1e-5)
    assert not any("smoothing" in name for name, _ in finalized.named_buffers())


def test_the_state_dict_holds_the_factors():
    model = encoder()
    data = batches(model)
    _, prepared = calibrated(model, data, smooth_layers=True)
    loaded = Quantizer(model, QuantizerConfig(smooth_layers=True)).prepare((data[0],), state_dict=prepared.state_dict())
    x = batches(model, seed=9)[0]
    with torch.no_grad():
        assert torch.equal(loaded(x), prepared(x))


def test_finalizing_without_data_warns():
    model = encoder()
    quantizer = Quantizer(model, QuantizerConfig(smooth_layers=True))
    quantizer.prepare((batches(model)[0],))
    with pytest.warns(UncalibratedWarning, match="smooth_layers had no data"):
        quantizer.finalize()


def test_batches_beyond_the_memory_are_named(monkeypatch):
    model = encoder()
    monkeypatch.setattr(calibration.refined_after.__wrapped__, "__defaults__", (1,))
    with pytest.warns(calibration.CalibrationMemoryWarning, match="2 calibration batches .* smooth layers"):
        calibrated(model, batches(model, 3), smooth_layers=True)


def test_eager_mode_refuses_it():
    with pytest.raises(InvalidExecutionModeError, match="smooth_layers cannot be used in execution_mode 'eager'"):
        Quantizer(encoder(), QuantizerConfig(smooth_layers=True, execution_mode="eager")).prepare(
            (batches(encoder())[0],)
        )


def test_the_asset_computes_what_the_finalized_model_does(tmp_path):
    model = encoder()
    quantizer, _ = calibrated(model, smooth_layers=True)
    finalized, x = quantizer.finalize(), batches(model, seed=9)[0]
    path = tmp_path / "smoothed.aimodel"
    coreai.convert(finalized, path, (x,))
    report = coreai.check(path, finalized, (x,), tolerance=1e-5)
    assert report.ok, str(report)
