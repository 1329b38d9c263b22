"""Selection of ranges, codes and corrections by the output error on held-out batches."""

from __future__ import annotations

import copy
import warnings
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import nn

from graphpress.backends import coreai
from graphpress.config import SpecError
from graphpress.quantization import InvalidExecutionModeError, Quantizer, QuantizerConfig, smoothing
from graphpress.quantization.config import Selection
from graphpress.quantization.refinement import selection
from graphpress.quantization.refinement.layers import refinable_layers
from graphpress.quantization.refinement.outputs import OutputError
from graphpress.quantization.refinement.refine import Choice
from graphpress.quantization.switches import quantizers_of
from tests.graphpress.quantization import outliers
from tests.graphpress.quantization.outliers import three_layers
from tests.graphpress.quantization.test_placement_matmul_inputs import batch, decibels, encoder

HELD_OUT = 4


def best(**options):
    config = QuantizerConfig.presets.best()
    config.selection = Selection(**options)
    return config


@cache
def others(make, **options):
    """The error of a model that was calibrated with another config, by what makes the model."""
    model = make()
    return held_out_error(model, calibrated(model, QuantizerConfig(**options))[1])


def calibrated(model, config, batches=None, **options):
    batches = batches or [batch(seed) for seed in range(HELD_OUT + 1)]
    quantizer = Quantizer(model, config)
    prepared = quantizer.prepare((batches[0],))
    with quantizer.calibration_mode(**options):
        for each in batches:
            prepared(each)
    return quantizer, prepared


def steps(quantizer):
    return quantizer._execution.refinement.steps


def held_out_error(model, prepared):
    with torch.no_grad():
        return decibels(model(batch(HELD_OUT)), prepared(batch(HELD_OUT)))


def conv_net():
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    return nn.Sequential(nn.Unflatten(1, (8, 1)), *layers, nn.Flatten(), nn.Linear(8 * 32, 5)).eval()


# smoothing


def test_smoothing_is_kept_where_channels_are_outliers():
    model = outliers.encoder()
    data = outliers.batches(model)
    quantizer, prepared = calibrated(model, best(), data)
    assert steps(quantizer)[0].choice is Choice.SMOOTHED
    config = best()
    config.smooth_layers = None
    _, plain = calibrated(model, config, data)
    with torch.no_grad():
        expected, new = model(data[-1]), outliers.batches(model, seed=9)[0]
        assert decibels(expected, prepared(data[-1])) > decibels(expected, plain(data[-1])) + 3
        assert decibels(model(new), prepared(new)) > decibels(model(new), plain(new)) + 3


def test_weights_have_ranges_of_least_error_after_smoothing():
    model = outliers.encoder()
    quantizer, prepared = calibrated(model, best(), outliers.batches(model))
    kept = {step.choice for step in steps(quantizer)}
    assert Choice.SMOOTHED in kept
    assert Choice.WEIGHT_RANGES not in kept
    layers = [layer for layer in refinable_layers(prepared) if layer.takes_codes]
    assert layers
    for layer in layers:
        searched = torch.stack(layer.quantizer.calculator.search(layer.read_weight()))
        assert torch.equal(layer.quantizer.chosen_range, searched)


