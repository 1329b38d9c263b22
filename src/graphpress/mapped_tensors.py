"""Tensors in files instead of memory."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


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
