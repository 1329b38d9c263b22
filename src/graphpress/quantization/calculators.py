"""Calculators of ranges and quantization parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from graphpress.ir.reference import block_range
from graphpress.modules.remembering import Remembered
from graphpress.passes.config import (
    QPARAM_CALCULATORS,
    RANGE_CALCULATORS,
    Granularity,
    QuantizationFormulation,
    QuantizationScheme,
    QuantizationSpec,
)
from graphpress.passes.config.axes import with_axis_of_block
from graphpress.passes.weights.quantize import QParams, qparams_for

C = TypeVar("C", bound=type)


class RangeCalculatorBase(ABC):
    """Base of range calculators, which ``@RangeCalculatorBase.register("key")`` makes available to specs."""

    @staticmethod
    def register(key: str) -> Callable[[C], C]:
        """Class decorator: make the class available to specs as `key`."""
        return RANGE_CALCULATORS.register(key)

    @abstractmethod
    def __call__(self, data: Tensor, block_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the lower and upper end of the range of each block of `data`.

        Args:
            data: any floating dtype and shape.
            block_size: the size of a block along each axis (-1: the whole axis); empty for one block.

        Returns:
            two float32 tensors with one element per block, 0-d for one block.
        """


RANGE_CALCULATORS.base = RangeCalculatorBase


