"""Masks of pruned float parameters, stored as buffers for later compressors.

Users' modules may have buffers of the same names. A module therefore records which of its parameters were pruned,
outside of its state dict.
"""

from __future__ import annotations

from torch import Tensor, nn

MASK = "mask"
"""Suffix of the mask's buffer: ``weight_mask`` for ``weight``."""

_PRUNED = "_graphpress_pruned"


def remember_pruned(module: nn.Module, parameter: str) -> None:
    """Record that the float `parameter` of `module` was pruned."""
    module.__dict__[_PRUNED] = tuple(dict.fromkeys((*pruned_parameters(module), parameter)))


def forget_pruned(module: nn.Module, parameter: str) -> None:
    """Undo `remember_pruned`."""
    module.__dict__[_PRUNED] = tuple(name for name in pruned_parameters(module) if name != parameter)


def pruned_parameters(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the pruned float parameters of `module`."""
    names: tuple[str, ...] = module.__dict__.get(_PRUNED, ())
    return names


def mask_beside(module: nn.Module, parameter: str) -> Tensor | None:
    """Return the mask of a pruned float parameter, or None for other parameters."""
    return module._buffers.get(f"{parameter}_{MASK}") if parameter in pruned_parameters(module) else None
