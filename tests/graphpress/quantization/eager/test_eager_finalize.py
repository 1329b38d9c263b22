"""Eagerly quantized models, finalized: the same numbers, in torch, in the Core AI runtime and in Core ML programs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from graphpress import ExportBackend
from graphpress.backends import coreml
from graphpress.backends.coreai import check, convert, read
from graphpress.backends.errors import LoweringError
from graphpress.ir.dtypes import DType
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig
from graphpress.passes.config import default_weight_quantization_spec
from graphpress.passes.weights.errors import QuantizationError
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.spec import PerBlockGranularity, PerChannelGranularity
from tests.graphpress.eager.eager_models import Branching, ConvNet, calibrated, eager, prepared, random, seeded
from tests.graphpress.palettization.test_palettizer_backends import decompressed

OBSERVED = "_graphpress_observed"
IMAGE = random(4, 3, 8, 8)
EVERY_WEIGHT = {"*": default_weight_quantization_spec()}
SPECS = {
    "int8": {"dtype": "int8"},
    "uint8": {"dtype": "uint8", "qscheme": "asymmetric"},
    "int4": {"dtype": "int4"},
    "uint4": {"dtype": "uint4", "qscheme": "asymmetric"},
    "clipped": {"dtype": "int8", "qscheme": "symmetric_with_clipping"},
    "minval": {"dtype": "int8", "qscheme": "asymmetric", "qformulation": "minval"},
    "e4m3": {"dtype": "float8_e4m3fn"},
    "e5m2": {"dtype": "float8_e5m2"},
}


def both(name):
    """Weights per channel and activations per tensor, of one kind."""
    activation = {"*": QuantizationSpec(**SPECS[name])}
    weight = QuantizationSpec(**SPECS[name], granularity=PerChannelGranularity())
    return eager(
        op_input_spec=activation, op_output_spec=activation, op_state_spec={"weight": weight, "mixing": weight}
    )


def weights_of(model):
    """Every quantized weight as the model reads it, by name."""
    found = {}
    for path, module in model.named_modules():
        for name in ("weight", "in_proj_weight", "mixing"):
            value = getattr(module, name, None)
            if isinstance(value, torch.Tensor) and value.ndim >= 2:
                found[f"{path}.{name}"] = value.detach()
    return found


@pytest.mark.parametrize("name", SPECS)
def test_finalized_is_prepared_bit_for_bit(name):
    quantizer, module = calibrated(seeded(ConvNet), IMAGE, both(name))
    finalized = quantizer.finalize()
    with torch.no_grad():
        expected, kept = weights_of(module), weights_of(finalized)
        assert len(expected) == 5
        assert all(torch.equal(expected[weight], kept[weight]) for weight in expected)
        assert torch.equal(finalized(IMAGE), module(IMAGE))
        program = torch.export.export(finalized, (IMAGE,))
        if SPECS[name]["dtype"] not in ("int4", "uint4"):  # torch has no kernels for those
            assert torch.equal(program.module()(IMAGE), finalized(IMAGE))
    assert not any(isinstance(m, FakeQuantizeImplBase) for m in finalized.modules())
    assert not any(p.ndim >= 2 for p in finalized.parameters())


@pytest.mark.parametrize(
    "name", [name if name in ("int8", "e4m3") else pytest.param(name, marks=pytest.mark.slow) for name in SPECS]
)
def test_the_core_ai_runtime_computes_the_same(name, tmp_path):
    quantizer, _ = calibrated(seeded(ConvNet), IMAGE, both(name))
    finalized = quantizer.finalize()
    convert(finalized, tmp_path / "model.aimodel", (IMAGE,))
    report = check(tmp_path / "model.aimodel", finalized, (IMAGE,), tolerance=1 / 255)
    assert report.ok, str(report)
    stored = {constant.dtype for constant in read(tmp_path / "model.aimodel").constants}
    assert DType.of(SPECS[name]["dtype"]) in stored


def test_a_wrong_scale_would_be_noticed(tmp_path):
    quantizer, module = calibrated(seeded(ConvNet), IMAGE, both("int8"))
    finalized = quantizer.finalize()
    wrong = next(buffer for name, buffer in finalized.named_buffers() if name == "fc._quantizers.linear_output.scale")
    wrong *= 1.5
    assert not torch.allclose(finalized(IMAGE), module(IMAGE), atol=1 / 255)


@pytest.mark.parametrize(
    "spec",
    [
        QuantizationSpec(dtype="int8", granularity=PerChannelGranularity()),
        QuantizationSpec(dtype="int4", granularity=PerBlockGranularity(block_size=4)),
        QuantizationSpec(dtype="uint8", qscheme="asymmetric"),
        QuantizationSpec(dtype="float4_e2m1fn", granularity=PerBlockGranularity(block_size=8)),
        QuantizationSpec(dtype="float8_e5m2", granularity=PerChannelGranularity()),
    ],
)
def test_weights_are_those_of_graph_mode(spec):
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)
            self.up = nn.ConvTranspose2d(8, 8, 2)
            self.fc = nn.Linear(8, 16)
            self.mixing = nn.Parameter(torch.randn(16, 8))

        def forward(self, x):
            return self.fc(self.up(self.conv(x)).mean((2, 3))) @ self.mixing

    model, x = seeded(Layers), random(2, 8, 4, 4)
    outputs = []
    for mode in ("graph", "eager"):
        config = QuantizerConfig(
            execution_mode=mode,
            global_config=ModuleQuantizerConfig(
                op_input_spec=None, op_output_spec=None, op_state_spec={"weight": spec}
            ),
        )
        _, module = prepared(model, x, config)
        outputs.append(module(x).detach())
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], model(x))


def test_finalize_twice_and_for_both_backends_leaves_the_prepared_model_to_go_on():
    quantizer, module = calibrated(seeded(ConvNet), IMAGE)
    before = module(IMAGE).detach()
    first, second = quantizer.finalize(), quantizer.finalize(backend=ExportBackend.CoreML)
    assert torch.equal(first(IMAGE), second(IMAGE))
    assert torch.equal(module(IMAGE), before)
    with quantizer.calibration_mode():
        module(2 * IMAGE)
    assert not torch.equal(quantizer.finalize()(IMAGE), first(IMAGE))


def test_finalized_models_copy_and_save(tmp_path):
    quantizer, _ = calibrated(seeded(ConvNet), IMAGE)
    finalized = quantizer.finalize()
    assert torch.equal(copy.deepcopy(finalized)(IMAGE), finalized(IMAGE))
    torch.save(finalized, tmp_path / "model.pt")
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=False)(IMAGE), finalized(IMAGE))


def test_packed_weights_are_mapped_from_files(tmp_path):
    quantizer, _ = calibrated(seeded(ConvNet), IMAGE)
    finalized = quantizer.finalize(mmap_dir=str(tmp_path))
    assert any(tmp_path.iterdir())
    assert torch.equal(finalized(IMAGE), quantizer.finalize()(IMAGE))


def test_a_finalized_model_without_activations_watches_nothing():
    quantizer, module = prepared(seeded(ConvNet), IMAGE, eager(ModuleQuantizerConfig.presets.w8()))
    finalized = quantizer.finalize()
    with torch.no_grad():
        assert torch.equal(finalized(IMAGE), module(IMAGE))
    assert not any(OBSERVED in vars(m) for m in finalized.modules())
    torch.export.export(finalized, (IMAGE,))


def test_a_branch_can_be_exported_where_its_condition_is_fixed():
    class Fixed(Branching):
        def forward(self, x):
            return self.up(self.fc(x)) + x

    quantizer, module = calibrated(seeded(Fixed), random(2, 8))
    finalized = quantizer.finalize()
    program = torch.export.export(finalized, (random(2, 8),))
    assert torch.equal(program.module()(random(2, 8)), module(random(2, 8)))


# joint compression


def test_an_eagerly_palettized_model_gets_quantized_activations(tmp_path):
    model = seeded(ConvNet)
    palettizer = KMeansPalettizer(model, KMeansPalettizerConfig())
    palettizer.prepare((IMAGE,))
    palettized = palettizer.finalize()
    quantizer, module = calibrated(palettized, IMAGE, eager(op_state_spec=EVERY_WEIGHT))
    states = [m.name for m in module.modules() if isinstance(m, FakeQuantizeImplBase) and m.is_state]
    assert states == ["mixing"]  # which the default palettization does not name
    finalized = quantizer.finalize()
    with torch.no_grad():
        assert torch.equal(finalized(IMAGE), module(IMAGE))
        kept = weights_of(finalized)
        assert all(torch.equal(kept[n], w) for n, w in weights_of(palettized).items() if n != ".mixing")
    convert(finalized, tmp_path / "model.aimodel", (IMAGE,))
    report = check(tmp_path / "model.aimodel", finalized, (IMAGE,), tolerance=1 / 255)
    assert report.ok, str(report)


# Core ML


def to_core_ml(model, inputs):
    coremltools = pytest.importorskip("coremltools")
    return coremltools.convert(
        torch.jit.trace(model, (inputs,)),
        minimum_deployment_target=coremltools.target.iOS18,
        inputs=[coremltools.TensorType(shape=inputs.shape)],
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
    )


def test_a_trace_becomes_a_core_ml_program_that_computes_the_same(tmp_path):
    quantizer, module = calibrated(seeded(ConvNet), IMAGE, eager(op_state_spec=EVERY_WEIGHT))
    finalized = quantizer.finalize(backend=ExportBackend.CoreML)
    with torch.no_grad():
        assert torch.equal(finalized(IMAGE), module(IMAGE))
        assert torch.equal(torch.jit.trace(finalized, (IMAGE,))(IMAGE), finalized(IMAGE))
    program = to_core_ml(finalized, IMAGE)
    operations = program._mil_program.functions["main"].operations
    stored = [decompressed(op.outputs[0]) for op in operations if op.op_type == "constexpr_blockwise_shift_scale"]
    with torch.no_grad():
        expected = weights_of(module)
    for weight in expected.values():
        assert any(w.size == weight.numel() and close(w, weight) for w in stored)
    assert sum(op.op_type == "quantize" for op in operations) > 10
    program.save(str(tmp_path / "model.mlpackage"))
    report = coreml.check(tmp_path / "model.mlpackage", finalized, (IMAGE,), tolerance=1 / 255)
    assert report.ok, str(report)


def close(stored, weight):
    rows = torch.from_numpy(stored).reshape(-1)
    flat = [weight.reshape(-1), weight.transpose(0, 1).reshape(-1)]
    return any(torch.allclose(rows, each, rtol=1e-6, atol=1e-7) for each in flat)


@pytest.mark.parametrize(
    "spec",
    [
        QuantizationSpec(dtype="int4", granularity=PerBlockGranularity(block_size=4)),
        QuantizationSpec(dtype="uint4", qscheme="asymmetric", granularity=PerChannelGranularity()),
        QuantizationSpec(dtype="uint8", qscheme="asymmetric"),
    ],
)
def test_core_ml_stores_weights_of_every_kind_it_has(spec):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    x = random(2, 8)
    config = eager(op_input_spec=None, op_output_spec=None, op_state_spec={"weight": spec})
    quantizer, module = prepared(model, x, config)
    program = to_core_ml(quantizer.finalize(backend=ExportBackend.CoreML), x)._mil_program
    layers = [op for op in program.functions["main"].operations if op.op_type == "linear"]
    for op, layer in zip(layers, (module[0], module[2]), strict=True):
        stored = torch.from_numpy(decompressed(op.weight))
        torch.testing.assert_close(stored, layer.weight.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (both("e4m3"), "float8_e4m3fn is not there in Core ML; accepted: int4, int8, uint4, uint8"),
        (both("minval"), "use the zero-point formulation"),
        (both("int4"), "conv.conv2d_input: int4 is not there in Core ML; accepted: int8, uint8"),
    ],
)
def test_what_core_ml_metadata_cannot_say_is_named(config, message):
    quantizer, _ = calibrated(seeded(ConvNet), IMAGE, config)
    with pytest.raises(QuantizationError, match=message):
        quantizer.finalize(backend=ExportBackend.CoreML)


def test_activations_that_core_ai_does_not_have_are_named():
    spec = {"*": QuantizationSpec(granularity=PerBlockGranularity(block_size=(1, 4)))}
    quantizer, _ = calibrated(nn.Linear(8, 8), random(2, 8), eager(op_input_spec=spec, op_output_spec=None))
    with pytest.raises(LoweringError, match="linear_input: Core AI quantizes activations per tensor or per channel"):
        quantizer.finalize()


def test_a_graph_prepared_model_is_none_of_an_eager_quantizer():
    quantizer, module = calibrated(nn.Linear(8, 8), random(2, 8))
    with pytest.raises(QuantizationError, match="prepared or finalized by a Quantizer in eager mode"):
        Quantizer(module, eager()).prepare((random(2, 8),))
    del quantizer


class Condition(nn.Module):
    def __init__(self):
        super().__init__()
        self.yes, self.no = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, x):
        return torch.cond(x.sum() > 0, self.yes, self.no, (x,))


def test_a_model_whose_ops_are_all_in_the_branches_of_a_condition_runs_when_finalized():
    quantizer = Quantizer(seeded(Condition), eager())
    module = quantizer.prepare((torch.ones(2, 8),))
    finalized = quantizer.finalize()
    for x in (torch.ones(2, 8), -torch.ones(2, 8)):
        assert torch.equal(finalized(x), module(x))
