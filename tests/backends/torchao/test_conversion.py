"""Conversion of what torchao's PT2E flow makes of a model that graphpress annotated, against torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

pytest.importorskip("torchao", reason="torchao is an optional dependency")
pytest.importorskip("coreai_torch", reason="the converter is an optional dependency")
pytest.importorskip("coremltools", reason="the converter is an optional dependency")

from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

from graphpress.backends import coreai, coreml
from graphpress.backends.torchao import GraphpressQuantizer
from graphpress.ir.dtypes import DType
from graphpress.passes.config import ModuleQuantizerConfig, QuantizationSpec, QuantizerConfig


class Attention(nn.Module):
    """Self-attention over tokens of which `padding` marks those to ignore."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        query, key, value = self.mixed(self.norm(tokens)).chunk(3, -1)
        scores = query @ key.transpose(-1, -2) / 4.0
        scores = scores.masked_fill(padding[:, None, :], float("-inf"))
        return tokens + self.out(scores.softmax(-1) @ value)


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(image)).relu().mean((2, 3)))


def _attention() -> tuple[nn.Module, tuple[Tensor, ...]]:
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 4:] = True
    return Attention(), (torch.randn(2, 6, 16), padding)


def _convolutional() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Convolutional(), (torch.randn(2, 3, 8, 8),)


@pytest.fixture(scope="module", params=[_attention, _convolutional], ids=["attention", "convolutional"])
def program(request: pytest.FixtureRequest) -> tuple[ExportedProgram, tuple[Tensor, ...], Tensor]:
    """A program that `convert_pt2e` made, its inputs, and its output in torch."""
    torch.manual_seed(0)
    model, inputs = request.param()
    prepared = prepare_pt2e(torch.export.export(model.eval(), inputs).module(), GraphpressQuantizer())
    prepared(*inputs)
    converted = convert_pt2e(prepared)
    with torch.no_grad():
        expected = converted(*inputs)
        assert 0 < (expected - model(*inputs)).abs().max() < 0.2  # it is quantized, and finite beside the mask
    return torch.export.export(converted, inputs), inputs, expected


def test_core_ai_computes_what_torch_does(
    program: tuple[ExportedProgram, tuple[Tensor, ...], Tensor], tmp_path: Path
) -> None:
    exported, inputs, expected = program
    path = tmp_path / "model.aimodel"
    coreai.convert(exported, path)
    with coreai.load(path) as loaded:
        output = loaded(*inputs)
    assert isinstance(output, Tensor)
    assert _decibels(expected, output) > 35
    report = coreai.check(path, exported, inputs)
    assert report.ok, str(report)


def test_core_ml_computes_what_torch_does(
    program: tuple[ExportedProgram, tuple[Tensor, ...], Tensor], tmp_path: Path
) -> None:
    exported, inputs, _ = program
    path = tmp_path / "model.mlpackage"
    coreml.convert(exported, path)
    report = coreml.check(path, exported, inputs)
    assert report.ok, str(report)
    assert report.max_error < 0.05


def test_a_module_that_another_quantizer_annotated_is_taken_with_its_weights_not_folded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = _convolutional()
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())  # uint8 activations
    prepared = prepare_pt2e(torch.export.export(model.eval(), inputs).module(), quantizer)
    prepared(*inputs)
    converted = convert_pt2e(prepared, fold_quantize=False)
    info = coreai.convert(converted, tmp_path / "model.aimodel", inputs)
    assert [each.dtype for each in info.constants if each.shape == (8, 3, 3, 3)] == [DType.INT8]
    coreml.convert(converted, tmp_path / "model.mlpackage", inputs)
    for report in (
        coreai.check(tmp_path / "model.aimodel", converted, inputs),
        coreml.check(tmp_path / "model.mlpackage", converted, inputs),
    ):
        assert report.ok, str(report)


def test_weights_whose_range_is_that_of_4_bits_are_stored_in_4_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(32, 32), nn.ReLU()), (torch.randn(4, 32),)
    config = QuantizerConfig(
        global_config=ModuleQuantizerConfig(
            op_state_spec={"weight": QuantizationSpec(dtype="int4", granularity="per_channel")},
            op_input_spec={"*": QuantizationSpec(dtype="uint8", qscheme="asymmetric")},
            op_output_spec={"*": QuantizationSpec(dtype="uint8", qscheme="asymmetric")},
        )
    )
    prepared = prepare_pt2e(torch.export.export(model.eval(), inputs).module(), GraphpressQuantizer(config))
    prepared(*inputs)
    converted = convert_pt2e(prepared)
    assert {each.dtype for each in converted.buffers() if each.shape == (32, 32)} == {torch.int8}
    info = coreai.convert(converted, tmp_path / "model.aimodel", inputs)
    assert [each.dtype for each in info.constants if each.shape == (32, 32)] == [DType.INT4]
    report = coreai.check(tmp_path / "model.aimodel", converted, inputs)
    assert report.ok, str(report)


def _decibels(expected: Tensor, output: Tensor) -> float:
    noise = (expected - output).double().square().sum()
    return float(10 * torch.log10(expected.double().square().sum() / noise.clamp_min(1e-30)))
