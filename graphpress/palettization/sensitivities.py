"""How much each element of each weight matters, as a file."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from attrs import frozen
from torch import Tensor

from graphpress.ir.atomic_write import write_atomically
from graphpress.ir.errors import suggestion
from graphpress.passes.palettization import PalettizationError


@frozen(eq=False)
class Sensitivities:
    """Mean squared gradients by the qualified name of the parameter, each of the parameter's shape."""

    by_name: Mapping[str, Tensor]

    def of(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The importance of the elements of a parameter, scaled to a mean of 1.

        Raises:
            PalettizationError: when there is none of that name and shape.
        """
        found = self.by_name.get(name)
        if found is None:
            raise PalettizationError(f"no sensitivities for {name!r}{suggestion(name, self.by_name)}")
        if tuple(found.shape) != shape:
            raise PalettizationError(f"sensitivities of {name!r} have shape {tuple(found.shape)}, the weight {shape}")
        mean = float(found.double().mean())
        return (found.double() / mean).float() if mean > 0 else torch.ones(shape)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file; an interrupted write leaves the old file whole."""
        tensors = {name: tensor.contiguous() for name, tensor in self.by_name.items()}
        write_atomically(Path(path), lambda beside: safetensors.torch.save_file(tensors, beside))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Sensitivities:
        """Read what `save` wrote.

        Raises:
            PalettizationError: when there is no such file, or it holds something else.
        """
        try:
            return cls(safetensors.torch.load_file(Path(path)))
        except (OSError, safetensors.SafetensorError) as error:
            raise PalettizationError(f"cannot read sensitivities from {str(path)!r}: {error}") from error
