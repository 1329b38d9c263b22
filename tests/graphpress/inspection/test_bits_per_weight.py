"""Bits per weight are counted from what is stored: by hand, and by the size law of the saved asset."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from graphpress import ExportBackend
from graphpress.backends import coreai
from graphpress.compressor import ArgumentTypeError
from graphpress.inspection import bits_per_weight
from graphpress.inspection.bits import NoWeightsError
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.spec import PerChannelGranularity

IMAGE = torch.randn(1, 3, 8, 8)
CONV, LINEAR = 16 * 3 * 3 * 3, 32 * 16


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16, 32)).eval()


def quantizer_of(config: QuantizerConfig, model: nn.Module | None = None) -> tuple[Quantizer, nn.Module]:
    quantizer = Quantizer(net() if model is None else model, config)
    prepared = quantizer.prepare((IMAGE,))
    with quantizer.calibration_mode():
        prepared(IMAGE)
    return quantizer, prepared


def palettized(**options) -> KMeansPalettizer:
    spec = PalettizationSpec(**options)
    config = KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec}))
    palettizer = KMeansPalettizer(net(), config)
    palettizer.prepare((IMAGE,))
    return palettizer


def test_a_model_as_it_came_has_the_bits_of_its_dtype():
    assert bits_per_weight(net()) == 32
    assert bits_per_weight(net().half()) == 16


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    model.append(nn.Linear(8, 4, bias=False).half())
    assert bits_per_weight(model) == (64 * 32 + 32 * 16) / 96


@pytest.mark.parametrize(("preset", "bits"), [("w8", 8), ("w4", 4)])
def test_quantized_weights_count_codes_and_scales_prepared_and_finalized(preset, bits):
    quantizer, prepared = quantizer_of(getattr(QuantizerConfig.presets, preset)())
    expected = bits + (16 + 32) * 32 / (CONV + LINEAR)  # a float32 scale for each output channel
    assert bits_per_weight(prepared) == pytest.approx(expected)
    assert bits_per_weight(quantizer.finalize()) == pytest.approx(expected)


def test_what_is_left_whole_counts_whole():
    config = QuantizerConfig(module_name_configs={"5": None})
    quantizer, prepared = quantizer_of(config)
    expected = (CONV * 8 + 16 * 32 + LINEAR * 32) / (CONV + LINEAR)
    assert bits_per_weight(prepared) == pytest.approx(expected)
    assert bits_per_weight(quantizer.finalize()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"n_bits": 4}, 4 * (CONV + LINEAR) + 2 * 16 * 32),
        ({"n_bits": 2}, 2 * (CONV + LINEAR) + 2 * 4 * 32),
        ({"n_bits": 4, "lut_qspec": QuantizationSpec(dtype=torch.int8)}, 4 * (CONV + LINEAR) + 2 * (16 * 8 + 32)),
        ({"n_bits": 4, "enable_per_channel_scale": True}, 4 * (CONV + LINEAR) + 2 * 16 * 32 + (16 + 32) * 32),
    ],
)
def test_palettized_weights_count_indices_tables_and_scales(options, bits):
    palettizer = palettized(**options)
    expected = bits / (CONV + LINEAR)
    assert bits_per_weight(palettizer.prepared_model) == pytest.approx(expected)
    assert bits_per_weight(palettizer.finalize(backend=ExportBackend.CoreAI)) == pytest.approx(expected)
    assert bits_per_weight(palettizer.finalize(backend=ExportBackend.CoreML)) == pytest.approx(expected)


def test_a_jointly_compressed_model_counts_its_tables():
    finalized = palettized(n_bits=4).finalize()
    activations = QuantizerConfig(global_config=ModuleQuantizerConfig(op_state_spec=None))
    quantizer, prepared = quantizer_of(activations, finalized)
    expected = 4 + 2 * 16 * 32 / (CONV + LINEAR)
    assert bits_per_weight(prepared) == pytest.approx(expected)
    folded = expected + 16 * 32 / (CONV + LINEAR)  # the batch norm's factors became scales beside the table
    assert bits_per_weight(quantizer.finalize()) == pytest.approx(folded)


@pytest.mark.parametrize("preset", ["w8", "w4"])
def test_the_saved_asset_takes_that_many_bits(preset, tmp_path):
    quantizer, _ = quantizer_of(getattr(QuantizerConfig.presets, preset)())
    finalized = quantizer.finalize()
    coreai.convert(finalized, tmp_path / "net.aimodel", (IMAGE,))
    weights = bits_per_weight(finalized) * (CONV + LINEAR) / 8
    others = coreai.weight_bytes(tmp_path / "net.aimodel") - weights
    assert 0 <= others <= 4 * (16 + 32) + 64  # two biases, and what shapes take


@pytest.mark.parametrize(("scale_dtype", "scale_bits"), [(None, 32), ("float16", 16)])
def test_blocks_of_four_bits_take_their_codes_and_one_scale_for_each_block_in_the_asset(
    scale_dtype, scale_bits, tmp_path
):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 32, 3, bias=False), nn.ReLU(), nn.Flatten(2), nn.Linear(64, 128, bias=False))
    x = torch.randn(1, 64, 10, 10)
    quantizer = Quantizer(model.eval(), QuantizerConfig.presets.w4_per_block(scale_dtype=scale_dtype))
    quantizer.prepare((x,))
    finalized, path = quantizer.finalize(), tmp_path / "net.aimodel"
    coreai.convert(finalized, path, (x,))

    weights = 32 * 64 * 9 + 128 * 64
    blocks = 32 * 64 // 32 + 128 * 64 // 32  # 32 input channels, with the whole kernel
    law = (4 * weights + scale_bits * blocks) // 8
    packed = [
        constant
        for constant in coreai.read(path).constants
        if {"blockwise_shift_scale.data", "blockwise_shift_scale.scale"} & set(constant.used_by)
    ]
    assert sorted(constant.dtype.bits for constant in packed) == [4, 4, scale_bits, scale_bits]
    assert sum(constant.stored_bytes for constant in packed) == law
    assert bits_per_weight(finalized) == pytest.approx(8 * law / weights)
    assert coreai.weight_bytes(path) - law <= 64  # what shapes take
    report = coreai.check(path, finalized, (x,))
    assert report.ok, report


def test_counting_changes_nothing():
    _, prepared = quantizer_of(QuantizerConfig())
    prepared.train()
    before, output = {k: v.clone() for k, v in prepared.state_dict().items()}, prepared.eval()(IMAGE)
    prepared.train()
    bits_per_weight(prepared)
    assert prepared.training
    assert all(torch.equal(v, before[k]) for k, v in prepared.state_dict().items())
    assert torch.equal(prepared.eval()(IMAGE), output)


def test_what_has_no_weights_is_told():
    with pytest.raises(NoWeightsError, match="ReLU has no floating parameters"):
        bits_per_weight(nn.ReLU())
    with pytest.raises(ArgumentTypeError, match=r"takes a torch\.nn\.Module"):
        bits_per_weight({"weight": IMAGE})


def test_the_result_is_a_number_with_its_counts():
    quantizer, prepared = quantizer_of(QuantizerConfig(module_name_configs={"5": None}))
    for model in (prepared, quantizer.finalize()):
        found = bits_per_weight(model)
        assert found == found.bpw == found.total_bits / found.total_weights
        assert found.total_weights == CONV + LINEAR
        assert found.total_bits == CONV * 8 + 16 * 32 + LINEAR * 32
        assert found.per_module_map == pytest.approx({"0": 8 + 16 * 32 / CONV, "5": 32})
    assert pickle.loads(pickle.dumps(found)).per_module_map == found.per_module_map


@pytest.mark.parametrize("dtype", ["int8", "int6", "uint6", "int4"])
def test_weights_prepared_in_eager_mode_are_counted_without_inputs(dtype):
    spec = QuantizationSpec(dtype=dtype, granularity=PerChannelGranularity())
    config = ModuleQuantizerConfig(op_input_spec=None, op_output_spec=None, op_state_spec={"weight": spec})
    _, prepared = quantizer_of(QuantizerConfig(global_config=config, execution_mode="eager"))
    channels = 16 + 32
    zero_points = channels * spec.n_bits if dtype.startswith("u") else 0
    assert bits_per_weight(prepared).total_bits == spec.n_bits * (CONV + LINEAR) + 32 * channels + zero_points
