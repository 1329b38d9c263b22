"""Trained lookup tables of a module, held as parameters."""

from __future__ import annotations

from typing import Any

import torch
from attrs import asdict
from torch import Tensor, nn

from graphpress.passes.config import PalettizationSpec
from graphpress.passes.weights import Layout, LearnedTables

# Suffixes of the names in the module: `weight_entries` for `weight`.
TRAINED = ("entries", "scale_change")
_STARTS = ("channel_scale", "grid_scale", "grid_zero_point", "grid_minval")


def learned_tables(module: nn.Module, name: str) -> LearnedTables:
    """Return the trained tables of the parameter `name` of `module`."""
    parts: dict[str, Any] = {part: module._parameters.get(f"{name}_{part}") for part in TRAINED}
    parts |= {part: module._buffers.get(f"{name}_{part}") for part in _STARTS}
    return LearnedTables(**parts)


def trained_parameters(module: nn.Module, name: str) -> list[nn.Parameter]:
    """Return the trained parameters of the tables of the parameter `name`."""
    parts = (module._parameters.get(f"{name}_{part}") for part in TRAINED)
    return [parameter for parameter in parts if parameter is not None]


def held_parts(module: nn.Module, name: str) -> dict[str, Tensor]:
    """Return the tensors that `module` holds only for training of the parameter `name`, by suffix."""
    return {
        part: tensor
        for part, tensor in asdict(learned_tables(module, name), recurse=False).items()
        if tensor is not None
    }


def parts_of(tables: LearnedTables) -> dict[str, nn.Parameter | Tensor]:
    """Return copies of the tensors of `tables` by name: trained ones as parameters, others as buffers."""
    found: dict[str, nn.Parameter | Tensor] = {}
    for part in (*TRAINED, *_STARTS):
        tensor = getattr(tables, part)
        if tensor is not None:
            found[part] = nn.Parameter(tensor.detach().clone()) if part in TRAINED else tensor.detach().clone()
    return found


def with_gradients(
    parameter: Tensor,
    tables: LearnedTables,
    dense: Tensor,
    indices: Tensor,
    spec: PalettizationSpec,
    layout: Layout,
    weight_learns: bool,
) -> Tensor:
    """Return `dense`, the expanded weight of `tables` and `indices`, with gradients to the trained tensors.

    Args:
        weight_learns: whether the float `parameter` gets the gradient of the weight, too.
    """
    given = tables, spec, layout, weight_learns
    found: Tensor = _TableGradient.apply(parameter, tables.entries, tables.scale_change, dense, indices, given)
    return found


class _TableGradient(torch.autograd.Function):
    """The palettized weight, with gradients to LUT entries, channel scales and, optionally, the float weight."""

    @staticmethod
    def forward(
        ctx: Any,
        parameter: Tensor,
        entries: Tensor,
        scale_change: Tensor | None,
        dense: Tensor,
        indices: Tensor,
        given: tuple[LearnedTables, PalettizationSpec, Layout, bool],
    ) -> Tensor:
        ctx.save_for_backward(dense, indices, entries, scale_change)
        ctx.given = given
        return dense.view_as(dense)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        dense, indices, entries, scale_change = ctx.saved_tensors  # raises if any was written to since
        tables, spec, layout, weight_learns = ctx.given
        (gradient,) = gradients
        by_entry = by_scale = None
        if ctx.needs_input_grad[1]:
            by_entry = tables.entry_gradient(gradient, indices, spec, layout, dense.dtype).to(entries.dtype)
        if scale_change is not None and ctx.needs_input_grad[2]:
            by_scale = tables.scale_gradient(gradient, dense, layout).to(scale_change.dtype)
        return gradient if weight_learns else None, by_entry, by_scale, None, None, None
