"""Palettized parameters of prepared modules: a float parameter with lookup tables as buffers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import attrs
import torch
from attrs import astuple, define
from torch import Tensor, nn

from graphpress.modules.masks import MASK
from graphpress.modules.planning import PlannedWeight
from graphpress.modules.remembering import Remembered, outside_inference
from graphpress.modules.surgery import FakeCompressed, install
from graphpress.palettization.learning import held_parts, learned_tables, parts_of, with_gradients
from graphpress.passes.config import (
    PalettizationSpec,
    StraightThroughTrainingSpec,
    TableTrainingSpec,
    VectorKMeansConfig,
)
from graphpress.passes.config.axes import weight_axis
from graphpress.passes.weights import Layout, LearnedTables, PalettizationError, PalettizedWeight, assign, layout_of
from graphpress.passes.weights.palettized_weight import dense_of_parts

T = TypeVar("T", bound=Tensor)

_PARTS = ("indices", "lut", "scale", "zero_point", "minval")


@define(eq=False, slots=False)
class FakePalettized(FakeCompressed):
    """A float parameter that is read as its palettized value; the lookup tables are buffers of the module.

    Attributes:
        spec: the palettization spec.
        op_type: the type of the op that reads it.
        axis, dtype: those of the `PalettizedWeight`.
        start: the first training step with palettization.
        enabled: False uses the float parameter.
        vectors: the effort of vector clustering, for a repeated clustering.
    """

    spec: PalettizationSpec
    op_type: str
    axis: int
    dtype: torch.dtype
    start: int = 0
    enabled: bool = True
    vectors: VectorKMeansConfig | None = None
    _dense: Remembered[Tensor] = attrs.field(factory=Remembered, init=False, repr=False)
    _made: Remembered[bool] = attrs.field(factory=Remembered, init=False, repr=False)
    _assigned: Remembered[bool] = attrs.field(factory=Remembered, init=False, repr=False)

    @property
    def is_trained(self) -> bool:
        """True if the float parameter gets a gradient and its indices follow it."""
        strategy = self.spec.training_strategy_spec
        if isinstance(strategy, TableTrainingSpec):
            return strategy.assignments == "nearest"
        return isinstance(strategy, StraightThroughTrainingSpec)

    @property
    def learns_tables(self) -> bool:
        """True if the LUT entries get a gradient."""
        return isinstance(self.spec.training_strategy_spec, TableTrainingSpec)

    def value(self, module: nn.Module) -> Tensor:
        """Return the palettized parameter, or the float one if disabled."""
        if torch.compiler.is_dynamo_compiling() and not (self.is_trained or self.learns_tables):
            # torch traces the branches of `torch.cond` as a whole
            return self._traced(module) if self.enabled else self.parameter(module)
        return self._untraced(module)

    def _traced(self, module: nn.Module) -> Tensor:
        """Return the palettized parameter without caches and records, which torch cannot trace."""
        indices, lut, scale, zero_point, minval = (module._buffers.get(f"{self.name}_{part}") for part in _PARTS)
        assert indices is not None
        assert lut is not None
        return dense_of_parts(indices, lut, self.axis, scale, zero_point, minval, self.dtype)

    @torch._disable_dynamo  # type: ignore[attr-defined] # compiled models use the cached weight and these gradients
    def _untraced(self, module: nn.Module) -> Tensor:
        parameter = self.parameter(module)
        if not self.enabled:
            return parameter
        mask = self.mask(module)
        if mask is not None and self.is_trained and torch.is_grad_enabled():
            return torch.where(mask, self._palettized(module, parameter), torch.zeros_like(parameter))
        return self._palettized(module, parameter)

    def _palettized(self, module: nn.Module, parameter: Tensor) -> Tensor:
        self.settle(module)
        stored = self.stored(module)
        dense = self._dense.get([*tensors_of(stored).values()], lambda: outside_inference(stored.dense))
        if self.learns_tables and torch.is_grad_enabled():
            tables, layout = learned_tables(module, self.name), self._layout(parameter)
            return with_gradients(parameter, tables, dense, stored.indices, self.spec, layout, self.is_trained)
        if self.is_trained and torch.is_grad_enabled() and parameter.requires_grad:
            passed: Tensor = _PassGradient.apply(parameter, dense)
            return passed
        return dense

    def parametrization(self, module: nn.Module) -> nn.Module:
        """See the base class."""
        return Palettization(self, module)

    def settle(self, module: nn.Module) -> None:
        """Store the trained lookup tables, and assign each element to its nearest entry."""
        parameter = self.parameter(module)
        if self.learns_tables:
            learned = learned_tables(module, self.name)
            self._made.get([t for t in astuple(learned, recurse=False) if t is not None], lambda: self._make(module))
        if self.is_trained:
            tables = [t for part, t in tensors_of(self.stored(module)).items() if part != "indices"]
            self._assigned.get([parameter, *tables], lambda: self._reassign(module, parameter))

    def stored(self, module: nn.Module) -> PalettizedWeight:
        """Return the palettized weight that the buffers of `module` hold."""
        parts: dict[str, Any] = {part: module._buffers.get(f"{self.name}_{part}") for part in _PARTS}
        mask = self.mask(module)
        return PalettizedWeight(axis=self.axis, n_bits=self.spec.n_bits, dtype=self.dtype, mask=mask, **parts)

    def beside(self, module: nn.Module) -> Mapping[str, Tensor]:
        """See the base class."""
        mask = self.mask(module)
        parts = tensors_of(self.stored(module)) | held_parts(module, self.name) | ({} if mask is None else {MASK: mask})
        return self._named(parts)

    def replace(self, module: nn.Module, weight: PalettizedWeight) -> None:
        """Overwrite the buffers and trained parameters, which tied modules share."""
        parts = {**tensors_of(weight), **self.trained_parts(module, weight)}
        _overwrite({**module._parameters, **module._buffers}, self._named(parts))

    def trained_parts(self, module: nn.Module, weight: PalettizedWeight) -> dict[str, nn.Parameter | Tensor]:
        """Return the initial tensors of LUT training by name; empty if the tables are not trained."""
        if not self.learns_tables:
            return {}
        return parts_of(LearnedTables.of(weight, self.parameter(module), self.spec, self.op_type))

    def _named(self, parts: Mapping[str, T]) -> dict[str, T]:
        """Return `parts` by their names in the module."""
        return {f"{self.name}_{part}": tensor for part, tensor in parts.items()}

    def _layout(self, parameter: Tensor) -> Layout:
        return layout_of(tuple(parameter.shape), self.spec, self.op_type, self.name)

    def _make(self, module: nn.Module) -> bool:
        """Store the current lookup tables."""
        with torch.inference_mode(False), torch.no_grad():
            before, tables = self.stored(module), learned_tables(module, self.name)
            weight = tables.stored(before.indices, self.spec, self._layout(self.parameter(module)), self.dtype)
        _overwrite(module._buffers, self._named(tensors_of(weight)))
        return True

    def _reassign(self, module: nn.Module, parameter: Tensor) -> bool:
        indices = assign(parameter, self.stored(module), self.spec, self.op_type)
        _overwrite(module._buffers, self._named({"indices": indices}))
        return True


class Palettization(nn.Module):
    """The palettization of one parameter as a module: the fields of its spec, which clients of coreai-opt read."""

    def __init__(self, form: FakePalettized, module: nn.Module):
        super().__init__()
        spec = form.spec
        self.n_bits = spec.n_bits
        self.lut_qspec = spec.lut_qspec
        self.cluster_dim = spec.cluster_dim
        self.enable_per_channel_scale = spec.enable_per_channel_scale
        self.sparsity_detection_threshold = spec.sparsity_detection_threshold
        granularity: Any = spec.granularity
        axis = weight_axis(granularity, form.op_type)
        self.granularity = granularity if axis is None else attrs.evolve(granularity, axis=axis)
        self._value = partial(form.value, module)

    def forward(self, parameter: Tensor) -> Tensor:
        """Return the palettized parameter; `parameter` is the stored one."""
        return self._value()


class _PassGradient(torch.autograd.Function):
    """Straight-through estimator: the palettized value, with its gradient to the parameter (arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, dense: Tensor) -> Tensor:
        return dense.view_as(dense)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


