"""Fake-quantizers: modules that simulate quantization of a value in floating point."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from graphpress.ir import reference
from graphpress.ir.dtypes import DType
from graphpress.passes.config import (
    FAKE_QUANTIZERS,
    QPARAM_CALCULATORS,
    CompressionTargetTensor,
    Granularity,
    QATSchedule,
    QuantizationSpec,
)
from graphpress.passes.weights.quantize import QParams
from graphpress.quantization import histograms as histograms  # imported to register calculators
from graphpress.quantization import squared_error as squared_error
from graphpress.quantization.calculators import QParamsCalculatorBase, SpecFields


@torch._disable_dynamo  # type: ignore[attr-defined] # `torch.compiler.disable` would import the compiler at once
def uncompiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``function(*arguments)``, run uncompiled."""
    return function(*arguments)


C = TypeVar("C", bound=type)

_CHOICES = ("code_offset", "chosen_range", "removed")
"""Buffers that calibration sets."""


class FakeQuantizeImplBase(nn.Module, SpecFields):
    """Base of the fake-quantizers, which observe their input and round it to representable values.

    Two switches control observation and rounding. ``@FakeQuantizeImplBase.register("key")`` makes a class available to
    specs.

    Attributes:
        name: the quantizer's name in the graph.
        spec: the quantization spec.
        is_state: True for a weight, False for an activation.
        observer_enabled, fake_quant_enabled: the two switches.
        schedule: the training steps at which they are on; None is always.
        module_paths: paths of the modules in the user's model that it belongs to.
        code_offset: for a weight with optimized rounding, the steps from the nearest code to the chosen one, int8 in
            the weight's shape; else None.
        chosen_range: the lower and upper ends of its blocks, float32 ``[2, *blocks]``, in place of the calculator's
            range until the next observation; None for that.
        removed: a tensor if the quantizer was removed: values pass through, also in the finalized model; else None.
    """

    schedule: QATSchedule | None = None
    module_paths: tuple[str, ...] = ()
    code_offset: Tensor | None
    chosen_range: Tensor | None
    removed: Tensor | None

    def __init__(self, name: str, spec: QuantizationSpec, block_size: Sequence[int] = (), *, is_state: bool = False):
        super().__init__()
        self.name = name
        self.spec = spec
        self.is_state = is_state
        self.observer_enabled = False
        self.fake_quant_enabled = True
        self.calculator: QParamsCalculatorBase = calculator_for(spec, block_size, is_state=is_state)
        for name in _CHOICES:
            self.register_buffer(name, None)

    @staticmethod
    def register(key: str) -> Callable[[C], C]:
        """Class decorator: make the class available to specs as `key`."""
        return FAKE_QUANTIZERS.register(key)

    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """Return scale, zero point and minimum value for `data`; None before any observation, or if removed."""
        if self.removed is not None:
            return None
        if self.chosen_range is not None:
            return self.calculator.from_range(*self.chosen_range)
        return self.calculator.qparams(data)

    def forward(self, data: Tensor, same_batch: bool = False) -> Tensor:
        """Observe and fake-quantize `data`, as the switches select.

        Args:
            data: the value at one of the points that share this quantizer.
            same_batch: True at all points but the first in a run, so that a run counts as one observation.
        """
        if torch.compiler.is_compiling() and not self.is_traceable:
            result: Tensor = uncompiled(self._run, data, same_batch)
            return result
        return self._run(data, same_batch)

    @property
    def is_traceable(self) -> bool:
        """True if torch can compile the quantizer in its present state; otherwise it breaks the compiled graph."""
        return self.calculator.is_traceable

    def _run(self, data: Tensor, same_batch: bool) -> Tensor:
        if self.observer_enabled:
            if self.chosen_range is not None:
                self.chosen_range = None
            with torch.no_grad():
                (self.observe_more if same_batch else self.observe)(data.detach())
        if not self.fake_quant_enabled:
            return data
        with torch.no_grad():
            qparams = self.qparams(data.detach())
        if qparams is None:
            return data
        result = self.quantize(data, qparams)
        if not torch.compiler.is_compiling():
            return result
        condition = self.calculator.traced_condition()
        return result if condition is None else torch.where(condition, result, data)

    def observe(self, data: Tensor) -> None:
        """Pass `data`, the first value of a batch, to the calculator."""
        self.calculator.observe(data)

    def observe_more(self, data: Tensor) -> None:
        """Pass `data`, a further value of the last batch, to the calculator."""
        self.calculator.observe_more(data)

    def forget_observations(self) -> None:
        """Start afresh: the next observation is the first."""
        former = self.calculator
        self.calculator = calculator_for(self.spec, former.block_size, is_state=self.is_state).to(self._device())
        self.calculator.data_dtype = former.data_dtype

    @property
    def quantization_target(self) -> CompressionTargetTensor:
        """The role of the values."""
        return CompressionTargetTensor.WEIGHT if self.is_state else CompressionTargetTensor.ACTIVATION

    @property
    def granularity(self) -> Granularity:
        """The granularity of the spec, with the axis that the blocks run along."""
        return self.calculator.granularity

    @property
    def qparams_calculator(self) -> QParamsCalculatorBase:
        """The calculator, under the name that clients of coreai-opt read."""
        return self.calculator

    def is_disabled(self) -> bool:
        """Return True if values pass through unobserved and unrounded."""
        return not (self.observer_enabled or self.fake_quant_enabled)

    @abstractmethod
    def quantize(self, data: Tensor, qparams: QParams) -> Tensor:
        """Round `data` to the values that codes with these parameters represent, in the dtype of `data`."""

    def enable_observer(self, enabled: bool = True) -> None:
        """Observe the data from now on, or stop."""
        self.observer_enabled = enabled

    def disable_observer(self) -> None:
        """Keep the range from now on."""
        self.enable_observer(False)

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Round from now on, or pass data through."""
        self.fake_quant_enabled = enabled

    def disable_fake_quant(self) -> None:
        """Pass data through from now on."""
        self.enable_fake_quant(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FakeQuantizeImplBase:
        """Move the chosen range with the model, but keep it in float32 when it is cast."""
        chosen = self.chosen_range
        super()._apply(fn, recurse)
        if chosen is not None and self.chosen_range is not None:
            self.chosen_range = chosen.to(self.chosen_range.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in _CHOICES:  # present only if something was chosen
            saved = state_dict.get(prefix + name)
            setattr(self, name, None if saved is None else torch.zeros_like(saved, device=self._device()))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _device(self) -> torch.device | None:
        return next((buffer.device for buffer in self.buffers()), None)

    def extra_repr(self) -> str:
        """Return name, spec and switches."""
        return f"{self.name!r}, observer={self.observer_enabled}, fake_quant={self.fake_quant_enabled}"


FAKE_QUANTIZERS.base = FakeQuantizeImplBase


def fake_quantizer(
    name: str,
    spec: QuantizationSpec,
    block_size: Sequence[int] = (),
    *,
    is_state: bool = False,
    data_dtype: torch.dtype = torch.float32,
) -> FakeQuantizeImplBase:
    """Create the fake-quantizer that `spec` names, for values of `data_dtype`."""
    made: FakeQuantizeImplBase = FAKE_QUANTIZERS.make(spec.fake_quantize_cls, name, spec, block_size, is_state=is_state)
    made.calculator.data_dtype = data_dtype
    return made


@FakeQuantizeImplBase.register("default")
class FakeQuantize(FakeQuantizeImplBase):
    """Fake-quantizer with a straight-through gradient: 1 within the range of the codes, 0 where clipped."""

    def quantize(self, data: Tensor, qparams: QParams) -> Tensor:
        """See the base class."""
        how = codes_of(self.spec)
        if torch.is_grad_enabled() and data.requires_grad:
            result: Tensor = _StraightThrough.apply(data, *qparams, self.code_offset, how)
            return result
        return reference.fake_quantize(data, *qparams, self.code_offset, **how)


def fp4_forward(tensor: Tensor) -> Tensor:
    """Round to the nearest values of float4 e2m1, ties to even, without a scale; larger magnitudes become 6."""
    return reference.fake_quantize(tensor, torch.ones((), device=tensor.device), dtype=DType.FLOAT4_E2M1FN)


def codes_of(spec: QuantizationSpec) -> dict[str, Any]:
    """Return type and limits of the codes of `spec`, as arguments for the formulas of `ir.reference`."""
    if spec.element_type.is_floating:
        return {"dtype": spec.element_type}
    return {"dtype": spec.element_type, "quant_min": int(spec.quant_min), "quant_max": int(spec.quant_max)}


class _StraightThrough(torch.autograd.Function):
    """``fake_quantize`` whose gradient passes where the value lies within the range of the codes (arXiv 1308.3432)."""

    @staticmethod
    def forward(
        ctx: Any,
        data: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        minval: Tensor | None,
        offset: Tensor | None,
        how: dict[str, Any],
    ) -> Tensor:
        result, inside = reference.fake_quantize_and_mask(data, scale, zero_point, minval, offset, **how)
        ctx.save_for_backward(inside)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None, None


class FixedFakeQuantize(nn.Module):
    """A fake-quantizer with fixed parameters, in plain torch ops.

    Buffers: `scale`, and optionally `zero_point` and `minval`, as of `ir.reference`.
    """

    def __init__(self, name: str, spec: QuantizationSpec, qparams: QParams):
        super().__init__()
        self.name = name
        self.spec = spec
        for part, tensor in zip(("scale", "zero_point", "minval"), qparams, strict=True):
            self.register_buffer(part, None if tensor is None else tensor.detach().clone())

    @classmethod
    def of(cls, quantizer: FakeQuantizeImplBase, qparams: QParams) -> FixedFakeQuantize:
        """Build the module for a calibrated fake-quantizer."""
        return cls(quantizer.name, quantizer.spec, qparams)

    def forward(self, data: Tensor, same_batch: bool = False) -> Tensor:
        """Return `data` fake-quantized; `same_batch` is an argument of `FakeQuantizeImplBase` and has no effect."""
        scale, zero_point, minval = (self._buffers[name] for name in ("scale", "zero_point", "minval"))
        assert scale is not None
        return reference.fake_quantize(data, scale, zero_point, minval, **codes_of(self.spec))

    def extra_repr(self) -> str:
        """Return name and spec."""
        return f"{self.name!r}, {self.spec.element_type.long_name}"


def calculator_for(spec: QuantizationSpec, block_size: Sequence[int], *, is_state: bool) -> QParamsCalculatorBase:
    """Create the calculator that a spec names, for a weight (`is_state`) or an activation.

    ``default`` is ``static`` for weights and ``moving_average`` for activations.
    """
    component = spec.qparam_calculator_cls
    if component == "default":
        component = "static" if is_state else "moving_average"
    made: QParamsCalculatorBase = QPARAM_CALCULATORS.make(component, spec, block_size)
    return made.suited(is_state=is_state)
