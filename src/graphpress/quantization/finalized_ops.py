"""Modules of finalized models: quantization that torch's kernel does not compute exactly, and integer convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphpress.backends.coreai.ops import quantize
from graphpress.backends.coreml.metadata_form import quantize_dequantize
from graphpress.ir.dtypes import DType
from graphpress.ir.inference import to_torch
from graphpress.ir.ops import OpDef
from graphpress.modules.remembering import Remembered
from graphpress.quantization.expressions import ConstantExpression

_EXACT_BELOW = 2**24


class IntegerConvolution(nn.Module):
    """A convolution whose input and weight are dequantized codes, with exact sums.

    Args:
        op, attributes: the convolution.
        weight: expression of the dense weight, and the indices of its arguments among the stored constants.
        codes: expression of the weight's codes, likewise.
        scale: index of the weight's scale among the constants.
        has_bias: whether the arguments include a bias.
    """

    def __init__(
        self,
        op: OpDef,
        attributes: Mapping[str, Any],
        weight: tuple[ConstantExpression, tuple[int, ...]],
        codes: tuple[ConstantExpression, tuple[int, ...]],
        scale: int,
        *,
        has_bias: bool,
    ):
        super().__init__()
        self.op = op
        self.attributes = dict(attributes)
        self.weight, self.weight_arguments = weight
        self.codes, self.codes_arguments = codes
        self.scale = scale
        self.has_bias = has_bias
        self._pieces = Remembered[tuple[tuple[Tensor, ...], int]]()

    def forward(self, values: Tensor, scale: Tensor, *rest: Tensor) -> Tensor:
        """Compute the convolution.

        Args:
            values: the input, dequantized codes.
            scale: the input's scale, one entry.
            rest: the bias, if any, then the constants of the weight.
        """
        arguments = list(rest)
        bias = arguments.pop(0) if self.has_bias else None
        if torch.compiler.is_compiling() or values.dtype is not torch.float32 or values.requires_grad:
            return self._run(values, self.weight(*(arguments[i] for i in self.weight_arguments)), bias)
        total = self._exact_sum(torch.round(values / scale), arguments)
        channels = [1, -1, *[1] * (total.ndim - 2)]
        factor = scale.double() * arguments[self.scale].double()
        result = (total.double() * factor.reshape(channels)).float()
        return result if bias is None else result + bias.reshape(channels)

    def _exact_sum(self, numbers: Tensor, arguments: list[Tensor]) -> Tensor:
        """Convolve codes in float32, splitting input channels so that sums remain exact."""
        weight = self.codes(*(arguments[i] for i in self.codes_arguments))
        pieces, channels = self._pieces.get([weight], lambda: self._split(weight))
        if len(pieces) == 1:
            return self._run(numbers, pieces[0], None)
        parts = zip(numbers.split(channels, 1), pieces, strict=True)
        return sum((self._run(n, w, None).double() for n, w in parts), torch.zeros((), dtype=torch.float64))

    def _split(self, weight: Tensor) -> tuple[tuple[Tensor, ...], int]:
        numbers = weight.float()
        largest = numbers.abs().flatten(1).sum(1).max().item() * 255
        channels = numbers.shape[1]
        if largest < _EXACT_BELOW or self.attributes.get("groups", 1) != 1:
            return (numbers,), channels
        each = max(1, channels // -int(-largest // _EXACT_BELOW))
        return tuple(piece.contiguous() for piece in numbers.split(each, 1)), each

    def _run(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        bound: dict[str, Any] = {"input": input, "weight": weight}
        if bias is not None:
            bound["bias"] = bias
        args, kwargs = self.op.unbind(bound | {name: to_torch(value) for name, value in self.attributes.items()})
        assert self.op.target is not None
        output: Tensor = self.op.target(*args, **kwargs)
        return output

    def extra_repr(self) -> str:
        """Return the op."""
        return self.op.name


class QuantizeExactly(nn.Module):
    """``coreai.quantize`` where torch's kernel lacks the codes or rounds quotients to 16 bits.

    Eager evaluation holds codes of less than 8 bits in 8.

    Args:
        dtype: type of the codes.
        axis: axis of the scales.
        has_zero_point, has_minval: whether the arguments include these.
    """

    def __init__(self, dtype: DType, axis: int, *, has_zero_point: bool, has_minval: bool):
        super().__init__()
        self.dtype = dtype
        self.axis = axis
        self.has_zero_point = has_zero_point
        self.has_minval = has_minval

    def forward(self, input: Tensor, scale: Tensor, *rest: Tensor) -> Tensor:
        """Return the codes; `rest` holds the zero point and the minimum value, if any."""
        arguments = list(rest)
        zero_point = arguments.pop(0) if self.has_zero_point else None
        minval = arguments.pop(0) if self.has_minval else None
        if torch.compiler.is_compiling():
            exported: Tensor = torch.ops.coreai.quantize(
                input, scale, self.dtype.torch_scalar_type, zero_point, minval, self.axis
            )
            return exported
        return quantize(input, scale, self.dtype, zero_point, minval, self.axis)

    def extra_repr(self) -> str:
        """Return the element type of the codes."""
        return self.dtype.long_name


class TorchQuantizeDequantize(nn.Module):
    """Quantizes and dequantizes by ``torch.quantize_per_tensor``.

    Args:
        scale, zero_point: scalars.
        dtype: ``torch.qint8`` or ``torch.quint8``.
    """

    def __init__(self, scale: float, zero_point: int, dtype: torch.dtype):
        super().__init__()
        self.scale, self.zero_point, self.dtype = scale, zero_point, dtype

    def forward(self, data: Tensor) -> Tensor:
        """Return `data` quantized and dequantized."""
        return quantize_dequantize(data, self.scale, self.zero_point, self.dtype)

    def extra_repr(self) -> str:
        """Return the dtype of the codes and their parameters."""
        return f"{self.dtype}, scale={self.scale}, zero_point={self.zero_point}"
