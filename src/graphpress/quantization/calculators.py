"""Calculators of ranges and of quantization parameters."""

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
    QuantizationSpec,
)
from graphpress.passes.weights.quantize import QParams, qparams_for

C = TypeVar("C", bound=type)


class RangeCalculatorBase(ABC):
    """Base of range calculators. Register one with ``@RangeCalculatorBase.register("key")`` and name it in a spec."""

    @staticmethod
    def register(key: str) -> Callable[[C], C]:
        """Class decorator: make the class available to specs as `key`."""
        return RANGE_CALCULATORS.register(key)

    @abstractmethod
    def __call__(self, data: Tensor, block_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the range of each block of `data`.

        Args:
            data: any floating dtype and shape.
            block_size: the extent of a block along each axis (-1: the whole axis); empty for one block.

        Returns:
            two float32 tensors with one element per block, 0-d for one block.
        """


@RangeCalculatorBase.register("minmax")
class MinMaxRangeCalculator(RangeCalculatorBase):
    """The least and greatest element."""

    def __call__(self, data: Tensor, block_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See the base class."""
        return block_range(data, block_size)

    def __eq__(self, other: Any) -> bool:
        return type(self) is type(other)

    __hash__ = object.__hash__


class QParamsCalculatorBase(nn.Module):
    """Base of the calculators of scale, zero point and minimum value.

    Register one with ``@QParamsCalculatorBase.register("key")`` and name it in a spec. A calculator is made for one
    quantizer: `spec` says what it computes for, `block_size` the extent of a block along each axis (empty for one
    block). Keyword-only parameters of its constructor are options, which a spec gives as ``"key{name=value}"``.

    Attributes:
        is_traceable: whether torch can compile it: no branch on what a tensor holds, nothing but torch. A quantizer
            whose calculator is not runs as it does without a compiler.
    """

    is_traceable: ClassVar[bool] = False

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
        """The calculator to use for a weight (`is_state`) or an activation: itself, or what its name means there."""
        return self

    @abstractmethod
    def observe(self, data: Tensor) -> None:
        """Take `data` into account, the first value of a batch."""

    def observe_more(self, data: Tensor) -> None:
        """Take `data` into account, a further value of the batch that was observed last.

        A quantizer that several points share sees several values in a run, which are one observation.
        """
        self.observe(data)

    @abstractmethod
    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """Scale, zero point and minimum value, for quantizing `data`; None when nothing was seen yet."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QParamsCalculatorBase:
        """Ranges and scales move with the model and stay in float32 when it is cast."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            kept = before[name]
            if buffer is not None and kept is not None and buffer.dtype is not kept.dtype:
                self._buffers[name] = kept.to(buffer.device)
        return self

    @property
    def has_observed(self) -> bool:
        """True when `qparams` rests on data."""
        return self.qparams() is not None

    def traced_condition(self) -> Tensor | None:
        """A bool tensor, 0-d: whether to quantize by `qparams`, where torch compiles and can't ask; None for surely."""
        return None

    def from_range(self, low: Tensor, high: Tensor) -> QParams:
        """The parameters that cover a range, by the spec's scheme and formulation; `float_range` overrides it."""
        return qparams_for(low, high, self.spec)

    def extra_repr(self) -> str:
        """The spec, in short."""
        return f"{self.spec.dtype}, {self.spec.qscheme.value}"


class StatelessQParamsCalculatorBase(QParamsCalculatorBase):
    """Base of calculators that look only at the tensor being quantized."""

    def observe(self, data: Tensor) -> None:
        """Nothing is kept."""

    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """From the range of `data` itself."""
        if data is None:
            return None
        return self.from_range(*self.range_calculator(data, self.block_size))


@QParamsCalculatorBase.register("static")
class StaticQParamsCalculator(StatelessQParamsCalculatorBase):
    """The range of the tensor itself, which is a constant: the default for weights.

    An activation is none: there ``"static"`` is the range of the last one seen (`LastRangeQParamsCalculator`).
    """

    is_traceable = True

    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """From the range of `data`, as a pass finds them."""
        if data is None:
            return None
        low, high = self.range_calculator(data, self.block_size)
        return qparams_for(low, high, self.spec, weight_dtype=data.dtype)

    def suited(self, *, is_state: bool) -> QParamsCalculatorBase:
        """See the class."""
        return self if is_state else LastRangeQParamsCalculator(self.spec, self.block_size)


@QParamsCalculatorBase.register("dynamic")
class DynamicQParamsCalculator(StatelessQParamsCalculatorBase):
    """The range of the tensor itself, computed at every run."""

    is_traceable = True


class StatefulQParamsCalculatorBase(QParamsCalculatorBase):
    """Base of calculators that remember what they have seen as a range.

    Buffers: `running_min`, `running_max` (one entry per block), `observations` (how many tensors entered), `skipped`
    (how many held something that is no number) and `edges` (how many held the edges of a mask).
    """

    running_min: Tensor
    running_max: Tensor
    observations: Tensor
    skipped: Tensor
    edges: Tensor

    growing: ClassVar[tuple[str, ...]] = ("running_min", "running_max")
    """Buffers whose shape is known once something was observed."""

    def __init__(self, spec: QuantizationSpec, block_size: Sequence[int] = ()):
        super().__init__(spec, block_size)
        self.register_buffer("running_min", torch.zeros(()))
        self.register_buffer("running_max", torch.zeros(()))
        self.register_buffer("observations", torch.zeros((), dtype=torch.long))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.long))
        self.register_buffer("edges", torch.zeros((), dtype=torch.long))
        self._known = Remembered[QParams | None]()

    def observe(self, data: Tensor) -> None:
        """Take `data` into account; data that holds NaN or plus infinity is skipped.

        Values at the lower end of the dtype are the edges of a mask, not data. They are left out of the range, and
        where half the tensors seen have them, the value is taken for a mask and not quantized at all.
        """
        found = self._without_edges(data)
        if found is not None:
            data, low, high, has_edges = found
            self.edges += has_edges
            self.observations += 1
            self.remember(data, low, high)

    def _without_edges(self, data: Tensor) -> tuple[Tensor, Tensor, Tensor, bool] | None:
        """`data` without the edges of a mask, its range, and whether it had such edges; None where it is skipped."""
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
        """Bring `data`, which is finite and has the range ``[low, high]`` in each block, into the state.

        `observations` counts it already.
        """

    def qparams(self, data: Tensor | None = None) -> QParams | None:
        """From the range seen so far, or the fixed one."""
        state = (self.running_min, self.running_max, self.observations, self.edges)
        return self._known.get(state, self._from_running_range)

    def _from_running_range(self) -> QParams | None:
        if not torch.compiler.is_compiling() and (not self.has_observed or self.is_mask):
            return None
        return self.from_range(self.running_min, self.running_max)

    @property
    def has_observed(self) -> bool:
        """True when a tensor was seen, or the spec fixes both ends."""
        return None not in self.spec.float_range or self.observations.item() > 0

    def traced_condition(self) -> Tensor | None:
        """See the base class."""
        if None not in self.spec.float_range:
            return None
        return (self.observations > 0) & ~((self.edges > 0) & (2 * self.edges >= self.observations))

    @property
    def is_mask(self) -> bool:
        """True when what was observed looks like a mask, which must not be rounded."""
        return self.edges.item() > 0 and 2 * self.edges.item() >= self.observations.item()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.growing:
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != getattr(self, name).shape:
                setattr(self, name, torch.zeros_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)


