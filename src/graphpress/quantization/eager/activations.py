"""Finalized activation quantizers of eager mode, for each backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphpress.backends.coreai.lowering import along_one_axis
from graphpress.backends.coreai.ops import quantize
from graphpress.backends.coreml.metadata import ACTIVATIONS
from graphpress.backends.errors import LoweringError
from graphpress.eager.observing import link_of, unlink
from graphpress.ir import reference
from graphpress.ir.dtypes import DType
from graphpress.passes.weights.quantize import QParams, stored_scale
from graphpress.quantization.eager.quantized_module import HeldQuantizers
from graphpress.quantization.eager.quantizing import QuantizingObserver
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase, FixedFakeQuantize
from graphpress.quantization.finalized_ops import TorchQuantizeDequantize

ACTIVATION_DTYPES = frozenset(
    {DType.INT4, DType.UINT4, DType.INT8, DType.UINT8, DType.FLOAT8_E4M3FN, DType.FLOAT8_E5M2}
)


def settle_for_coreai(model: nn.Module) -> None:
    """Replace the activation quantizers of a finalized `model` by Core AI ops.

    Raises:
        LoweringError: for quantization that Core AI cannot store.
    """
    _settle(model, QuantizeDequantize.of)


def settle_for_torch(model: nn.Module) -> None:
    """Replace the activation quantizers of a finalized `model` by fake-quantizers with fixed parameters."""
    _settle(model, FixedFakeQuantize.of)


def settle_for_coreml(model: nn.Module) -> dict[str, str]:
    """Replace the activation quantizers of a finalized `model` by torch's quantization ops.

    Returns:
        the reasons why torch's ops cannot express some of them, by quantizer name.
    """
    refused: dict[str, str] = {}

    def settled(quantizer: FakeQuantizeImplBase, qparams: QParams) -> nn.Module:
        if reason := _refusal(quantizer, qparams):
            refused[quantizer.name] = reason
            return nn.Identity()
        scale, zero_point, _ = qparams
        zero = 0 if zero_point is None else int(zero_point.reshape(-1)[0])
        return TorchQuantizeDequantize(float(scale.reshape(-1)[0]), zero, ACTIVATIONS[quantizer.spec.element_type])

    _settle(model, settled)
    return refused


def _settle(model: nn.Module, made: Callable[[FakeQuantizeImplBase, QParams], nn.Module]) -> None:
    """Replace calibrated activation quantizers by the modules that `made` returns, and remove the others.

    Calls that were never observed remain unquantized. Without activation quantizers, the model is no longer observed.
    """
    new: dict[int, nn.Module] = {}
    for held in [module for module in model.modules() if isinstance(module, HeldQuantizers)]:
        held._waiting.clear()
        for key, quantizer in list(held._modules.items()):
            if not isinstance(quantizer, FakeQuantizeImplBase) or quantizer.is_state:
                continue
            with torch.no_grad():
                qparams = quantizer.qparams()
            if qparams is None:
                del held._modules[key]
            else:
                held._modules[key] = new.setdefault(id(quantizer), made(quantizer, qparams))
    for module in model.modules():
        link = link_of(module)
        if link is not None and isinstance(link.observer, QuantizingObserver):
            link.observer.may_place = False
    if not new:
        unlink(model)


class QuantizeDequantize(nn.Module):
    """``coreai.quantize`` and ``coreai.dequantize`` with the parameters and results of a fake-quantizer.

    Buffers: `scale` (0-d, or one entry per index along `axis`), and optionally `zero_point` in the dtype of the codes,
    `minval`, and `low` and `high`, the values of the lowest and highest permitted code.
    """

    def __init__(self, dtype: DType, axis: int, **buffers: Tensor | None):
        super().__init__()
        self.dtype = dtype
        self.axis = axis
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    @classmethod
    def of(cls, quantizer: FakeQuantizeImplBase, qparams: QParams) -> QuantizeDequantize:
        """Build the module for a fake-quantizer.

        Raises:
            LoweringError: for a dtype or granularity that Core AI does not support for activations.
        """
        dtype = quantizer.spec.element_type
        if dtype not in ACTIVATION_DTYPES:
            names = ", ".join(sorted(each.long_name for each in ACTIVATION_DTYPES))
            raise LoweringError(
                f"{quantizer.name}: Core AI stores no activations of {dtype.long_name}; accepted: {names}"
            )
        scale, zero_point, minval = (None if p is None else p.detach().clone() for p in qparams)
        assert scale is not None
        scale = stored_scale(scale, quantizer.spec, quantizer.calculator.data_dtype)
        wide = [axis for axis, extent in enumerate(scale.shape) if extent != 1]
        block = quantizer.calculator.block_size
        if len(wide) > 1 or (wide and block[wide[0]] != 1):
            raise LoweringError(
                f"{quantizer.name}: Core AI quantizes activations per tensor or per channel, not in blocks"
            )
        bounds = _bounds(quantizer, scale, zero_point, minval)
        codes = None if zero_point is None else zero_point.round().to(dtype.torch_dtype)
        flat = {"scale": scale, "zero_point": codes, "minval": minval}
        named = {name: None if p is None else along_one_axis(p) for name, p in flat.items()}
        return cls(dtype, wide[0] if wide else 0, **named, **bounds)

    def forward(self, data: Tensor) -> Tensor:
        """Return `data` quantized and dequantized, in its own dtype."""
        ops: Any = torch.ops.coreai
        scale, zero_point, minval = (self._buffers[name] for name in ("scale", "zero_point", "minval"))
        assert scale is not None
        values = data if data.dtype is scale.dtype else data.to(scale.dtype)
        low, high = self._buffers["low"], self._buffers["high"]
        if low is not None or high is not None:
            values = values.clamp(low, high)
        if torch.compiler.is_compiling():
            codes = ops.quantize(values, scale, self.dtype.torch_scalar_type, zero_point, minval, self.axis)
        else:
            codes = quantize(values, scale, self.dtype, zero_point, minval, self.axis)
        made: Tensor = ops.dequantize(codes, scale, zero_point, minval, self.axis, self.dtype.torch_scalar_type, None)
        return made if made.dtype is data.dtype else made.to(data.dtype)

    def extra_repr(self) -> str:
        """Return the element type of the codes."""
        return self.dtype.long_name


def _bounds(
    quantizer: FakeQuantizeImplBase, scale: Tensor, zero_point: Tensor | None, minval: Tensor | None
) -> dict[str, Tensor | None]:
    """Return the values of the lowest and highest permitted code, or None if all codes are permitted."""
    spec, dtype = quantizer.spec, quantizer.spec.element_type
    lowest, highest = spec.quant_min, spec.quant_max
    if dtype.is_floating or (lowest == dtype.minimum and highest == dtype.maximum):
        return {"low": None, "high": None}
    if minval is not None:  # the lowest code represents it
        lowest, highest = dtype.minimum, dtype.minimum + highest - lowest
    used = {"low": (lowest, dtype.minimum), "high": (highest, dtype.maximum)}
    return {
        name: None
        if code == usual
        else reference.dequantize(torch.full_like(scale, code), scale, zero_point, minval, dtype=dtype)
        for name, (code, usual) in used.items()
    }


def _refusal(quantizer: FakeQuantizeImplBase, qparams: QParams) -> str:
    """Return the reason why torch's ops cannot express a quantized activation, or an empty string."""
    spec = quantizer.spec
    if spec.element_type not in ACTIVATIONS:
        names = ", ".join(sorted(dtype.long_name for dtype in ACTIVATIONS))
        return f"{spec.element_type.long_name} is not there in Core ML; accepted: {names}"
    if qparams[2] is not None:
        return "minimum values are not there in Core ML; use the zero-point formulation"
    if qparams[0].numel() > 1:
        return "activations have one scale; use PerTensorGranularity"
    if spec.quant_min != spec.element_type.minimum:
        return "activations use every code of their dtype; use the scheme 'symmetric'"
    return ""
