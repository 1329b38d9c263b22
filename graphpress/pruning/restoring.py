"""From finalized pruned models back to floats and masks, so that they can be compressed further."""

from __future__ import annotations

from torch import nn

_KEPT = "_graphpress_pruned"


def keep(module: nn.Module, parameter: str) -> None:
    """Let `module` remember that its float `parameter` is described as pruned."""
    module.__dict__[_KEPT] = (*module.__dict__.get(_KEPT, ()), parameter)