@RangeCalculatorBase.register("minmax")
class MinMaxRangeCalculator(RangeCalculatorBase):
    """The range from the least to the greatest element."""

    def __call__(self, data: Tensor, block_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See the base class."""
        return block_range(data, block_size)

    def __eq__(self, other: Any) -> bool:
        return type(self) is type(other)

    __hash__ = object.__hash__


class SpecFields:
    """The fields of a component's spec as its own attributes, which clients of coreai-opt read."""

    spec: QuantizationSpec

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the codes."""
        return self.spec.dtype

    @property
    def n_bits(self) -> int:
        """The bits of a code."""
        return self.spec.n_bits

    @property
    def qscheme(self) -> QuantizationScheme:
        """The scheme of the spec."""
        return self.spec.qscheme

    @property
    def qformulation(self) -> QuantizationFormulation:
        """The formulation of the spec."""
        return self.spec.qformulation

    @property
    def target_dtype(self) -> torch.dtype:
        """The dtype that holds the codes."""
        return self.spec.target_dtype

    @property
    def quant_min(self) -> float:
        """The least code."""
        return self.spec.quant_min

    @property
    def quant_max(self) -> float:
        """The greatest code."""
        return self.spec.quant_max


class QParamsCalculatorBase(nn.Module, SpecFields):
    """Base of calculators of scale, zero point and minimum value.

    ``@QParamsCalculatorBase.register("key")`` makes one available to specs. A calculator belongs to one quantizer;
    `block_size` is the size of a block along each axis (empty for one block). Keyword-only parameters of its
    constructor are options, which a spec sets as ``"key{name=value}"``.

    Attributes:
        is_traceable: whether torch can compile it, which requires torch ops only and no branches on tensor values. A
            quantizer with another calculator runs uncompiled.
        data_dtype: the dtype of the values to quantize, the narrowest if they differ. It follows casts of the model.
    """

    is_traceable: ClassVar[bool] = False
    data_dtype: torch.dtype = torch.float32

    def __init__(self, spec: QuantizationSpec, block_size: Sequence[int] = ()):
        super().__init__()
        self.spec = spec
        self.block_size = tuple(block_size)
        self.range_calculator: RangeCalculatorBase = RANGE_CALCULATORS.make(spec.range_calculator_cls)

    @staticmethod
    def register(key: str) -> Callable[[C], C]:
        """Class decorator: make the class available to specs as `key`."""
        return QPARAM_CALCULATORS.register(key)

    def suited(self, *, is_state: bool) -> QParamsCalculatorBase:
        """Return the calculator for a weight (`is_state`) or an activation: itself, or its counterpart there."""
        return self

    @abstractmethod
    def observe(self, data: Tensor) -> None:
        """Observe `data`, the first value of a batch."""

    def observe_more(self, data: Tensor) -> None:
        """Observe `data`, a further value of the last batch.

        A quantizer that several points share sees several values per run, which count as one observation.
        """
        self.observe(data)

    def observed_example(self) -> None:
        """Be told that what was observed so far is the example given to `prepare`."""

    @abstractmethod
    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """Return scale, zero point and minimum value for quantizing `data`, or None before any observation."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QParamsCalculatorBase:
        """Move ranges and scales with the model, but keep them in float32 when it is cast."""
        self.data_dtype = fn(torch.zeros((), dtype=self.data_dtype)).dtype
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            kept = before[name]
            if buffer is not None and kept is not None and buffer.dtype is not kept.dtype:
                self._buffers[name] = kept.to(buffer.device)
        return self

    @property
    def granularity(self) -> Granularity:
        """The granularity of the spec, with the axis that the blocks run along."""
        return with_axis_of_block(self.spec.granularity, self.block_size)

    @property
    def has_observed(self) -> bool:
        """True if `qparams` is based on data."""
        return self.qparams() is not None

    def traced_condition(self) -> Tensor | None:
        """Return a 0-d bool tensor, whether to quantize by `qparams` in a compiled model, or None for always."""
        return None

    def from_range(self, low: Tensor, high: Tensor) -> QParams:
        """Return the parameters for a range, by the spec's scheme and formulation; `float_range` overrides it."""
        return qparams_for(low, high, self.spec, data_dtype=self.data_dtype)

    def extra_repr(self) -> str:
        """Return dtype and scheme of the spec."""
        return f"{self.spec.dtype}, {self.spec.qscheme.value}"


QPARAM_CALCULATORS.base = QParamsCalculatorBase


class StatelessQParamsCalculatorBase(QParamsCalculatorBase):
    """Base of calculators that depend only on the tensor to quantize."""

    def observe(self, data: Tensor) -> None:
        """Ignore `data`."""

    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """Return the parameters for the range of `data`."""
        if data is None:
            return None
        return self.from_range(*self.range_calculator(data, self.block_size))


@QParamsCalculatorBase.register("static")
class StaticQParamsCalculator(StatelessQParamsCalculatorBase):
    """The range of a constant tensor, the default for weights.

    For activations ``"static"`` is the range of the last tensor observed (`LastRangeQParamsCalculator`).
    """

    is_traceable = True

    def suited(self, *, is_state: bool) -> QParamsCalculatorBase:
        """See the class."""
        return self if is_state else LastRangeQParamsCalculator(self.spec, self.block_size)


@QParamsCalculatorBase.register("dynamic")
class DynamicQParamsCalculator(StatelessQParamsCalculatorBase):
    """The range of the tensor to quantize, computed in every run."""

    is_traceable = True


class StatefulQParamsCalculatorBase(QParamsCalculatorBase):
    """Base of calculators that accumulate a range over observations.

    Buffers: `running_min`, `running_max` (one entry per block), `observations` (number of tensors observed), `skipped`
    (number of tensors with NaN or infinity) and `edges` (number of tensors with the edges of an attention mask).
    """

    running_min: Tensor
    running_max: Tensor
    observations: Tensor
    skipped: Tensor
    edges: Tensor

    growing: ClassVar[tuple[str, ...]] = ("running_min", "running_max")
    """Buffers that get their shapes from the first observation."""

    def __init__(self, spec: QuantizationSpec, block_size: Sequence[int] = ()):
        super().__init__(spec, block_size)
        self.register_buffer("running_min", torch.zeros(()))
        self.register_buffer("running_max", torch.zeros(()))
        self.register_buffer("observations", torch.zeros((), dtype=torch.long))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.long))
        self.register_buffer("edges", torch.zeros((), dtype=torch.long))
        self._known = Remembered[QParams | None]()

    def observe(self, data: Tensor) -> None:
        """Observe `data`; tensors with NaN or plus infinity are skipped.

        Values at the lower end of the dtype are the edges of a mask. They are excluded from the range; if half of the
        tensors observed have them, the value is treated as a mask and not quantized.
        """
        found = self._without_edges(data)
        if found is not None:
            data, low, high, has_edges = found
            self.edges += has_edges
            self.observations += 1
            self.remember(data, low, high)

    def _without_edges(self, data: Tensor) -> tuple[Tensor, Tensor, Tensor, bool] | None:
        """Return `data` without mask edges, its range, and whether it had edges; None if it is skipped."""
        if None not in self.spec.float_range or data.numel() == 0:
            return None
        low, high = self.range_calculator(data, self.block_size)
        edge = torch.finfo(data.dtype).min / 2
        if bool((low > edge).all() & torch.isfinite(high).all()):
            return data, low, high, False
        if not bool(torch.isfinite(high).all()) or bool((data <= edge).all()):
            self.skipped += 1
            return None
        data = torch.where(data > edge, data, 0)
        return data, *self.range_calculator(data, self.block_size), True

    @abstractmethod
    def remember(self, data: Tensor, low: Tensor, high: Tensor) -> None:
        """Update the state with finite `data`, whose range in each block is ``[low, high]``.

        `observations` already includes it.
        """

    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """Return the parameters for the accumulated range, or for the fixed range of the spec."""
        state = (self.running_min, self.running_max, self.observations, self.edges)
        return self._known.get(state, self._from_running_range, self.data_dtype)

    def _from_running_range(self) -> QParams | None:
        if not torch.compiler.is_compiling() and (not self.has_observed or self.is_mask):
            return None
        return self.from_range(self.running_min, self.running_max)

    @property
    def has_observed(self) -> bool:
        """True if a tensor was observed or the spec fixes both ends."""
        return None not in self.spec.float_range or self.observations.item() > 0

    def traced_condition(self) -> Tensor | None:
        """See the base class."""
        if None not in self.spec.float_range:
            return None
        return (self.observations > 0) & ~((self.edges > 0) & (2 * self.edges >= self.observations))

    @property
    def is_mask(self) -> bool:
        """True if the observed values are those of a mask, which must not be rounded."""
        return self.edges.item() > 0 and 2 * self.edges.item() >= self.observations.item()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.growing:
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != getattr(self, name).shape:
                setattr(self, name, torch.zeros_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)


