"""Fake-quantizers with trained scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphpress.ir import reference, scales
from graphpress.passes.config import QuantizationFormulation, QuantizationScheme, QuantizationSpec
from graphpress.passes.config.errors import SpecError
from graphpress.passes.weights.quantize import QParams, scale_dtype_for
from graphpress.quantization.calculators import StatelessQParamsCalculatorBase
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase, codes_of


@FakeQuantizeImplBase.register("learnable")
class LearnableFakeQuantize(FakeQuantizeImplBase):
    """Fake-quantizer with a trained scale: learned step size quantization (LSQ; Esser et al., arXiv 1902.08153).

    The spec's calculator determines the initial scale, the zero point and the minimum value. While it observes in eval
    mode, as in calibration, the scale follows it; in training the scale is learned. With a fixed `float_range`, nothing
    is learned.

    The scale is ``initial_scale * exp(scale_change)``, so its logarithm is trained (Jain et al., arXiv 1903.08066):
    scales differ by orders of magnitude, and a step of the logarithm is a relative change. The gradient is LSQ's by the
    chain rule, ``s * dL/ds``. LSQ's gradient scale factor, which compensates for absolute steps, is not applied.

    Parameter: `scale_change`, float32, one entry per block. Buffer: `initial_scale`, likewise.

    Raises:
        SpecError: for a power-of-two scale, and for one that is computed from each tensor.
    """

    initial_scale: Tensor

    def __init__(self, name: str, spec: QuantizationSpec, block_size: Sequence[int] = (), *, is_state: bool = False):
        super().__init__(name, spec, block_size, is_state=is_state)
        if spec.scale_dtype is not None:
            raise SpecError(
                f"{name}: 'learnable' scales are float32, scale_dtype is {spec.scale_dtype}; accepted: 'default'",
                "fake_quantize_cls",
            )
        if spec.qparam_calculator_cls == "dynamic":
            raise SpecError(
                f"{name}: 'dynamic' computes the scale from each tensor, so none can be learned; accepted: 'default'",
                "fake_quantize_cls",
            )
        self.register_buffer("initial_scale", torch.zeros(()))
        self._is_known_to_have_started = False  # a Python flag, so that compiled models need not read the buffer
        self.scale_change = nn.Parameter(torch.zeros(()), requires_grad=self._learns)

    @property
    def _learns(self) -> bool:
        return None in self.spec.float_range

    def observe(self, data: Tensor) -> None:
        """Observe `data`; in eval mode the scale follows, in training the optimizer updates it."""
        if not (self.training and self._has_started):
            super().observe(data)
            self._start_at(data)

    def observe_more(self, data: Tensor) -> None:
        """See `observe`."""
        if not (self.training and self._has_started):
            super().observe_more(data)
            self._start_at(data)

    def _start_at(self, data: Tensor) -> None:
        started = self.calculator.qparams(data)
        if started is not None:
            self._start(started[0])

    @property
    def _has_started(self) -> bool:
        if not self._is_known_to_have_started:
            self._find_whether_started()
        return self._is_known_to_have_started

    def _find_whether_started(self) -> None:
        known = not self.initial_scale.is_meta
        self._is_known_to_have_started = known and bool((self.initial_scale > 0).all())

    @torch.no_grad()
    def _start(self, scale: Tensor) -> None:
        if self.initial_scale.shape != scale.shape:  # known after the first observation
            self._resize(scale.shape)
        if self.scale_change.any() or not self.initial_scale.equal(scale):
            self.initial_scale.copy_(scale)
            self.scale_change.zero_()
            self._find_whether_started()

    def _resize(self, shape: Sequence[int]) -> None:
        self.initial_scale = self.initial_scale.new_zeros(shape)
        self.scale_change = nn.Parameter(self.scale_change.new_zeros(shape), requires_grad=self._learns)

    def scale(self) -> Tensor:
        """Return the current scale, float32, rounded to `ir.scales.SCALE_BITS` bits and to the dtype of the data."""
        scale = scales.round_scale_up((self.initial_scale * self.scale_change.detach().exp()).clamp(*_FINITE))
        return scales.scale_in(scale_dtype_for(self.spec, self.calculator.data_dtype), scale)

    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """Return the learned scale with the calculator's zero point and minimum value."""
        if not self._learns or not self._has_started:
            return self.calculator.qparams(data)
        if self._needs_no_calculator(data):
            scale = self.scale()
            return scale, *self.calculator.from_range(-scale, scale)[1:]
        found = self.calculator.qparams(data)
        return None if found is None else (self.scale(), *found[1:])

    def _needs_no_calculator(self, data: Tensor | None) -> bool:
        """Return True if the spec determines the zero point, so that the calculator's search can be skipped.

        Uncompiled activations use the calculator nevertheless, since it detects masks.
        """
        is_weight = data is not None and isinstance(self.calculator, StatelessQParamsCalculatorBase)
        return self._has_fixed_zero_point and (is_weight or torch.compiler.is_compiling())

    @property
    def _has_fixed_zero_point(self) -> bool:
        is_symmetric = self.spec.qscheme is not QuantizationScheme.ASYMMETRIC
        return is_symmetric and self.spec.qformulation is QuantizationFormulation.ZP

    @property
    def is_traceable(self) -> bool:
        """See the base class; after initialization, the calculator is not needed."""
        calculates = not self._learns or not self._is_known_to_have_started or not self._has_fixed_zero_point
        observes = self.observer_enabled and not self.training
        # Not `super().is_traceable`: in a trace, a property read through `super` is always true.
        return self.calculator.is_traceable or not (calculates or observes)

    def quantize(self, data: Tensor, qparams: QParams) -> Tensor:
        """See the base class."""
        how = codes_of(self.spec)
        wanted = data.requires_grad or self.scale_change.requires_grad
        if not torch.is_grad_enabled() or not wanted or not self._has_started:
            return reference.fake_quantize(data, *qparams, self.code_offset, **how)
        result: Tensor = _LearnedScale.apply(data, self.scale_change, *qparams, self.code_offset, how)
        return result

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(prefix + "initial_scale")
        if saved is not None and saved.shape != self.initial_scale.shape:
            self._resize(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._find_whether_started()


_FINITE = (torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max / 2)


class _LearnedScale(torch.autograd.Function):
    """``fake_quantize`` with a straight-through gradient to the data and LSQ's (equation 3) to the log scale."""

    @staticmethod
    def forward(
        ctx: Any,
        data: Tensor,
        scale_change: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        minval: Tensor | None,
        offset: Tensor | None,
        how: dict[str, Any],
    ) -> Tensor:
        result, inside = reference.fake_quantize_and_mask(data, scale, zero_point, minval, offset, **how)
        ctx.save_for_backward(data, result, inside, minval)
        ctx.counts = scale.shape
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        data, result, inside, minval = ctx.saved_tensors
        gradient = gradients[0]
        # With q the code minus the zero point, the derivative by the scale s is q - x / s, or q where clipped. The
        # derivative by log(s) is s times that: the rounding error, or the result (minus the minimum value).
        clipped = result if minval is None else result - reference.repeat_blocks(minval, result.shape)
        by_scale = torch.where(inside, result - data, clipped).float()
        return gradient * inside, _block_sum(gradient.float() * by_scale, ctx.counts), *[None] * 5


def _block_sum(data: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the sum of each block, with ``counts[i]`` blocks along axis i, or the 0-d total without counts."""
    if not counts:
        return data.sum()
    split = [size for extent, count in zip(data.shape, counts, strict=True) for size in (count, extent // count)]
    return data.reshape(split).sum(tuple(range(1, len(split), 2)))
