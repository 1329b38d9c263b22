"""Conversion of the quantize and dequantize ops of `convert_pt2e`, against torch's own.

Scales are powers of two, since outputs must be equal: torch multiplies by the reciprocal of a scale, runtimes divide.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from graphpress.backends import coreai, coreml
from graphpress.backends.coreai.pt2e import with_stored_codes
from graphpress.backends.errors import LoweringError

importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the ops
ops: Any = torch.ops.quantized_decomposed

X = torch.linspace(-9, 9, 96).reshape(2, 4, 12)  # beyond the range of most of the codes below
I8, U8, I32 = (-128, 127, torch.int8), (0, 255, torch.uint8), (-(2**31), 2**31 - 1, torch.int32)
SCALES, ZEROS = torch.tensor([0.25, 0.5, 1, 2]), torch.tensor([0, -3, 7, 100])


def there_and_back(x: Tensor, *parameters: Any, by: str = "tensor") -> Tensor:
    quantize, dequantize = getattr(ops, f"quantize_per_{by}"), getattr(ops, f"dequantize_per_{by}")
    restored: Tensor = dequantize(quantize(x, *parameters), *parameters)
    return restored


class Activations(nn.Module):
    """Every form of a quantized activation."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.0625))
        self.register_buffer("zero", torch.tensor(5))
        self.register_buffer("scales", SCALES)
        self.register_buffer("zeros", ZEROS)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (
            there_and_back(x, 0.0625, 0, *I8),
            there_and_back(x, 0.03125, 128, *U8),
            there_and_back(x, 0.125, -3, -127, 127, torch.int8),
            there_and_back(x, 0.5, 4, 0, 15, torch.uint8),
            there_and_back(x, self.scale, self.zero, -100, 90, torch.int8),
            there_and_back(x, self.scales, self.zeros, 1, *I8, by="channel"),
            there_and_back(x, self.scales, self.zeros, 1, -8, 7, torch.int8, by="channel"),
        )


class Weights(nn.Module):
    """A linear layer for each stored form of a weight, and a bias of int32."""

    def __init__(self) -> None:
        super().__init__()
        codes = torch.arange(48).reshape(4, 12)
        self.weight = nn.Parameter(torch.linspace(-3, 3, 48).reshape(4, 12))
        self.register_buffer("signed", (codes * 5 - 120).to(torch.int8))
        self.register_buffer("unsigned", (codes * 4).to(torch.uint8))
        self.register_buffer("small", (codes % 15 - 7).to(torch.int8))
        self.register_buffer("bias", torch.arange(4, dtype=torch.int32) * 1000)
        self.register_buffer("scales", SCALES)
        self.register_buffer("zeros", ZEROS)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        channels = self.scales, self.zeros, 0
        bias = ops.dequantize_per_tensor(self.bias, 2**-7, 0, *I32)
        rounded = there_and_back(self.weight[0, :4], 2**-9, 0, *I32)
        return (
            nn.functional.linear(x, ops.dequantize_per_channel(self.signed, *channels, -127, 127, torch.int8), bias),
            nn.functional.linear(x, ops.dequantize_per_tensor(self.unsigned, 0.25, 128, *U8), rounded),
            nn.functional.linear(x, ops.dequantize_per_channel(self.small, self.scales, None, 0, -7, 7, torch.int8)),
            nn.functional.linear(x, there_and_back(self.weight, 0.5, 2, 0, 15, torch.uint8)),
            nn.functional.linear(x, there_and_back(self.weight, *channels, *I8, by="channel")),
        )


@pytest.mark.parametrize("model", [Activations(), Weights()], ids=["activations", "weights"])
def test_every_form_gives_the_values_of_torch(model: nn.Module, tmp_path: Path) -> None:
    program = exported(model)
    expected = model(X)
    for values in (
        with_stored_codes(program).module()(X),
        in_core_ai(program, tmp_path / "model.aimodel"),
        in_core_ml(program, tmp_path / "model.mlpackage"),
    ):
        assert len(values) == len(expected)
        for value, wanted in zip(values, expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-4 if isinstance(model, Weights) else 0)


def in_core_ai(program: ExportedProgram, path: Path) -> tuple[Tensor, ...]:
    coreai.convert(program, path)
    with coreai.load(path) as loaded:
        return tuple(loaded(X))


def in_core_ml(program: ExportedProgram, path: Path) -> tuple[Tensor, ...]:
    coreml.convert(program, path)
    return tuple(coreml.evaluate(path, [X])[1])


def test_codes_are_stored_in_the_bits_that_their_range_needs(tmp_path: Path) -> None:
    info = coreai.convert(exported(Weights()), tmp_path / "model.aimodel")
    stored = sorted(each.dtype.value for each in info.constants if each.shape == (4, 12))
    assert stored == ["i4", "i8", "i8", "u4", "u8"]


def test_equal_parameters_are_one_constant() -> None:
    def thrice(x: Tensor) -> Tensor:
        once = there_and_back(x, 0.1, 3, *I8)
        return there_and_back(once + there_and_back(once, 0.1, 3, *I8), 0.2, 0, *I8)

    program = with_stored_codes(exported(Called(thrice)))
    assert sorted(tensor.item() for tensor in program.state_dict.values()) == pytest.approx([0.1, 0.2, 3])


def test_ops_of_16_bits_keep_their_dtype() -> None:
    def both(x: Tensor) -> Tensor:
        codes = ops.quantize_per_tensor(x, 0.125, 0, *I8)
        restored: Tensor = ops.dequantize_per_tensor(codes, 0.125, 0, *I8, out_dtype=x.dtype)
        return restored

    program = torch.export.export(Called(both), (X.half(),))
    value = with_stored_codes(program).module()(X.half())
    assert value.dtype is torch.float16
    assert torch.equal(value, both(X.half()))


def test_a_program_without_these_ops_is_returned_itself() -> None:
    program = exported(nn.Linear(12, 4))
    assert with_stored_codes(program) is program


def _dynamic(x: Tensor) -> Tensor:
    scale, zero_point = ops.choose_qparams(x, -128, 127, 1e-5, torch.int8)
    return there_and_back(x, scale, zero_point, *I8)


def _per_token(x: Tensor) -> Tensor:
    scale, zero = torch.ones(2, 4, 1, dtype=torch.float64), torch.zeros(2, 4, 1, dtype=torch.int64)
    codes: Tensor = ops.quantize_per_token(x, scale, zero, *I8)
    return codes


REFUSED = [
    (_dynamic, r"no backend takes quantized_decomposed.choose_qparams"),
    (_per_token, r"no backend takes quantized_decomposed.quantize_per_token; accepted: .*quantize_per_tensor"),
    (lambda x: there_and_back(x, x.abs().max() / 127, torch.tensor(0), *I8), r"scale of .* is computed at run time"),
    (lambda x: there_and_back(x, 0.1, 0, -100, 100, torch.int16), r"computed codes of int16; accepted: int8 and uint8"),
    (lambda x: there_and_back(x, 0.1, 128, *I8), r"zero points from 128 to 128; accepted: codes of int8, -128 to 127"),
]


@pytest.mark.parametrize(("function", "message"), REFUSED, ids=["op", "token", "scale", "int16", "zero point"])
def test_what_no_backend_stores_is_refused_by_the_name_of_its_op(function: Any, message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        with_stored_codes(exported(Called(function)))


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Any:
        return self._function(x)


def exported(model: nn.Module) -> ExportedProgram:
    return torch.export.export(model.eval(), (X,))