class RunningRangeMixin(StatefulQParamsCalculatorBase):
    """A stateful calculator whose range is updated by a rule: override `update_running_range`.

    What is observed in one batch, at all points that share the quantizer, counts as one range, the union. The state
    follows from the one before the batch, which is kept beside it; none of that is saved.

    Buffers beside those of the base: `batch_min`, `batch_max` (the range of the batch so far, empty where nothing was
    seen yet), `before_min`, `before_max`, `before_edges` (the state before the batch).
    """

    is_traceable = True

    batch_min: Tensor
    batch_max: Tensor
    before_min: Tensor
    before_max: Tensor
    before_edges: Tensor

    def __init__(self, spec: QuantizationSpec, block_size: Sequence[int] = ()):
        super().__init__(spec, block_size)
        for name, value in (("batch_min", torch.inf), ("batch_max", -torch.inf), ("before_min", 0), ("before_max", 0)):
            self.register_buffer(name, torch.full((), float(value)), persistent=False)
        self.register_buffer("before_edges", torch.zeros((), dtype=torch.long), persistent=False)

    def observe(self, data: Tensor) -> None:
        """See the base class."""
        self._begin_batch()
        self.observe_more(data)

    def _begin_batch(self) -> None:
        self.batch_min = torch.full_like(self.running_min, torch.inf)
        self.batch_max = torch.full_like(self.running_max, -torch.inf)
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
        """`observe_more` without a branch on what is in `data`, so that torch compiles the model as one graph."""
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
        old = self.running_min, self.running_max, self.batch_min, self.batch_max
        self.batch_min, self.batch_max = torch.minimum(self.batch_min, low), torch.maximum(self.batch_max, high)
        self.running_min, self.running_max = self.before_min, self.before_max
        updated = self.update_running_range(self.batch_min, self.batch_max)
        first = self.batch_min, self.batch_max
        new = *(torch.where(self.observations == 1, *both) for both in zip(first, updated, strict=True)), *first
        names = ("running_min", "running_max", "batch_min", "batch_max")
        for name, kept, later in zip(names, old, new, strict=True):
            setattr(self, name, torch.where(is_skipped, kept.expand_as(later), later))

    def remember(self, data: Tensor, low: Tensor, high: Tensor) -> None:
        """The range of the first batch is kept as it is, those of later ones enter by the rule."""
        self.batch_min, self.batch_max = torch.minimum(self.batch_min, low), torch.maximum(self.batch_max, high)
        if self.observations == 1:
            self.running_min, self.running_max = self.batch_min.clone(), self.batch_max.clone()
        else:
            self.running_min, self.running_max = self.before_min, self.before_max
            self.running_min, self.running_max = self.update_running_range(self.batch_min, self.batch_max)

    @abstractmethod
    def update_running_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """What `running_min` and `running_max` become with the range of one more batch.

        `observations` counts it already.
        """