def test_smoothing_that_raises_the_error_is_undone(monkeypatch):
    def damage(self, place, found, strength):
        return torch.where(place.free, torch.logspace(-3, 3, len(place.free), dtype=torch.float64), 1.0)

    model = outliers.encoder()
    data = outliers.batches(model)
    config = best()
    config.smooth_layers = None
    _, expected = calibrated(model, config, data)
    monkeypatch.setattr(smoothing.SmoothedLayers, "_factor", damage)
    quantizer, prepared = calibrated(model, best(), data)
    assert Choice.SMOOTHED not in {step.choice for step in steps(quantizer)}
    assert all(bool((factor == 1).all()) for name, factor in prepared.named_buffers() if name.endswith("_smoothing"))
    with torch.no_grad():
        torch.testing.assert_close(prepared(data[0]), expected(data[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantizer.finalize()


# what is kept


@pytest.mark.parametrize("make", [encoder, conv_net])
def test_every_step_lowers_the_error_and_all_go_below_single_options(make):
    model = make()
    quantizer, prepared = calibrated(model, best())
    found = steps(quantizer)
    assert found
    assert all(step.after > step.before for step in found)
    assert all(one.after == other.before for one, other in pairwise(found))
    assert held_out_error(model, prepared) == pytest.approx(found[-1].after, abs=1e-3)
    assert found[-1].after > others(make) + 1
    assert found[-1].after > others(make, weight_rounding="gptq") + 1
    assert found[-1].after > others(make, bias_correction="empirical") + 1


def test_codes_that_raise_the_error_are_undone(monkeypatch):
    def damage(layer, exact, rounded, config, report):
        layer.quantizer.code_offset = torch.randint(-60, 60, layer.matrix.shape, dtype=torch.int8)
        if layer.correction is not None:
            layer.correction.add_(1)

    monkeypatch.setattr(selection, "refine_layer", damage)
    quantizer, prepared = calibrated(three_layers(), best())
    assert not {Choice.CODES, Choice.BIAS} & {step.choice for step in steps(quantizer)}
    assert all(each.code_offset is None for each in quantizers_of(prepared))
    assert not any(bool(buffer.any()) for buffer in selection.correction_buffers(prepared))


def test_codes_are_chosen_for_each_layer_if_they_raise_the_error_in_all(monkeypatch):
    refine_layer = selection.refine_layer

    def damage_the_last(layer, exact, rounded, config, report):
        refine_layer(layer, exact, rounded, config, report)
        if layer.node.name == "linear_2":
            layer.quantizer.code_offset = torch.randint(-60, 60, layer.matrix.shape, dtype=torch.int8)

    monkeypatch.setattr(selection, "refine_layer", damage_the_last)
    monkeypatch.setattr(selection, "_FALLS_BY_ONE", 1.0)
    quantizer, _ = calibrated(three_layers(), best())
    kept = [step.name for step in steps(quantizer) if step.choice is Choice.CODES]
    assert kept
    assert not {"", "linear_2"} & set(kept)


# removal


def removed(prepared):
    return [each.name for each in quantizers_of(prepared) if each.removed is not None]


def test_few_quantizers_are_removed_and_only_for_a_gain():
    assert removed(calibrated(three_layers(), best(most_removed=0.0))[1]) == []
    assert removed(calibrated(three_layers(), best(least_gain=50.0))[1]) == []
    quantizer, prepared = calibrated(three_layers(), best(most_removed=0.4))
    names = removed(prepared)
    assert 0 < len(names) <= 0.4 * 3
    gains = [step.after - step.before for step in steps(quantizer) if step.choice is Choice.REMOVED]
    assert len(gains) == len(names)
    assert min(gains) >= Selection().least_gain


def test_the_finalized_model_has_no_removed_quantizer_and_runs_in_core_ai(tmp_path):
    quantizer, prepared = calibrated(three_layers(), best(most_removed=0.4))
    finalized = quantizer.finalize()
    with torch.no_grad():
        torch.testing.assert_close(finalized(batch(9)), prepared(batch(9)), rtol=0, atol=1e-5)
    kept = [each for each in quantizers_of(prepared) if not each.is_state and each.removed is None]
    codes = [node for node in finalized.graph.nodes if "_quantize" in node.name and "weight" not in node.name]
    assert len(codes) == len(kept)
    coreai.convert(finalized, tmp_path / "model.aimodel", (batch(),))
    assert coreai.check(tmp_path / "model.aimodel", finalized, (batch(9),)).ok


def test_choices_go_through_a_state_dict_a_copy_and_a_cast():
    _, prepared = calibrated(three_layers(), best(most_removed=0.4))
    assert any(each.chosen_range is not None for each in quantizers_of(prepared))
    loaded = Quantizer(three_layers(), best()).prepare((batch(),), state_dict=prepared.state_dict())
    assert removed(loaded) == removed(prepared)
    with torch.no_grad():
        assert torch.equal(loaded(batch(9)), prepared(batch(9)))
        assert torch.equal(copy.deepcopy(prepared)(batch(9)), prepared(batch(9)))
    chosen = [q.chosen_range for q in quantizers_of(copy.deepcopy(prepared).half()) if q.chosen_range is not None]
    assert {each.dtype for each in chosen} == {torch.float32}


def test_a_second_calibration_starts_afresh():
    quantizer, prepared = calibrated(three_layers(), best(most_removed=0.4))
    names = removed(prepared)
    with quantizer.calibration_mode():
        prepared(batch(0))
        assert removed(prepared) == []
    with quantizer.calibration_mode():
        pass
    assert names
    assert steps(quantizer)


# data and time


def test_one_batch_serves_for_both():
    model = three_layers()
    prepared = calibrated(model, best(), [batch(HELD_OUT)])[1]
    assert held_out_error(model, prepared) > others(three_layers) + 1


@pytest.mark.parametrize(("share", "fitted"), [(0.0, 9), (0.2, 8), (0.5, 5), (1.0, 1)])
def test_the_last_batches_are_held_out_but_never_all(share, fitted):
    assert selection._divided(range(10), share) == (range(fitted), range(fitted, 10))


def test_without_time_nothing_is_tried_for_single_quantizers_and_layers():
    quantizer, prepared = calibrated(three_layers(), best(seconds=0))
    assert {step.name for step in steps(quantizer)} <= {""}
    assert removed(prepared) == []


def test_progress_is_told_up_to_the_end():
    seen = []
    calibrated(three_layers(), best(), progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1]


def test_a_model_whose_outputs_are_integers_is_only_calibrated():
    class Classifier(nn.Sequential):
        def forward(self, x):
            return super().forward(x).argmax(-1)

    quantizer, prepared = calibrated(Classifier(nn.Linear(32, 4)).eval(), best())
    assert steps(quantizer) == []
    assert all(each.qparams() is not None for each in quantizers_of(prepared) if not each.is_state)


def test_the_number_of_runs_is_linear_in_the_number_of_layers(monkeypatch):
    def runs(layers):
        counted = []
        for name in ("whole", "resumed"):
            measure = getattr(OutputError, name)
            monkeypatch.setattr(OutputError, name, lambda *a, m=measure: counted.append(1) or m(*a))
        torch.manual_seed(0)
        model = nn.Sequential(*(layer for _ in range(layers) for layer in (nn.Linear(32, 32), nn.ReLU())))
        calibrated(model.eval(), best())
        monkeypatch.undo()
        return len(counted)

    assert runs(8) <= 2.2 * runs(4)


# configs


def test_it_survives_yaml_and_names_what_is_wrong():
    config = QuantizerConfig(selection=Selection(seconds=60, held_out=0.5))
    assert QuantizerConfig.from_yaml(config.to_yaml()) == config
    assert config.learns_from_calibration
    with pytest.raises(SpecError, match=r"selection.*seconds.*from 0"):
        QuantizerConfig.from_dict({"quantization_config": {"selection": {"seconds": -1}}})
    with pytest.raises(SpecError, match=r"seconds.*QuantizerConfig.presets"):
        type(config.global_config).presets.best(seconds=3)


def test_eager_mode_refuses_it():
    config = QuantizerConfig(selection=Selection(), execution_mode="eager")
    with pytest.raises(InvalidExecutionModeError, match="selection"):
        Quantizer(three_layers(), config).prepare((batch(),))
