"""Tensors in memory-mapped files instead of memory."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Graph


class Mapped:
    """Moves tensors into files of a folder, from which they are mapped; without a folder leaves them in memory."""

    def __init__(self, folder: str | Path | None):
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """`tensor`, or the same data mapped from ``<name>.bin``. One tensor under two names stays one."""
        if self._folder is None or not tensor.numel():
            return tensor
        known = self._known.get(id(tensor))
        if known is None:
            path = self._folder / f"{name}.bin"
            raw = tensor.detach().cpu().contiguous()
            raw.reshape(-1).view(torch.uint8).numpy().tofile(path)
            mapped = torch.from_file(str(path), shared=False, size=raw.numel(), dtype=raw.dtype).reshape(raw.shape)
            known = self._known[id(tensor)] = tensor, mapped
        return known[1]


class MappingError(GraphpressError, OSError):
    """A folder that packed weights cannot be written to."""


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
        raise MappingError(f"cannot write packed weights to {folder}: {error}") from error