class LastRangeQParamsCalculator(RunningRangeMixin):
    """The range of the last tensor seen: what ``"static"`` means for activations."""

    def update_running_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        return low.clone(), high.clone()


@QParamsCalculatorBase.register("moving_average")
class MovingAverageQParamsCalculator(RunningRangeMixin):
    """The moving average of the ranges seen, corrected for its start: the default for activations.

    With constant c the n-th range has weight ``c / (1 - (1 - c)^n)``, which is 1 for the first and falls to c, so
    that early tensors do not linger (the correction of Adam, arXiv 1412.6980, section 3).
    """

    def __init__(
        self, spec: QuantizationSpec, block_size: Sequence[int] = (), *, averaging_constant: float = 0.01
    ) -> None:
        super().__init__(spec, block_size)
        self.averaging_constant = averaging_constant

    def update_running_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        constant, count = self.averaging_constant, self.observations
        weight: Any = constant / (
            1 - (1 - constant) ** (count.double() if torch.compiler.is_compiling() else int(count))
        )
        if torch.compiler.is_compiling():
            weight = weight.float()
        return self.running_min + weight * (low - self.running_min), self.running_max + weight * (
            high - self.running_max
        )


@QParamsCalculatorBase.register("global_minmax")
class GlobalMinMaxQParamsCalculator(RunningRangeMixin):
    """The widest range seen."""

    def update_running_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        return torch.minimum(self.running_min, low), torch.maximum(self.running_max, high)
