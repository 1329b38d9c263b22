"""Masks of pruned parameters, beside the floats: where any compressor of modules finds what is kept.

The name of a buffer proves nothing, since users' modules may have one like it; so the module remembers, outside of its
state, which of its parameters were pruned.
"""

from __future__ import annotations

from torch import Tensor, nn

MASK = "mask"
"""What a mask is called beside a parameter: ``weight_mask`` and so on."""

_PRUNED = "_graphpress_pruned"


def remember_pruned(module: nn.Module, parameter: str) -> None:
    """Let `module` remember that its float `parameter` was pruned."""
    module.__dict__[_PRUNED] = tuple(dict.fromkeys((*pruned_parameters(module), parameter)))


def forget_pruned(module: nn.Module, parameter: str) -> None:
    """Undo `remember_pruned`."""
    module.__dict__[_PRUNED] = tuple(name for name in pruned_parameters(module) if name != parameter)


def pruned_parameters(module: nn.Module) -> tuple[str, ...]:
    """The float parameters of `module` that were pruned."""
    names: tuple[str, ...] = module.__dict__.get(_PRUNED, ())
    return names


def mask_beside(module: nn.Module, parameter: str) -> Tensor | None:
    """Where a pruned parameter is kept, in a model of floats and masks; None for other parameters."""
    return module._buffers.get(f"{parameter}_{MASK}") if parameter in pruned_parameters(module) else None