def _overwrite(held: Mapping[str, Tensor | None], tensors: Mapping[str, Tensor]) -> None:
    """Overwrite held tensors that differ, outside inference mode, so that their versions change."""
    with torch.inference_mode(False), torch.no_grad():
        for name, tensor in tensors.items():
            kept = held[name]
            assert kept is not None
            if kept is not tensor and not _same_bits(kept, tensor):
                kept.copy_(tensor)


def _same_bits(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.contiguous().view(torch.uint8), right.to(left.dtype).contiguous().view(torch.uint8))


def tensors_of(weight: PalettizedWeight) -> dict[str, Tensor]:
    """Return the tensors of a palettized weight, by the suffixes of their buffers."""
    return {part: tensor for part in _PARTS if (tensor := getattr(weight, part)) is not None}


def install_palettized(weight: PlannedWeight, palettized: PalettizedWeight) -> None:
    """Make every module with this parameter read the palettized value; tied modules share the buffers.

    Raises:
        PalettizationError: if a module already uses the name of a buffer.
    """
    schedule = getattr(weight.module_config, "pat_schedule", None)
    start = 0 if schedule is None else schedule.enable_fake_palettize
    parts: dict[str, Tensor] = {}
    for site in weight.places:
        form = FakePalettized(site.name, weight.spec, weight.op_type, palettized.axis, palettized.dtype, start=start)
        form.vectors = getattr(weight.module_config, "vector_kmeans_config", None)
        parts = parts or {**tensors_of(palettized), **form.trained_parts(site.module, palettized)}
        install(site, form, {f"{site.name}_{part}": tensor for part, tensor in parts.items()}, PalettizationError)
