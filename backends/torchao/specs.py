"""The specs of torchao for the quantizers of this package, and the error for what has none."""

from __future__ import annotations

from typing import Any

import torch
from torchao.quantization.pt2e import (
    FakeQuantize,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantizer import FixedQParamsQuantizationSpec, QuantizationSpec, QuantizationSpecBase

from graphpress.ir.errors import GraphpressError
from graphpress.ir.reference import qparams_from_range
from graphpress.passes.analysis.quantization_points import Quantizer
from graphpress.passes.config import PerChannelGranularity, PerTensorGranularity, QuantizationScheme


class TorchaoError(GraphpressError, ValueError):
    """Something that torchao's flow cannot express."""


_OBSERVERS = {
    "default": MovingAverageMinMaxObserver,
    "moving_average": MovingAverageMinMaxObserver,
    "static": MinMaxObserver,
    "global_minmax": MinMaxObserver,
    "histogram": HistogramObserver,
}


def torchao_spec(quantizer: Quantizer, *, is_qat: bool) -> QuantizationSpecBase:
    """Return the torchao spec for `quantizer`: an observer, or for training a fake-quantizer.

    Codes of fewer than 8 bits use 8-bit types with a restricted range. A fixed range becomes fixed parameters.

    Raises:
        TorchaoError: for floating element types, blocks, minimum values, and custom calculators.
    """
    spec = quantizer.spec
    if spec.element_type.is_floating:
        raise _refused(quantizer, f"codes of {spec.dtype}", "integers")
    if spec.qformulation.value != "zp":
        raise _refused(quantizer, "minimum values", "the formulation 'zp'")
    is_symmetric = spec.qscheme is not QuantizationScheme.ASYMMETRIC
    shared: dict[str, Any] = {
        "dtype": torch.int8 if spec.element_type.is_signed_integer else torch.uint8,
        "quant_min": int(spec.quant_min),
        "quant_max": int(spec.quant_max),
    }
    if None not in spec.float_range:
        return FixedQParamsQuantizationSpec(
            **shared,
            **_fixed(quantizer),
            qscheme=torch.per_tensor_symmetric if is_symmetric else torch.per_tensor_affine,
        )
    if isinstance(spec.granularity, PerTensorGranularity):
        key = "static" if quantizer.is_state and spec.qparam_calculator_cls == "default" else spec.qparam_calculator_cls
        observer = _OBSERVERS.get(key) if isinstance(key, str) else None
        if observer is None:
            raise _refused(quantizer, f"the calculator {key!r}", ", ".join(_OBSERVERS))
        scheme = torch.per_tensor_symmetric if is_symmetric else torch.per_tensor_affine
        axis = None
    elif isinstance(spec.granularity, PerChannelGranularity):
        observer = PerChannelMinMaxObserver
        scheme = torch.per_channel_symmetric if is_symmetric else torch.per_channel_affine
        axis = next((place for place, size in enumerate(quantizer.block_size) if size == 1), 0)
    else:
        raise _refused(quantizer, "blocks", "per tensor and per channel")
    made = FakeQuantize.with_args(observer=observer) if is_qat else observer
    return QuantizationSpec(**shared, qscheme=scheme, ch_axis=axis, observer_or_fake_quant_ctr=made)


def _fixed(quantizer: Quantizer) -> dict[str, Any]:
    spec = quantizer.spec
    low, high = (torch.tensor(float(end)) for end in spec.float_range)  # type: ignore[arg-type]
    scale, zero_point, _ = qparams_from_range(
        low,
        high,
        dtype=spec.element_type,
        symmetric=spec.qscheme is not QuantizationScheme.ASYMMETRIC,
        quant_min=int(spec.quant_min),
        quant_max=int(spec.quant_max),
    )
    return {"scale": float(scale), "zero_point": 0 if zero_point is None else int(zero_point)}


def _refused(quantizer: Quantizer, what: str, accepted: str) -> TorchaoError:
    return TorchaoError(
        f"{quantizer.source or 'the config'}, at {quantizer.name}: torchao's export flow does not support {what}; "
        f"accepted: {accepted}"
    )
