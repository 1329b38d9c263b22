"""Tensors in memory-mapped files instead of memory."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Graph


class MappingError(GraphpressError, OSError):
    """A folder that packed weights cannot be written to."""


class Mapped:
    """Moves tensors into files of a folder, from which they are mapped; without a folder leaves them in memory.

    Raises:
        MappingError: when the folder cannot be made.
    """

    def __init__(self, folder: str | PathLike[str] | None):
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _cannot_write(self._folder, error) from error

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """`tensor`, or the same data mapped from ``<name>.bin``; a parameter stays one.

        Raises:
            MappingError: when the file cannot be written.
        """
        if self._folder is None or not tensor.numel():
            return tensor
        path = self._folder / f"{name}.bin"
        raw = tensor.detach().cpu().contiguous()
        try:
            raw.reshape(-1).view(torch.uint8).numpy().tofile(path)
        except OSError as error:
            raise _cannot_write(self._folder, error) from error
        mapped = torch.from_file(str(path), shared=False, size=raw.numel(), dtype=raw.dtype).reshape(raw.shape)
        return nn.Parameter(mapped, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else mapped


def map_constants(graph: Graph, folder: str | Path) -> None:
    """Write every constant of `graph` to a file of its own in `folder`, and let the graph use the mapped file.

    Raises:
        MappingError: when the folder cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place, constant in enumerate(graph.constants.values()):
            path = folder / f"{place:05d}.safetensors"
            building = path.with_suffix(".partial")
            save_file({"data": constant.tensor.detach().contiguous()}, building)
            building.replace(path)
            constant._tensor = load_file(path)["data"]
    except (OSError, SafetensorError) as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(folder: Path, error: Exception) -> MappingError:
    return MappingError(f"cannot write packed weights to {folder}: {error}")
