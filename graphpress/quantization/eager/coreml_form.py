"""An eagerly quantized model in the form that coremltools reads: float parameters with metadata, torch's own ops.

Weights are described by the compression metadata of coremltools, version 1, from which it finds the codes again.
Activations go through ``torch.quantize_per_tensor`` or ``quantize_per_channel`` and back.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from graphpress.compressed_module import drop_form
from graphpress.ir.dtypes import DType
from graphpress.mapped_tensors import Mapped
from graphpress.passes.quantization.errors import QuantizationError
from graphpress.quantization.calculators import QParams
from graphpress.quantization.eager.finalizing import QuantizedParameter, copied, settle_activations
from graphpress.quantization.eager.quantized_module import HELD
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase

_QUANTIZED = 3
_WEIGHTS = frozenset({DType.INT4, DType.UINT4, DType.INT8, DType.UINT8})
_ACTIVATIONS = {DType.INT8: torch.qint8, DType.UINT8: torch.quint8}


def stored_for_coreml(prepared: nn.Module, mmap_dir: str | None = None) -> nn.Module:
    """A copy of `prepared` whose weights hold the quantized values, described by buffers.

    Raises:
        QuantizationError: naming the weights and activations that this form cannot describe.
    """
    model, parameters = copied(prepared)
    refused = [f"{p.name}: {reason}" for p in parameters if (reason := _refusal(p.quantizer, p.qparams, _WEIGHTS))]
    activations: list[str] = []

    def settled(quantizer: FakeQuantizeImplBase, qparams: QParams) -> nn.Module:
        reason = _refusal(quantizer, qparams, frozenset(_ACTIVATIONS)) or _activation_refusal(quantizer, qparams)
        if reason:
            activations.append(f"{quantizer.name}: {reason}")
            return nn.Identity()
        return TorchQuantizeDequantize(quantizer, qparams)

    settle_activations(model, settled)
    if refused or activations:
        lines = "".join(f"\n  {line}" for line in (*refused, *activations))
        raise QuantizationError(
            f"coremltools' compression metadata cannot describe {len(refused) + len(activations)} tensors:{lines}"
        )
    _describe(model, parameters, Mapped(None if mmap_dir is None else Path(mmap_dir)))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


class TorchQuantizeDequantize(nn.Module):
    """Quantization and dequantization by torch's own ops, whose parameters coremltools reads off the trace."""

    def __init__(self, quantizer: FakeQuantizeImplBase, qparams: QParams):
        super().__init__()
        scale, zero_point, _ = qparams
        zeros = torch.zeros_like(scale) if zero_point is None else zero_point
        self.dtype = _ACTIVATIONS[quantizer.spec.element_type]
        self.scale, self.zero_point = float(scale.reshape(-1)[0]), int(zeros.reshape(-1)[0])

    def forward(self, data: Tensor) -> Tensor:
        """`data` as its codes stand for it."""
        codes = torch.quantize_per_tensor(data.float(), self.scale, self.zero_point, self.dtype)
        return codes.dequantize().to(data.dtype)

    def extra_repr(self) -> str:
        """The dtype of the codes and their parameters."""
        return f"{self.dtype}, scale={self.scale}, zero_point={self.zero_point}"


def _refusal(quantizer: FakeQuantizeImplBase, qparams: QParams, dtypes: frozenset[DType]) -> str:
    spec = quantizer.spec
    if spec.element_type not in dtypes:
        names = ", ".join(sorted(dtype.long_name for dtype in dtypes))
        return f"{spec.element_type.long_name} is not there in Core ML; accepted: {names}"
    return "minimum values are not there in Core ML; use the zero-point formulation" if qparams[2] is not None else ""


def _activation_refusal(quantizer: FakeQuantizeImplBase, qparams: QParams) -> str:
    spec = quantizer.spec
    if qparams[0].numel() > 1:
        return "activations have one scale; use PerTensorGranularity"
    if spec.quant_min != spec.element_type.minimum:
        return "activations use every code of their dtype; use the scheme 'symmetric'"
    return ""


def _describe(model: nn.Module, parameters: list[QuantizedParameter], mapped: Mapped) -> None:
    dense: dict[int, nn.Parameter] = {}
    for parameter in parameters:
        name, module = parameter.form.name, parameter.module
        if id(parameter.quantizer) not in dense:
            with torch.no_grad():
                values = parameter.quantizer.quantize(parameter.data, parameter.qparams)
            dense[id(parameter.quantizer)] = nn.Parameter(mapped(parameter.name, values), requires_grad=False)
        drop_form(module, name)
        del module._modules[HELD]._modules[name]  # type: ignore[union-attr]
        module._parameters[name] = dense[id(parameter.quantizer)]
        for key, value in _metadata(parameter).items():
            module._buffers[f"_COREML_/{name}/{key}"] = value
    if parameters:
        model._buffers["_COREML_/metadata_version"] = torch.tensor(1)


def _metadata(parameter: QuantizedParameter) -> dict[str, Tensor]:
    scale, zero_point, _ = parameter.qparams
    rank, dtype = parameter.data.ndim, parameter.quantizer.spec.element_type
    shape = scale.shape if scale.ndim else (1,) * rank
    found = {
        "compression_type": torch.tensor([_QUANTIZED]),
        "quantization_n_bits": torch.tensor(dtype.bits),
        "quantization_scale": scale.reshape(shape).to(parameter.data.dtype).clone(),
    }
    if zero_point is not None or dtype.is_signed_integer:
        zeros = torch.zeros_like(scale) if zero_point is None else zero_point
        found["zero_point"] = zeros.reshape(shape).round().to(dtype.torch_dtype)
    return found
