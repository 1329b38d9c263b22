"""Keeping the inputs that a model is called with during calibration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, field
from torch import nn
from torch.utils import _pytree as pytree

from graphpress.quantization.refinement.running import Inputs


@define(eq=False)
class RecordedInputs:
    """The arguments of the calls seen, copied, until they would take more than `memory` bytes; `left_out` counts the
    calls that came later.
    """

    memory: int
    batches: list[Inputs] = field(factory=list)
    left_out: int = 0
    _bytes: int = 0

    def add(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep one call, if there is room: the first always has."""
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        size = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
        if self.left_out or (self.batches and self._bytes + size > self.memory):
            self.left_out += 1
            return
        self._bytes += size
        self.batches.append(pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.detach().clone(), (args, kwargs)))


@contextmanager
def recorded(module: nn.Module, memory: int) -> Iterator[RecordedInputs]:
    """Keep what `module` is called with inside the context."""
    inputs = RecordedInputs(memory)

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.add(args, kwargs)

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield inputs
    finally:
        handle.remove()
