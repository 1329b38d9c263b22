"""Palettized parameters of modules: before `finalize`, beside the float parameter, and after it, as stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from attrs import astuple, define
from torch import Tensor, nn

from graphpress.backends.coreai import register
from graphpress.modules.forms import ParameterForm, forms_of
from graphpress.palettization.learning import learned_tables, parts_of, with_gradients
from graphpress.passes.config import PalettizationSpec, StraightThroughTrainingSpec, TableTrainingSpec
from graphpress.passes.weights import Layout, LearnedTables, PalettizedWeight, assign, layout_of
from graphpress.pruning.forms import MASK
from graphpress.pruning.restoring import mask_beside
from graphpress.quantization.remembering import Remembered

_PARTS = ("indices", "lut", "scale", "zero_point", "minval")
_STORED = (*_PARTS, MASK)


@define(eq=False, slots=False)
class FakePalettized(ParameterForm):
    """A float parameter read as its palettized self. The tables are buffers beside it.

    Attributes:
        name: of the parameter.
        spec: how it is palettized.
        op_type: of the op that reads it.
        axis, dtype: of the `PalettizedWeight`.
        start: the training step from which it is used.
        enabled: False lets the float parameter through.
    """

    name: str
    spec: PalettizationSpec
    op_type: str
    axis: int
    dtype: torch.dtype
    start: int = 0
    enabled: bool = True
    _dense: Remembered[Tensor] = attrs.field(factory=Remembered, init=False, repr=False)
    _made: Remembered[bool] = attrs.field(factory=Remembered, init=False, repr=False)
    _assigned: Remembered[bool] = attrs.field(factory=Remembered, init=False, repr=False)

    @property
    def is_trained(self) -> bool:
        """True where the gradient reaches the float parameter, and its indices follow it."""
        strategy = self.spec.training_strategy_spec
        if isinstance(strategy, TableTrainingSpec):
            return strategy.assignments == "nearest"
        return isinstance(strategy, StraightThroughTrainingSpec)

    @property
    def learns_tables(self) -> bool:
        """True where the gradient reaches the entries of the tables."""
        return isinstance(self.spec.training_strategy_spec, TableTrainingSpec)

    def qualified_name(self, path: str) -> str:
        """The parameter's name in the model, where `path` is that of its module."""
        return f"{path}.{self.name}" if path else self.name

    @torch._disable_dynamo  # type: ignore[attr-defined] # a compiled model takes the weight as it is kept, and gradients as they are written here
    def value(self, module: nn.Module) -> Tensor:
        """The palettized parameter, or, while not enabled, the float one."""
        parameter = module._parameters[self.name]
        assert parameter is not None
        if not self.enabled:
            return parameter
        mask = self.mask(module)
        if mask is not None and self.is_trained and torch.is_grad_enabled():
            return torch.where(mask, self._palettized(module, parameter), torch.zeros_like(parameter))
        return self._palettized(module, parameter)

    def mask(self, module: nn.Module) -> Tensor | None:
        """Where a pruned parameter is kept, which is where it may learn; None for others."""
        return mask_beside(module, self.name)

    def _palettized(self, module: nn.Module, parameter: Tensor) -> Tensor:
        self.follow(module)
        stored = self.stored(module)
        dense = self._dense.get([*tensors_of(stored).values()], lambda: _outside_inference(stored))
        if self.learns_tables and torch.is_grad_enabled():
            tables, layout = learned_tables(module, self.name), self._layout(parameter)
            return with_gradients(parameter, tables, dense, stored.indices, self.spec, layout, self.is_trained)
        if self.is_trained and torch.is_grad_enabled() and parameter.requires_grad:
            passed: Tensor = _PassGradient.apply(parameter, dense)
            return passed
        return dense

    def follow(self, module: nn.Module) -> None:
        """Store the tables as training may have moved them, and give each element the entry nearest to it."""
        parameter = module._parameters[self.name]
        if parameter is None:
            return
        if self.learns_tables:
            learned = learned_tables(module, self.name)
            self._made.get([t for t in astuple(learned, recurse=False) if t is not None], lambda: self._make(module))
        if self.is_trained:
            tables = [t for part, t in tensors_of(self.stored(module)).items() if part != "indices"]
            self._assigned.get([parameter, *tables], lambda: self._reassign(module, parameter))

    def stored(self, module: nn.Module) -> PalettizedWeight:
        """The buffers of `module` as one palettized weight."""
        parts: dict[str, Any] = {part: module._buffers.get(f"{self.name}_{part}") for part in _PARTS}
        return PalettizedWeight(axis=self.axis, n_bits=self.spec.n_bits, dtype=self.dtype, **parts)

    def replace(self, module: nn.Module, weight: PalettizedWeight) -> None:
        """Overwrite the buffers, and what is trained; modules tied to this one, which have the same ones, follow."""
        _overwrite(module._buffers, {f"{self.name}_{part}": tensor for part, tensor in tensors_of(weight).items()})
        if self.learns_tables:
            parts = {f"{self.name}_{part}": tensor for part, tensor in self.trained_parts(module, weight).items()}
            _overwrite({**module._parameters, **module._buffers}, parts)

    def trained_parts(self, module: nn.Module, weight: PalettizedWeight) -> dict[str, nn.Parameter | Tensor]:
        """What training of the tables starts from, by name; nothing where they stay."""
        parameter = module._parameters[self.name]
        assert parameter is not None
        if not self.learns_tables:
            return {}
        return parts_of(LearnedTables.of(weight, parameter, self.spec, self.op_type))

    def _layout(self, parameter: Tensor) -> Layout:
        return layout_of(tuple(parameter.shape), self.spec, self.op_type, self.name)

    def _make(self, module: nn.Module) -> bool:
        """Store the tables as they are now."""
        with torch.inference_mode(False), torch.no_grad():
            before, parameter = self.stored(module), module._parameters[self.name]
            assert parameter is not None
            tables = learned_tables(module, self.name)
            weight = tables.stored(before.indices, self.spec, self._layout(parameter), self.dtype)
        _overwrite(module._buffers, {f"{self.name}_{part}": tensor for part, tensor in tensors_of(weight).items()})
        return True

    def _reassign(self, module: nn.Module, parameter: Tensor) -> bool:
        indices = assign(parameter, self.stored(module), self.spec, self.op_type)
        _overwrite(module._buffers, {f"{self.name}_indices": indices})
        return True


