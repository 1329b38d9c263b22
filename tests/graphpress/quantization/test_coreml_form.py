"""Models finalized for Core ML convert by coremltools as the documents show, with every weight packed and exact."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from graphpress import ExportBackend
from graphpress.backends.comparison import ExactConvolutions
from graphpress.backends.coreml import from_mil
from graphpress.backends.errors import LoweringError
from graphpress.ir import run
from graphpress.ir.graph import Graph
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationError,
    PalettizationSpec,
)
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.spec import PerChannelGranularity

coremltools = pytest.importorskip("coremltools")
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ACTIVATIONS = QuantizerConfig(global_config=ModuleQuantizerConfig(op_state_spec=None))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 16), nn.ReLU(), nn.Linear(16, 4)
    ).eval()


def quantized(model: nn.Module, config: QuantizerConfig) -> tuple[nn.Module, nn.Module]:
    """The prepared and the finalized model."""
    quantizer = Quantizer(model, config)
    prepared = quantizer.prepare((IMAGE,))
    with quantizer.calibration_mode():
        prepared(IMAGE)
        prepared(0.9 * IMAGE)
    return prepared, quantizer.finalize(backend=ExportBackend.CoreML)


def palettized(backend: ExportBackend, **options) -> nn.Module:
    weights = ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(**options)})
    palettizer = KMeansPalettizer(network(), KMeansPalettizerConfig(global_config=weights))
    palettizer.prepare((IMAGE,))
    return palettizer.finalize(backend=backend)


def converted(model: nn.Module, by: str) -> Graph:
    """The program that coremltools makes of a model, as the user's documents call it."""
    if by == "trace":
        source, options = torch.jit.trace(model, (IMAGE,)), {"inputs": [coremltools.TensorType(shape=IMAGE.shape)]}
    else:
        source, options = torch.export.export(model, (IMAGE,)).run_decompositions({}), {}
    made = coremltools.convert(
        source,
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS18,
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
        **options,
    )
    return from_mil(made._mil_program)


def assert_converts(model: nn.Module, by: str, packed: dict[str, int]) -> None:
    graph = converted(model, by)
    counts = Counter(node.op.name for node in graph.nodes if node.op.dialect == "quant")
    assert counts == packed
    assert not any(node.op.name == "aten.batch_norm" for node in graph.nodes)
    with ExactConvolutions():
        (result,) = run(graph, [IMAGE])
    expected = model(IMAGE)
    assert torch.allclose(result, expected, atol=1e-5 * expected.abs().max().item())


SHIFT_SCALE, TABLE = "quant.blockwise_shift_scale", "quant.lut_to_dense"
STEPS = {"quant.quantize": 4, "quant.dequantize": 4}


@pytest.mark.parametrize("by", ["trace", "export"])
@pytest.mark.parametrize(
    ("config", "packed"),
    [
        (QuantizerConfig(), {SHIFT_SCALE: 3, **STEPS}),
        (QuantizerConfig.presets.w8(), {SHIFT_SCALE: 3}),
        (QuantizerConfig.presets.w4(), {SHIFT_SCALE: 3}),
    ],
    ids=["w8a8", "w8", "w4"],
)
def test_a_quantized_model_converts_by_trace_and_by_export(config, packed, by):
    prepared, finalized = quantized(network(), config)
    assert torch.allclose(prepared(IMAGE), finalized(IMAGE), atol=0.02)
    assert_converts(finalized, by, packed)


@pytest.mark.parametrize("backend", list(ExportBackend)[:2], ids=lambda backend: backend.name)
@pytest.mark.parametrize(
    ("options", "packed"),
    [
        ({"n_bits": 4}, {TABLE: 3, SHIFT_SCALE: 1}),  # the factor of the norm is a scale beside the table
        ({"n_bits": 4, "lut_qspec": QuantizationSpec()}, {TABLE: 3, SHIFT_SCALE: 3}),
    ],
    ids=["tables", "int8 tables"],
)
def test_joint_compression_keeps_the_tables_whatever_form_the_palettizer_gave(options, packed, backend):
    _, finalized = quantized(palettized(backend, **options), ACTIVATIONS)
    assert_converts(finalized, "trace", {**packed, **STEPS})


def test_both_forms_of_the_palettizer_end_in_the_same_model():
    coreai, coreml = (
        quantized(palettized(backend, n_bits=4), ACTIVATIONS)[1]
        for backend in (ExportBackend.CoreAI, ExportBackend.CoreML)
    )
    assert torch.equal(coreai(IMAGE), coreml(IMAGE))
    assert coreai.state_dict().keys() == coreml.state_dict().keys()


def test_the_palettized_model_is_not_changed_by_compressing_it_further():
    model = palettized(ExportBackend.CoreML, n_bits=4)
    before = copy.deepcopy(model.state_dict())
    quantized(model, ACTIVATIONS)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_described_tables_that_are_gone_are_an_error_and_not_lost_silently():
    model = palettized(ExportBackend.CoreML, n_bits=4)
    for module in model.modules():
        module.__dict__.pop("_graphpress_palettized", None)
    with pytest.raises(PalettizationError, match=r"0\.weight, 4\.weight, 6\.weight: described as palettized"):
        Quantizer(model, ACTIVATIONS).prepare((IMAGE,))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"weight": QuantizationSpec(dtype="float8_e4m3fn")}, "float8_e4m3fn is not there in Core ML"),
        ({"weight": QuantizationSpec(dtype="int2", granularity=PerChannelGranularity())}, "int2 is not there"),
        ({"weight": QuantizationSpec(qscheme="asymmetric", qformulation="minval")}, "use the zero-point formulation"),
    ],
)
def test_weights_that_the_metadata_cannot_say_are_named(spec, said):
    config = QuantizerConfig(
        global_config=ModuleQuantizerConfig(op_state_spec=spec, op_input_spec=None, op_output_spec=None)
    )
    with pytest.raises(LoweringError, match="cannot describe 3 tensors") as caught:
        quantized(network(), config)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (QuantizationSpec(dtype="int4"), "activations of int4 are not there in Core ML"),
        (QuantizationSpec(dtype="float8_e5m2"), "activations of float8_e5m2"),
        (QuantizationSpec(qscheme="symmetric_with_clipping"), "use the scheme 'symmetric'"),
        (QuantizationSpec(granularity=PerChannelGranularity(axis=1)), "use PerTensorGranularity"),
    ],
)
def test_activations_that_torch_cannot_say_are_named(spec, said):
    each = ModuleQuantizerConfig(op_state_spec=None, op_input_spec={"*": spec}, op_output_spec={"*": spec})
    with pytest.raises(LoweringError, match="cannot describe") as caught:
        quantized(network(), QuantizerConfig(global_config=each))
    assert said in str(caught.value)
