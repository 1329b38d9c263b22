"""Palettized parameters of modules: before `finalize`, beside the float parameter, and after it, as stored."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from attrs import define
from torch import Tensor, nn

from graphpress.backends.coreai import register
from graphpress.compressed_module import ParameterForm, forms_of
from graphpress.passes.palettization import PalettizedWeight, assign
from graphpress.passes.specs import PalettizationSpec, StraightThroughTrainingSpec
from graphpress.quantization.remembering import Remembered

_PARTS = ("indices", "lut", "scale", "zero_point", "minval")


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
    _assigned: Remembered[bool] = attrs.field(factory=Remembered, init=False, repr=False)

    @property
    def is_trained(self) -> bool:
        """True where the gradient reaches the float parameter, and its indices follow it."""
        return isinstance(self.spec.training_strategy_spec, StraightThroughTrainingSpec)

    def qualified_name(self, path: str) -> str:
        """The parameter's name in the model, where `path` is that of its module."""
        return f"{path}.{self.name}" if path else self.name

    def value(self, module: nn.Module) -> Tensor:
        """The palettized parameter, or, while not enabled, the float one."""
        parameter = module._parameters[self.name]
        assert parameter is not None
        if not self.enabled:
            return parameter
        self.follow(module)
        stored = self.stored(module)
        dense = self._dense.get([*tensors_of(stored).values()], lambda: _outside_inference(stored))
        if self.is_trained and torch.is_grad_enabled() and parameter.requires_grad:
            passed: Tensor = _PassGradient.apply(parameter, dense)
            return passed
        return dense

    def follow(self, module: nn.Module) -> None:
        """Give each element the entry nearest to it, where training may have moved it since."""
        parameter = module._parameters[self.name]
        if self.is_trained and parameter is not None:
            self._assigned.get([parameter], lambda: self._reassign(module, parameter))

    def stored(self, module: nn.Module) -> PalettizedWeight:
        """The buffers of `module` as one palettized weight."""
        parts: dict[str, Any] = {part: module._buffers.get(f"{self.name}_{part}") for part in _PARTS}
        return PalettizedWeight(axis=self.axis, n_bits=self.spec.n_bits, dtype=self.dtype, **parts)

    def replace(self, module: nn.Module, weight: PalettizedWeight) -> None:
        """Overwrite the buffers; modules tied to this one, which have the same ones, follow."""
        with torch.no_grad():
            for part, tensor in tensors_of(weight).items():
                held = module._buffers[f"{self.name}_{part}"]
                assert held is not None
                held.copy_(tensor)

    def _reassign(self, module: nn.Module, parameter: Tensor) -> bool:
        with torch.no_grad():
            indices = assign(parameter, self.stored(module), self.spec, self.op_type)
            held = module._buffers[f"{self.name}_indices"]
            assert held is not None
            if not torch.equal(held, indices):
                held.copy_(indices)
        return True


@define(eq=False, slots=False)
class StoredTable(ParameterForm):
    """A parameter that exists only as indices and tables, expanded by the ops that Core AI stores.

    Attributes:
        name: of the parameter; its buffers are ``<name>_indices``, ``<name>_lut`` and, for quantized or scaled tables,
            ``<name>_scale``, ``<name>_zero_point``, ``<name>_minval``.
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
        parts: dict[str, Any] = {part: getattr(module, f"{self.name}_{part}", None) for part in _PARTS}
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return self._expand(**parts)
        tensors = [tensor for tensor in parts.values() if tensor is not None]
        return self._dense.get(tensors, lambda: self._kept(parts))

    def _kept(self, parts: dict[str, Any]) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():  # a kept tensor must serve in every mode
            return self._expand(**parts)

    def _expand(
        self, indices: Tensor, lut: Tensor, scale: Tensor | None, zero_point: Tensor | None, minval: Tensor | None
    ) -> Tensor:
        ops: Any = torch.ops.coreai
        dense: Tensor = ops.lut_to_dense(indices, lut, self.axis)
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
