"""Quantization specs, and methods of rounding weights."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

import attrs
import torch

from graphpress.ir.dtypes import DType, DTypeError
from graphpress.passes.config.arguments import (
    Tagged,
    boolean,
    checked,
    integer,
    member,
    number,
    strict_arguments,
    tagged,
)
from graphpress.passes.config.components import FAKE_QUANTIZERS, QPARAM_CALCULATORS, RANGE_CALCULATORS
from graphpress.passes.config.compression import CompressionSpec, CompressionType
from graphpress.passes.config.errors import SpecError
from graphpress.passes.config.granularity import (
    Granularity,
    PerBlockGranularity,
    PerChannelGranularity,
    PerTensorGranularity,
)


class WeightRounding(Tagged):
    """Base of the methods of rounding weights."""

    __slots__ = ()


@strict_arguments
@attrs.frozen
class NearestRounding(WeightRounding):
    """Rounding to the nearest code, without data."""

    type_name: ClassVar[str] = "nearest"


@strict_arguments
@attrs.frozen
class GPTQRounding(WeightRounding):
    """GPTQ: rounds one input feature at a time and compensates the error in the remaining ones.

    Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers"
    (arXiv 2210.17323).

    Attributes:
        damping: added to the diagonal of the Hessian, as a fraction of its mean, 0 to 1.
        activation_order: round the features with the largest activations first.
        asymmetric: compensate the errors of earlier layers too: the layer's outputs are held to those of the float
            model on its own inputs (Li et al., "GPTAQ", arXiv 2504.02692, pose the problem so), not to those of the
            float weight on the inputs that the rounded model gives it.
    """

    type_name: ClassVar[str] = "gptq"

    damping: float = attrs.field(default=0.01, converter=checked(number(0.0, 1.0)))
    activation_order: bool = attrs.field(default=False, converter=checked(boolean))
    asymmetric: bool = attrs.field(default=True, converter=checked(boolean))


@strict_arguments
@attrs.frozen
class AdaptiveRounding(WeightRounding):
    """Adaptive rounding: rounds each weight up or down to minimize the error of the layer's output.

    Nagel et al., "Up or down? Adaptive rounding for post-training quantization" (arXiv 2004.10568). The error of a
    layer is a quadratic form of its weights, so every step sees all of the calibration data, and none of it is kept. At
    the end, single weights are flipped while that lowers the error.

    Attributes:
        iterations: gradient steps for each layer.
        learning_rate: of Adam.
        regularization: weight of the term that drives each weight to one of its two codes, beside an error that is 1
            for each weight rounded to nearest.
    """

    type_name: ClassVar[str] = "adaptive"

    iterations: int = attrs.field(default=1000, converter=checked(integer(1)))
    learning_rate: float = attrs.field(default=0.01, converter=checked(number(1e-6, 1.0)))
    regularization: float = attrs.field(default=3.0, converter=checked(number(0.0, 1e3)))


class BiasCorrection(StrEnum):
    """How the bias correction is estimated (Nagel et al., arXiv 1906.04721, section 4.2)."""

    NONE = "none"
    """No correction."""
    EMPIRICAL = "empirical"
    """From calibration data: the mean output of each channel, float against quantized."""
    ANALYTIC = "analytic"
    """Without data: from the mean that a batch norm gives the input of a layer."""


_INTEGERS = tuple(dtype for dtype in DType if dtype.is_integer and 2 <= dtype.bits <= 8)
_FLOATS = (DType.FLOAT8_E4M3FN, DType.FLOAT8_E5M2, DType.FLOAT4_E2M1FN)


class QuantizationScheme(StrEnum):
    """The position of zero in the range of codes."""

    SYMMETRIC = "symmetric"
    """Zero is the middle code."""
    ASYMMETRIC = "asymmetric"
    """The range of the data, extended to include zero."""
    SYMMETRIC_WITH_CLIPPING = "symmetric_with_clipping"
    """Symmetric without the lowest code, so that the largest magnitudes are equal (-127..127)."""


class QuantizationFormulation(StrEnum):
    """The formula from codes to values, with codes ``q`` and a scale ``s``."""

    ZP = "zp"
    """``(q - zero_point) * s``"""
    MINVAL = "minval"
    """``(q - quant_min) * s + minval``"""


def _torch_dtype(dtype: DType) -> torch.dtype:
    name = "float4_e2m1fn_x2" if dtype is DType.FLOAT4_E2M1FN else dtype.long_name
    found: torch.dtype = getattr(torch, name)
    return found


def _quantized_dtype(value: Any) -> torch.dtype:
    accepted = (*_INTEGERS, *_FLOATS)
    names = ", ".join(dtype.long_name for dtype in accepted)
    try:
        dtype = DType.of(value)
    except DTypeError as error:
        raise SpecError(f"{error}; accepted: {names}") from None
    if dtype not in accepted:
        raise SpecError(f"{value!r} is not a dtype to quantize to; accepted: {names}")
    return _torch_dtype(dtype)


_OTHER_NAMES = {"float8_e8m0": DType.FLOAT8_E8M0FNU}
_SCALE_DTYPES = "None, float8_e8m0fnu for float8, float4 and int8, float16 for integers of up to 4 bits"


def _scale_dtype(value: Any) -> torch.dtype | None:
    if value is None:
        return None
    try:
        dtype = DType.of(_OTHER_NAMES.get(value, value) if isinstance(value, str) else value)
    except DTypeError as error:
        raise SpecError(f"{error}; accepted: {_SCALE_DTYPES}") from None
    if dtype not in (DType.FLOAT8_E8M0FNU, DType.FLOAT16):
        raise SpecError(f"{value!r} is not accepted; accepted: {_SCALE_DTYPES}")
    return _torch_dtype(dtype)


def _float_range(value: Any) -> tuple[float | None, float | None]:
    wanted = "accepted: (min, max) with min <= 0 <= max and min < max, either of them None"
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise SpecError(f"{value!r} is not a pair; {wanted}")
    for bound in value:
        if bound is None:
            continue
        is_number = isinstance(bound, int | float) and not isinstance(bound, bool)
        if not is_number or not abs(bound) < float("inf"):
            raise SpecError(f"{value!r} holds {bound!r}, which is not a finite number; {wanted}")
    low, high = (None if bound is None else float(bound) for bound in value)
    if (low is not None and low > 0) or (high is not None and high < 0) or (low is not None and low == high):
        raise SpecError(f"{value!r} is no range around zero; {wanted}")
    return low, high


@strict_arguments
@attrs.frozen
class QuantizationSpec(CompressionSpec):
    """Quantization of one tensor.

    Attributes:
        dtype: type of the codes: an integer of 2, 3, 4, 6 or 8 bits, float8_e4m3fn, float8_e5m2 or float4_e2m1fn;
            a torch dtype or its name, stored as a torch dtype.
        qscheme: a `QuantizationScheme` or its name.
        qformulation: a `QuantizationFormulation` or its name.
        granularity: `PerTensorGranularity`, `PerChannelGranularity` or `PerBlockGranularity`, or its plain form
            such as ``{"type": "per_block", "block_size": 32}``.
        fake_quantize_cls: a registered key, or a class.
        qparam_calculator_cls: a registered key, or a class; ``"default"`` is ``"moving_average"`` for
            activations and ``"static"`` for weights.
        range_calculator_cls: a registered key, or a class.
        float_range: fixed bounds of the values to represent; the data determines a bound of None.
        scale_dtype: the dtype that scales of weights are stored in. None means that of 16-bit weights, else float32.
            float8_e8m0fnu, for float8, float4 and int8, holds powers of two; float4 always uses it. With int8 it is the
            MXINT8 of the OCP Microscaling formats, symmetric, which only `ExportBackend.Torch` stores. float16, for
            integers of up to 4 bits with a zero point, halves the size of scales: they are rounded up so that products
            with codes are exact in float16, and a weight whose scales exceed its range keeps float32.

    Raises:
        SpecError: for an invalid value or combination; the message names the accepted ones.
    """

    compression_type: ClassVar[CompressionType] = CompressionType.QUANTIZATION
    argument_hints: ClassVar[Mapping[str, str]] = {
        "n_bits": "dtype decides it, for example dtype='int4'",
        "target_dtype": "dtype decides it",
        "quant_min": "dtype and qscheme decide it",
        "quant_max": "dtype and qscheme decide it",
        "axis": "it belongs to the granularity, for example PerChannelGranularity(axis=0)",
        "block_size": "it belongs to the granularity, for example PerBlockGranularity(block_size=32)",
    }

    dtype: torch.dtype = attrs.field(default=torch.int8, converter=checked(_quantized_dtype))
    qscheme: QuantizationScheme = attrs.field(
        default=QuantizationScheme.SYMMETRIC, converter=checked(member(QuantizationScheme))
    )
    qformulation: QuantizationFormulation = attrs.field(
        default=QuantizationFormulation.ZP, converter=checked(member(QuantizationFormulation))
    )
    granularity: Granularity = attrs.field(
        factory=PerTensorGranularity,
        converter=checked(
            tagged(PerTensorGranularity, PerChannelGranularity, PerBlockGranularity, what="quantization granularity")
        ),
    )
    fake_quantize_cls: str | type = attrs.field(default="default", converter=checked(FAKE_QUANTIZERS.name))
    qparam_calculator_cls: str | type = attrs.field(default="default", converter=checked(QPARAM_CALCULATORS.name))
    range_calculator_cls: str | type = attrs.field(default="minmax", converter=checked(RANGE_CALCULATORS.name))
    float_range: tuple[float | None, float | None] = attrs.field(default=(None, None), converter=checked(_float_range))
    scale_dtype: torch.dtype | None = attrs.field(default=None, converter=checked(_scale_dtype))

    def __attrs_post_init__(self) -> None:
        scale_dtype = None if self.scale_dtype is None else DType.of(self.scale_dtype)
        if self.element_type.is_integer:
            if scale_dtype is DType.FLOAT8_E8M0FNU:
                self._check_microscaled()
                return
            if scale_dtype is not None and self.n_bits > 4:
                raise SpecError(
                    f"{self.scale_dtype} is for integers of up to 4 bits, dtype is {self.dtype}; accepted: None",
                    "scale_dtype",
                )
            if scale_dtype is not None and self.qformulation is QuantizationFormulation.MINVAL:
                raise SpecError(
                    f"{self.scale_dtype} goes with 'zp' only, not with 'minval'; accepted: None", "scale_dtype"
                )
            return
        if scale_dtype is DType.FLOAT16:
            raise SpecError(
                f"{self.scale_dtype} is for integers of up to 4 bits, dtype is {self.dtype}; accepted: "
                f"{'float8_e8m0fnu' if self.element_type is DType.FLOAT4_E2M1FN else 'None, float8_e8m0fnu'}",
                "scale_dtype",
            )
        if self.qscheme is not QuantizationScheme.SYMMETRIC:
            raise SpecError(f"{self.qscheme.value!r} is for integers; {self.dtype} takes 'symmetric'", "qscheme")
        if self.qformulation is not QuantizationFormulation.ZP:
            raise SpecError(f"{self.qformulation.value!r} is for integers; {self.dtype} takes 'zp'", "qformulation")
        if self.element_type is DType.FLOAT4_E2M1FN and self.scale_dtype is None:
            object.__setattr__(self, "scale_dtype", torch.float8_e8m0fnu)

    def _check_microscaled(self) -> None:
        """Raise unless the spec is that of MXINT8."""
        if self.element_type is not DType.INT8:
            raise SpecError(
                f"{self.scale_dtype} is for float8, float4 and int8 only, dtype is {self.dtype}; accepted: "
                f"{'None, float16' if self.n_bits <= 4 else 'None'}",
                "scale_dtype",
            )
        if self.qscheme is QuantizationScheme.ASYMMETRIC or self.qformulation is QuantizationFormulation.MINVAL:
            raise SpecError(
                f"{self.scale_dtype} goes with a symmetric qscheme and 'zp' only; accepted: None", "scale_dtype"
            )

    @property
    def element_type(self) -> DType:
        """The dtype as an element type of the IR."""
        return DType.of(self.dtype)

    @property
    def n_bits(self) -> int:
        """The number of bits of a code."""
        return self.element_type.bits

    @property
    def target_dtype(self) -> torch.dtype:
        """The torch dtype that holds the codes: one of 8 bits for narrower codes.

        float4 is held as float8_e4m3fn, which represents each of its values exactly.
        """
        if self.element_type is DType.FLOAT4_E2M1FN:
            return torch.float8_e4m3fn
        return self.element_type.torch_dtype

    @property
    def quant_min(self) -> int | float:
        """The lowest code; one more than the dtype's where the scheme is symmetric with clipping."""
        lowest = self.element_type.minimum
        return lowest + 1 if self.qscheme is QuantizationScheme.SYMMETRIC_WITH_CLIPPING else lowest

    @property
    def quant_max(self) -> int | float:
        """The highest code."""
        return self.element_type.maximum


def default_weight_quantization_spec() -> QuantizationSpec:
    """The default for weights: int8, symmetric, per output channel, with static ranges."""
    return QuantizationSpec(granularity=PerChannelGranularity(), qparam_calculator_cls="static")


def default_activation_quantization_spec() -> QuantizationSpec:
    """The default for activations: int8, symmetric, per tensor, with a moving average of ranges."""
    return QuantizationSpec(qparam_calculator_cls="moving_average")