class RunningRangeMixin(StatefulQParamsCalculatorBase):
    """Base of stateful calculators with an update rule for the range; override `update_running_range`.

    All observations of a batch, at all points that share the quantizer, count as one range, their union. The new state
    is computed from the state before the batch, which is kept but not saved.

    Additional buffers: `batch_min`, `batch_max` (the range of the batch so far, empty before any observation),
    `batch_values` (how many values of the batch the range of a block is of, at the point that has most), `before_min`,
    `before_max`, `before_edges` (the state before the batch).
    """

    is_traceable = True
    state: ClassVar[tuple[str, ...]] = ("running_min", "running_max", "batch_min", "batch_max", "batch_values")
    """Buffers that an observation changes, unless it is skipped."""

    batch_min: Tensor
    batch_max: Tensor
    batch_values: Tensor
    before_min: Tensor
    before_max: Tensor
    before_edges: Tensor

    def __init__(self, spec: QuantizationSpec, block_size: Sequence[int] = ()):
        super().__init__(spec, block_size)
        for name, value in (("batch_min", torch.inf), ("batch_max", -torch.inf), ("before_min", 0), ("before_max", 0)):
            self.register_buffer(name, torch.full((), float(value)), persistent=False)
        for name in ("batch_values", "before_edges"):
            self.register_buffer(name, torch.zeros((), dtype=torch.long), persistent=False)

    def observe(self, data: Tensor) -> None:
        """See the base class."""
        self._begin_batch()
        self.observe_more(data)

    def _begin_batch(self) -> None:
        self.batch_min = torch.full_like(self.running_min, torch.inf)
        self.batch_max = torch.full_like(self.running_max, -torch.inf)
        self.batch_values = torch.zeros_like(self.batch_values)
        self.before_min, self.before_max, self.before_edges = self.running_min, self.running_max, self.edges.clone()

    def observe_more(self, data: Tensor) -> None:
        """See the base class."""
        if torch.compiler.is_compiling():
            self._observe_traced(data)
            return
        found = self._without_edges(data)
        if found is not None:
            data, low, high, has_edges = found
            self.observations += bool((self.batch_min > self.batch_max).all())
            self.edges = torch.maximum(self.edges, self.before_edges + has_edges)
            self.remember(data, low, high)

    def _observe_traced(self, data: Tensor) -> None:
        """Observe further data without branches on its values, so that torch compiles the model as one graph."""
        if None not in self.spec.float_range or data.numel() == 0:
            return
        edge = torch.finfo(data.dtype).min / 2
        low, high = self.range_calculator(data, self.block_size)
        is_good = (low > edge).all() & torch.isfinite(high).all()
        is_skipped = ~torch.isfinite(high).all() | (data <= edge).all()
        low, high = self.range_calculator(torch.where(data > edge, data, 0), self.block_size)
        self.skipped += is_skipped
        self.edges = torch.maximum(self.edges, self.before_edges + ~(is_good | is_skipped))
        self.observations += ~is_skipped & (self.batch_min > self.batch_max).all()
        old = [getattr(self, name) for name in self.state]
        self._widen_batch(data, low, high)
        self.running_min, self.running_max = self.before_min, self.before_max
        updated = self.update_running_range(self.batch_min, self.batch_max)
        first = self.batch_min, self.batch_max
        self.running_min, self.running_max = (
            torch.where(self.observations == 1, *both) for both in zip(first, updated, strict=True)
        )
        for name, kept in zip(self.state, old, strict=True):
            later = getattr(self, name)
            setattr(self, name, torch.where(is_skipped, kept.expand_as(later), later))

    def _widen_batch(self, data: Tensor, low: Tensor, high: Tensor) -> None:
        self.batch_min, self.batch_max = torch.minimum(self.batch_min, low), torch.maximum(self.batch_max, high)
        self.batch_values = self.batch_values.clamp(min=data.numel() // low.numel())

    def remember(self, data: Tensor, low: Tensor, high: Tensor) -> None:
        """Store the range of the first batch, and update it by the rule for later ones."""
        self._widen_batch(data, low, high)
        self.running_min, self.running_max = self.before_min, self.before_max
        rule = self.first_running_range if self.observations == 1 else self.update_running_range
        self.running_min, self.running_max = rule(self.batch_min, self.batch_max)

    def first_running_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return `running_min` and `running_max` after the first batch, which has this range: the range itself."""
        return low.clone(), high.clone()

    @abstractmethod
    def update_running_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new `running_min` and `running_max` after a batch with this range.

        `observations` already includes the batch.
        """


class LastRangeQParamsCalculator(RunningRangeMixin):
    """The range of the last tensor observed, which ``"static"`` means for activations."""

    def update_running_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        return low.clone(), high.clone()


@QParamsCalculatorBase.register("moving_average")
class MovingAverageQParamsCalculator(RunningRangeMixin):
    """The bias-corrected moving average of the observed ranges, the default for activations.

    A range is of at least `min_values` values: batches with fewer are joined until they have as many, so that the
    result does not depend on how the data is cut into batches. The range of a few values is narrower than the one with
    the least squared error, which in 8 bits ends at 3.9 standard deviations of a normal distribution and at 9.9 times
    the scale of a Laplace distribution (arXiv 1810.05723): one value of 11,000 and one of 20,000 are outside. The
    range of the example given to `prepare`, which may be anything, counts until the first batch is observed.

    With averaging constant c the n-th range has weight ``c / (1 - (1 - c)^n)``, which falls from 1 to c (the bias
    correction of Adam, arXiv 1412.6980, section 3).

    Additional buffers: `joined` (how many ranges were averaged), `open_min`, `open_max`, `open_values` (the batches
    since then, which have too few values), and the same with `before_` (before the last batch).
    """

    growing: ClassVar[tuple[str, ...]] = (*RunningRangeMixin.growing, "open_min", "open_max")
    state: ClassVar[tuple[str, ...]] = (*RunningRangeMixin.state, "joined", "open_min", "open_max", "open_values")

    joined: Tensor
    open_min: Tensor
    open_max: Tensor
    open_values: Tensor
    before_joined: Tensor
    before_open_min: Tensor
    before_open_max: Tensor
    before_open_values: Tensor

    def __init__(
        self,
        spec: QuantizationSpec,
        block_size: Sequence[int] = (),
        *,
        averaging_constant: float = 0.01,
        min_values: int = 10_000,
    ) -> None:
        super().__init__(spec, block_size)
        self.averaging_constant = averaging_constant
        self.min_values = min_values
        for prefix, is_saved in (("", True), ("before_", False)):
            for name in ("joined", "open_values"):
                self.register_buffer(prefix + name, torch.zeros((), dtype=torch.long), persistent=is_saved)
            for name in ("open_min", "open_max"):
                self.register_buffer(prefix + name, torch.zeros(()), persistent=is_saved)

    def _begin_batch(self) -> None:
        super()._begin_batch()
        self.before_joined, self.before_open_values = self.joined, self.open_values
        self.before_open_min, self.before_open_max = self.open_min, self.open_max

    def observed_example(self) -> None:
        """See the class: the next batch begins the average."""
        self.joined, self.open_values = torch.zeros_like(self.joined), torch.zeros_like(self.open_values)

    def first_running_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        return self.update_running_range(low, high)

    def update_running_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        if torch.compiler.is_compiling():
            return self._update_traced(low, high)
        if self.before_open_values.item():
            low, high = torch.minimum(self.before_open_min, low), torch.maximum(self.before_open_max, high)
        values = int(self.before_open_values) + int(self.batch_values)
        joined, is_whole = int(self.before_joined), values >= self.min_values
        self.joined = self.before_joined + is_whole
        self.open_min, self.open_max = low, high
        self.open_values = torch.full_like(self.open_values, 0 if is_whole else values)
        if joined == 0:
            return low.clone(), high.clone()
        if not is_whole:
            return self.running_min, self.running_max
        weight = self.averaging_constant / (1 - (1 - self.averaging_constant) ** (joined + 1))
        return torch.lerp(self.running_min, low, weight), torch.lerp(self.running_max, high, weight)

    def _update_traced(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Update without branches on values."""
        is_open = self.before_open_values > 0
        low = torch.where(is_open, torch.minimum(self.before_open_min, low), low)
        high = torch.where(is_open, torch.maximum(self.before_open_max, high), high)
        values = self.before_open_values + self.batch_values
        is_whole = values >= self.min_values
        self.joined = self.before_joined + is_whole
        self.open_min, self.open_max = low, high
        self.open_values = torch.where(is_whole, 0, values)
        weight = self.averaging_constant / (1 - (1 - self.averaging_constant) ** (self.before_joined + 1).double())
        weight = torch.where(self.before_joined == 0, 1.0, torch.where(is_whole, weight, 0.0)).float()
        return torch.lerp(self.running_min, low, weight), torch.lerp(self.running_max, high, weight)


@QParamsCalculatorBase.register("global_minmax")
class GlobalMinMaxQParamsCalculator(RunningRangeMixin):
    """The union of all observed ranges."""

    def update_running_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        return torch.minimum(self.running_min, low), torch.maximum(self.running_max, high)
