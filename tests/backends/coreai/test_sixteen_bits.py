"""Quantization in 16 bits: the runtime's arithmetic, which the prepared and the finalized model share, without casts.

Core AI's runtime is the oracle, and numpy for the arithmetic that it is said to have.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.backends.coreai import ops
from graphpress.backends.coreai.runtime import load
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from graphpress.palettization.spec import PalettizationSpec
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig

pytestmark = pytest.mark.slow

HALVES = [torch.float16, torch.bfloat16]
ops.register()


def every_finite(dtype):
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    return values[values.isfinite()]


class Codes(nn.Module):
    """Quantizes, and dequantizes the codes."""

    def __init__(self, scale, zero_point):
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self, x):
        codes = torch.ops.coreai.quantize(x, self.scale, torch.int8, self.zero_point, None, 0)
        return codes, torch.ops.coreai.dequantize(codes, self.scale, self.zero_point, None, 0, torch.int8, None)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_runtime_divides_in_float32_and_rounds_products_once(dtype, tmp_path):
    x, scale = every_finite(dtype), torch.tensor(0.0371).to(dtype)
    zero_point = torch.tensor(-37, dtype=torch.int8)
    coreai.convert(Codes(scale, zero_point), tmp_path / "m.aimodel", (x,))
    with load(tmp_path / "m.aimodel") as model:
        codes, values = model(x)

    with np.errstate(over="ignore"):
        quotient = x.float().numpy() / scale.float().numpy()
    assert np.array_equal(codes.numpy(), np.clip(np.rint(quotient) - 37, -128, 127).astype(np.int8))
    assert torch.equal(values, ((codes.float() + 37) * scale.float()).to(dtype))
    assert torch.equal(ops.quantize(x, scale, torch.int8, zero_point), codes)
    of_torch = torch.ops.coreai.quantize(x, scale, torch.int8, zero_point, None, 0)
    assert 50 < (of_torch != codes).sum() < 500, "torch's kernel rounds the quotients to 16 bits"


def prepared_and_finalized(model, batches, mode="graph", **spec):
    each = QuantizationSpec(dtype=torch.int8, **spec)
    table = {"*": each}
    module = ModuleQuantizerConfig(op_state_spec=None, op_input_spec=table, op_output_spec=table)
    quantizer = Quantizer(model, QuantizerConfig(global_config=module, execution_mode=mode))
    prepared = quantizer.prepare((batches[0],))
    with quantizer.calibration_mode(), torch.no_grad():
        for batch in batches:
            prepared(batch)
    return prepared, quantizer.finalize()


def converted_alike(prepared, finalized, x, folder):
    """Convert, and hold the prepared, finalized and converted model to the same bits; what is stored is returned."""
    info = coreai.convert(finalized, folder / "m.aimodel", (x,))
    with load(folder / "m.aimodel") as model:
        converted = model(x)
    assert torch.equal(finalized(x), prepared(x))
    assert torch.equal(converted, finalized(x))
    return info


@pytest.mark.parametrize("qscheme", ["symmetric_with_clipping", "asymmetric"])
@pytest.mark.parametrize("mode", ["graph", "eager"])
@pytest.mark.parametrize("dtype", HALVES)
def test_prepared_finalized_and_converted_are_equal_at_every_value(dtype, mode, qscheme, tmp_path):
    x = every_finite(dtype)
    x = x[x.abs() < 6].reshape(1, -1)
    info = converted_alike(*prepared_and_finalized(nn.ReLU(), [x], mode, qscheme=qscheme), x, tmp_path)
    assert "cast" not in info.operations


def test_a_range_too_small_for_float16_has_float32_scales_and_the_same_values(tmp_path):
    x = every_finite(torch.float16)
    x = x[x.abs() < 1e-3].reshape(1, -1)
    info = converted_alike(*prepared_and_finalized(nn.ReLU(), [x]), x, tmp_path)
    assert info.operations["cast"] > 0


def test_a_palettized_bfloat16_layer_on_a_sequence_differs_by_explained_rounding_only(tmp_path):
    torch.manual_seed(0)
    x, layer = torch.randn(2, 5, 512).bfloat16(), nn.Linear(512, 32).bfloat16().eval()
    palettizer = KMeansPalettizer(layer, KMeansPalettizerConfig())
    palettizer.prepare((x,))
    finalized = palettizer.finalize()
    coreai.convert(finalized, tmp_path / "m.aimodel", (x,))
    report = coreai.check(tmp_path / "m.aimodel", finalized, (x,))
    assert report.ok, report
    assert 1e-3 < report.max_error < 0.05, "the runtime adds 512 products in bfloat16"
    finalized.weight_lut[0, 0, 7] *= 1.2
    assert not coreai.check(tmp_path / "m.aimodel", finalized, (x,)).ok


def test_core_ml_quantizes_in_float16_with_a_scale_of_float16(tmp_path):
    x = every_finite(torch.float16)
    x = x[x.abs() < 6].reshape(1, -1)
    _, finalized = prepared_and_finalized(nn.ReLU(), [x])
    info = coreml.convert(finalized, tmp_path / "m.mlpackage", (x,))
    assert "cast" not in info.operations
    assert info.operations["quantize"] == info.operations["dequantize"] > 0
    report = coreml.check(tmp_path / "m.mlpackage", finalized, (x,))
    assert report.max_error == 0, report


class Upcast(nn.Module):
    """A value-preserving op whose input another module reads in float32."""

    def forward(self, x):
        moved = x.reshape(2, -1)
        return moved.relu(), moved.float().relu()


def test_values_of_two_dtypes_keep_their_own(tmp_path):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    prepared, finalized = prepared_and_finalized(Upcast(), [x])
    coreai.convert(finalized, tmp_path / "m.aimodel", (x,))
    with load(tmp_path / "m.aimodel") as model:
        converted = model(x)
    assert [each.dtype for each in converted] == [torch.bfloat16, torch.float32]
    for ours, fake, real in zip(finalized(x), prepared(x), converted, strict=True):
        assert torch.equal(ours, fake)
        assert torch.equal(ours, real)


@pytest.mark.parametrize("dtype", HALVES)
def test_blocks_of_four_bits_take_four_and_a_half_bits_a_weight(dtype, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(3, 64).to(dtype)
    quantizer = Quantizer(nn.Linear(64, 96, bias=False).to(dtype), QuantizerConfig.presets.w4_per_block())
    prepared = quantizer.prepare((x,))
    finalized = quantizer.finalize()
    info = coreai.convert(finalized, tmp_path / "m.aimodel", (x,))
    assert "cast" not in info.operations
    stored = sum(each.stored_bytes for each in info.constants if each.used_by and each.stored_bytes > 100)
    assert stored * 8 == 64 * 96 * (4 + 16 / 32)
    assert torch.equal(finalized(x), prepared(x))
    assert coreai.check(tmp_path / "m.aimodel", finalized, (x,)).ok


@pytest.mark.parametrize("spec", [{"enable_per_channel_scale": True}, {"lut_qspec": QuantizationSpec(dtype="int8")}])
@pytest.mark.parametrize("dtype", HALVES)
def test_scales_beside_tables_need_no_cast(dtype, spec, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(3, 64).to(dtype)
    table = PalettizationSpec(n_bits=4, **spec)
    config = KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec={"weight": table}))
    palettizer = KMeansPalettizer(nn.Linear(64, 96, bias=False).to(dtype), config)
    prepared = palettizer.prepare((x,))
    finalized = palettizer.finalize()
    info = coreai.convert(finalized, tmp_path / "m.aimodel", (x,))
    assert "cast" not in info.operations
    assert torch.equal(finalized(x), prepared(x))
    assert coreai.check(tmp_path / "m.aimodel", finalized, (x,)).ok
