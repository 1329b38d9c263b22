"""The record of an architecture of the zoo."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

Inputs = tuple[Any, ...]
_LEARNED_ROWS = re.compile("token|pos_embed|position_embeddings|rel_pos|relative_position|attention_biases|sinks")
_LAYER_SCALES = re.compile("gamma|lambda|layer_scale|^scale$")


@attrs.frozen
class ZooModel:
    """An architecture with random weights.

    Attributes:
        name: unique in the zoo.
        family: the section of the table, such as "vision".
        create: creates the module; its weights follow from torch's global seed, which `build` sets.
        inputs: returns positional arguments, drawn with a generator. Its second argument is the batch.
        length: returns arguments of the second length, for models with a dynamic length.
        dynamic: `dynamic_shapes` for `torch.export.export`, or None if only the batch is varied.
        states: True if the module mutates buffers, which become states of an asset.
        batch: the batch of the example inputs.
    """

    name: str
    family: str
    create: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator, int], Inputs]
    length: Callable[[torch.Generator, int], Inputs] | None = None
    dynamic: Any = None
    states: bool = False
    batch: int = 2

    def build(self, seed: int = 0) -> nn.Module:
        """Create the module in eval mode, with weights that are a function of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.create().eval()
            _spread_norms(module)
            _spread_parameters(module)
        return module

    def example(self, seed: int = 0, batch: int | None = None) -> Inputs:
        """Return arguments for the module, a function of the seed."""
        return self.inputs(torch.Generator().manual_seed(1000 + seed), batch or self.batch)

    def longer(self, seed: int = 0) -> Inputs:
        """Return arguments of the second length."""
        assert self.length is not None
        return self.length(torch.Generator().manual_seed(2000 + seed), self.batch)


def _spread_norms(module: nn.Module) -> None:
    """Give batch norms statistics that are not those of an untrained one, and every norm a scale that is not one."""
    with torch.no_grad():
        for each in module.modules():
            mean, variance = getattr(each, "running_mean", None), getattr(each, "running_var", None)
            if isinstance(mean, Tensor) and isinstance(variance, Tensor):
                mean.normal_(0.0, 0.1)
                variance.uniform_(0.5, 1.5)
            weight = getattr(each, "weight", None)
            if "norm" in type(each).__name__.lower() and isinstance(weight, nn.Parameter) and weight.dim() == 1:
                weight.add_(torch.empty_like(weight).uniform_(-0.2, 0.2))


def _spread_parameters(module: nn.Module) -> None:
    """Give tokens, positions and layer scales the size that training gives them.

    They start at zero or close to it: a class token vanishes beside the patches, a position bias adds nothing, a
    layer scale of 1e-6 removes its layer, and what a compiler does to them would not be seen.
    """
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.Embedding):
                continue
            for name, parameter in each.named_parameters(recurse=False):
                if _LEARNED_ROWS.search(name):
                    parameter.normal_(0.0, 0.5)
                elif _LAYER_SCALES.search(name) and parameter.abs().max() < 0.2:
                    parameter.uniform_(0.1, 0.5)
