"""An eagerly quantized model in the form that coremltools reads: float parameters with metadata, torch's own ops.

Weights are described by the compression metadata of coremltools, version 1, from which it finds the codes again.
Activations go through ``torch.quantize_per_tensor`` or ``quantize_per_channel`` and back.
"""

from __future__ import annotations

import torch
from torch import nn

from graphpress.backends.coreml.metadata import ACTIVATIONS, WEIGHTS, describe, quantized_entries
from graphpress.ir.dtypes import DType
from graphpress.modules.forms import drop_form
from graphpress.modules.mapping import Mapped
from graphpress.passes.weights.errors import QuantizationError
from graphpress.passes.weights.quantize import QParams
from graphpress.quantization.eager.finalizing import QuantizedParameter, copied, settle_activations
from graphpress.quantization.eager.quantized_module import HELD
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.finalized_ops import TorchQuantizeDequantize


def stored_for_coreml(prepared: nn.Module, mmap_dir: str | None = None) -> nn.Module:
    """A copy of `prepared` whose weights hold the quantized values, described by buffers.

    Raises:
        QuantizationError: naming the weights and activations that this form cannot describe.
    """
    model, parameters = copied(prepared)
    refused = [f"{p.name}: {reason}" for p in parameters if (reason := _refusal(p.quantizer, p.qparams, WEIGHTS))]
    activations: list[str] = []

    def settled(quantizer: FakeQuantizeImplBase, qparams: QParams) -> nn.Module:
        reason = _refusal(quantizer, qparams, frozenset(ACTIVATIONS)) or _activation_refusal(quantizer, qparams)
        if reason:
            activations.append(f"{quantizer.name}: {reason}")
            return nn.Identity()
        scale, zero_point, _ = qparams
        zero = 0 if zero_point is None else int(zero_point.reshape(-1)[0])
        return TorchQuantizeDequantize(float(scale.reshape(-1)[0]), zero, ACTIVATIONS[quantizer.spec.element_type])

    settle_activations(model, settled)
    if refused or activations:
        lines = "".join(f"\n  {line}" for line in (*refused, *activations))
        raise QuantizationError(
            f"coremltools' compression metadata cannot describe {len(refused) + len(activations)} tensors:{lines}"
        )
    _describe(model, parameters, Mapped(mmap_dir))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


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
        scale, zero_point, _ = parameter.qparams
        dtype = parameter.quantizer.spec.element_type
        entries = quantized_entries(scale, zero_point, dtype, parameter.data.ndim, parameter.data.dtype)
        describe(model, module, name, entries)
