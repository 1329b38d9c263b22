"""The module that stands where a value will be quantized."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from graphpress.ir import reference
from graphpress.passes.config import FAKE_QUANTIZERS, QPARAM_CALCULATORS, QATSchedule, QuantizationSpec
from graphpress.passes.weights.quantize import QParams
from graphpress.quantization import histograms as histograms  # these modules register calculators
from graphpress.quantization import squared_error as squared_error
from graphpress.quantization.calculators import QParamsCalculatorBase


@torch._disable_dynamo  # type: ignore[attr-defined] # `torch.compiler.disable` would import the compiler at once
def uncompiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, run as it is without a compiler."""
    return function(*arguments)


C = TypeVar("C", bound=type)


class FakeQuantizeImplBase(nn.Module):
    """Base of the fake-quantizers: observes its input, rounds it to what the codes can hold, or both, or neither.

    Register one with ``@FakeQuantizeImplBase.register("key")`` and name it in a spec.

    Attributes:
        name: the quantizer's name in the graph.
        spec: how it quantizes.
        is_state: True for a weight, False for an activation.
        observer_enabled, fake_quant_enabled: the two switches.
        schedule: when they are on in training; None is always.
        module_paths: the modules of the user's model that it was made for.
        code_offset: for a weight whose codes were chosen: the steps from the nearest code to the chosen one, int8, of
            the weight's shape; else None.
    """

    schedule: QATSchedule | None = None
    module_paths: tuple[str, ...] = ()
    code_offset: Tensor | None

    def __init__(self, name: str, spec: QuantizationSpec, block_size: Sequence[int] = (), *, is_state: bool = False):
        super().__init__()
        self.name = name
        self.spec = spec
        self.is_state = is_state
        self.observer_enabled = False
        self.fake_quant_enabled = True
        self.calculator: QParamsCalculatorBase = calculator_for(spec, block_size, is_state=is_state)
        self.register_buffer("code_offset", None)

    @staticmethod
    def register(key: str) -> Callable[[C], C]:
        """Class decorator: make the class available to specs as `key`."""
        return FAKE_QUANTIZERS.register(key)

    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """Scale, zero point and minimum value for `data`; None while nothing was observed."""
        return self.calculator.qparams(data)

    def forward(self, data: Tensor, same_batch: bool = False) -> Tensor:
        """`data`, observed and fake-quantized as the switches say.

        Args:
            data: the value at one of the points that share this quantizer.
            same_batch: True at every point but the first of a run, so that a run is observed once.
        """
        if torch.compiler.is_compiling() and not self.is_traceable:
            result: Tensor = uncompiled(self._run, data, same_batch)
            return result
        return self._run(data, same_batch)

    @property
    def is_traceable(self) -> bool:
        """Whether torch can compile what the quantizer now does; else it runs between two compiled graphs."""
        return self.calculator.is_traceable

    def _run(self, data: Tensor, same_batch: bool) -> Tensor:
        if self.observer_enabled:
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
        """Let the calculator see `data`, the first value of a batch."""
        self.calculator.observe(data)

    def observe_more(self, data: Tensor) -> None:
        """Let the calculator see `data`, a further value of the batch that was observed last."""
        self.calculator.observe_more(data)

    @abstractmethod
    def quantize(self, data: Tensor, qparams: QParams) -> Tensor:
        """`data` rounded to what codes with these parameters can hold, in the dtype of `data`."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}code_offset")  # there only where codes were chosen
        self.code_offset = None if saved is None else torch.zeros_like(saved, device=self._device())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _device(self) -> torch.device | None:
        return next((buffer.device for buffer in self.buffers()), None)

    def extra_repr(self) -> str:
        """Name, spec and switches."""
        return f"{self.name!r}, observer={self.observer_enabled}, fake_quant={self.fake_quant_enabled}"


def fake_quantizer(
    name: str, spec: QuantizationSpec, block_size: Sequence[int] = (), *, is_state: bool = False
) -> FakeQuantizeImplBase:
    """The fake-quantizer that `spec` names."""
    made: FakeQuantizeImplBase = FAKE_QUANTIZERS.make(spec.fake_quantize_cls, name, spec, block_size, is_state=is_state)
    return made


@FakeQuantizeImplBase.register("default")
class FakeQuantize(FakeQuantizeImplBase):
    """Rounding with a straight-through gradient: 1 where the value was representable, 0 where it was clipped."""

    def quantize(self, data: Tensor, qparams: QParams) -> Tensor:
        """See the base class."""
        how = codes_of(self.spec)
        if torch.is_grad_enabled() and data.requires_grad:
            result: Tensor = _StraightThrough.apply(data, *qparams, self.code_offset, how)
            return result
        return reference.fake_quantize(data, *qparams, self.code_offset, **how)


def codes_of(spec: QuantizationSpec) -> dict[str, Any]:
    """Type and limits of the codes of `spec`, as the formulas of `ir.reference` take them."""
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


def calculator_for(spec: QuantizationSpec, block_size: Sequence[int], *, is_state: bool) -> QParamsCalculatorBase:
    """The calculator a spec names, for a weight (`is_state`) or an activation.

    ``default`` is ``static`` for weights and ``moving_average`` for activations.
    """
    component = spec.qparam_calculator_cls
    if component == "default":
        component = "static" if is_state else "moving_average"
    made: QParamsCalculatorBase = QPARAM_CALCULATORS.make(component, spec, block_size)
    return made.suited(is_state=is_state)
