"""How much each element of each weight matters, as a file."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import safetensors
import safetensors.torch
from attrs import frozen
from torch import Tensor

from graphpress.ir.atomic_write import write_atomically
from graphpress.ir.errors import suggestion
from graphpress.passes.palettization import PalettizationError


@frozen(eq=False)
class Sensitivities:
    """How much the squared error of each element counts, by the qualified name of the parameter.

    Mean squared gradients have the parameter's shape; moments of inputs one that expands to it, ``[1, columns]`` for a
    linear layer, and a single element where all count alike.
    """

    by_name: Mapping[str, Tensor]

    def of(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """The importance of the elements of a parameter, float32 scaled to a mean of 1, in a shape that expands to
        `shape`; None where all count alike.

        Raises:
            PalettizationError: when there is none of that name and shape.
        """
        found = self.by_name.get(name)
        if found is None:
            raise PalettizationError(f"no sensitivities for {name!r}{suggestion(name, self.by_name)}")
        if found.ndim != len(shape) or any(n not in (1, extent) for n, extent in zip(found.shape, shape, strict=True)):
            raise PalettizationError(f"sensitivities of {name!r} have shape {tuple(found.shape)}, the weight {shape}")
        mean = float(found.double().mean())
        return (found.double() / mean).float() if mean > 0 and found.numel() > 1 else None

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
