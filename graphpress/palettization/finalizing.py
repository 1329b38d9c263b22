"""What the forms of both backends share: a copy of the prepared model without what it no longer needs."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from graphpress.palettization.forms import FakePalettized, fake_forms

Palettized = list[tuple[str, nn.Module, FakePalettized]]


def copied(prepared: nn.Module) -> tuple[nn.Module, Palettized]:
    """A copy of `prepared`, and its palettized parameters, whose floats are not copied."""
    floats = []
    for _, module, form in fake_forms(prepared):
        form.follow(module)
        floats.append(module._parameters[form.name])
    memo = {id(parameter): parameter for parameter in floats}
    model: nn.Module = copy.deepcopy(prepared, memo)
    return model, fake_forms(model)


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