@define(eq=False, slots=False)
class StoredTable(ParameterForm):
    """A parameter that exists only as indices and tables, expanded by the ops that Core AI stores.

    Attributes:
        name: of the parameter; its buffers are ``<name>_indices``, ``<name>_lut`` and, for quantized or scaled tables,
            ``<name>_scale``, ``<name>_zero_point``, ``<name>_minval``; of a pruned parameter that is stored sparse
            there are indices of kept elements only, and ``<name>_mask``.
        axis: along which the values of an entry are laid.
        dtype: of the parameter.
    """

    name: str
    axis: int
    dtype: torch.dtype
    _dense: Remembered[Tensor] = attrs.field(factory=Remembered, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        register()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        register()  # before anything is traced: in another process this is the first sign of the ops

    def value(self, module: nn.Module) -> Tensor:
        """The expanded parameter; kept while the buffers stay the same, except in traces."""
        parts: dict[str, Any] = {part: getattr(module, f"{self.name}_{part}", None) for part in _STORED}
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return self._expand(**parts)
        tensors = [tensor for tensor in parts.values() if tensor is not None]
        return self._dense.get(tensors, lambda: self._kept(parts))

    def _kept(self, parts: dict[str, Any]) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():  # a kept tensor must serve in every mode
            return self._expand(**parts)

    def _expand(
        self,
        indices: Tensor,
        lut: Tensor,
        scale: Tensor | None,
        zero_point: Tensor | None,
        minval: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        ops: Any = torch.ops.coreai
        dense: Tensor = ops.lut_to_dense(indices, lut, 0 if mask is not None else self.axis)
        if mask is not None:
            dense = ops.sparse_to_dense(dense, mask)
        if scale is None:
            return dense
        # The runtime computes in the dtype of the scale, float32, whatever output dtype it is asked for.
        dense = ops.constexpr_blockwise_shift_scale(dense, scale, zero_point, minval, lut.dtype, None)
        return dense if dense.dtype == self.dtype else dense.to(self.dtype)


class _PassGradient(torch.autograd.Function):
    """The palettized value with the gradient of the parameter (arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, dense: Tensor) -> Tensor:
        return dense.view_as(dense)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


def _overwrite(held: Mapping[str, Tensor | None], tensors: Mapping[str, Tensor]) -> None:
    """Write to those of the tensors held that differ. Outside inference mode, so that the writing shows."""
    with torch.inference_mode(False), torch.no_grad():
        for name, tensor in tensors.items():
            kept = held[name]
            assert kept is not None
            if kept is not tensor and not _same_bits(kept, tensor):
                kept.copy_(tensor)


def _same_bits(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.contiguous().view(torch.uint8), right.to(left.dtype).contiguous().view(torch.uint8))


def tensors_of(weight: PalettizedWeight) -> dict[str, Tensor]:
    """The tensors of a palettized weight, by the suffix of their buffers."""
    return {part: tensor for part in _PARTS if (tensor := getattr(weight, part)) is not None}


def fake_forms(model: nn.Module) -> list[tuple[str, nn.Module, FakePalettized]]:
    """Path, module and form of every fake-palettized parameter."""
    return [
        (path, module, form)
        for path, module in model.named_modules()
        for form in forms_of(module).values()
        if isinstance(form, FakePalettized)
    ]


def _outside_inference(weight: PalettizedWeight) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return weight.dense()
