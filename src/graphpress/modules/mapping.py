"""Tensors of a finalized model in memory-mapped files, for all compressors: what `finalize(mmap_dir=...)` writes."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from urllib.parse import quote

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from graphpress.ir.errors import GraphpressError
from graphpress.ir.files import FileError, make_folder
from graphpress.ir.graph import Graph
from graphpress.ir.tensors import mapped_tensor


class MappingError(GraphpressError, OSError):
    """A folder that packed weights cannot be written to."""


class Mapped:
    """Moves tensors into files of a folder, from which they are mapped; without a folder leaves them in memory.

    A file that is there already is replaced, not written into: models that map the old one keep it.

    Raises:
        MappingError: when the folder cannot be made.
    """

    def __init__(self, folder: str | PathLike[str] | None):
        self._folder = None if folder is None else Path(folder)
        self._known = WeakTensorKeyDictionary()
        if self._folder is not None:
            try:
                make_folder(self._folder)
            except FileError as error:
                raise MappingError(f"cannot write packed weights to {self._folder}: {error.reason}") from error

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """`tensor`, or its data mapped from ``<name>.bin``. One tensor under two names stays one.

        A parameter stays a parameter.

        Raises:
            MappingError: when the file cannot be written.
        """
        if self._folder is None or not tensor.numel():
            return tensor
        if tensor not in self._known:
            try:
                mapped = mapped_tensor(tensor, self._folder / f"{quote(name, safe=' ')}.bin")
            except FileError as error:
                raise MappingError(f"cannot write packed weights to {self._folder}: {error}") from error
            is_parameter = isinstance(tensor, nn.Parameter)
            self._known[tensor] = nn.Parameter(mapped, tensor.requires_grad) if is_parameter else mapped
        return self._known[tensor]

    def map_constants(self, graph: Graph) -> None:
        """Move the data of every constant of `graph`, under the constant's name.

        Raises:
            MappingError: when a file cannot be written.
        """
        for constant in graph.constants.values():
            constant._tensor = self(constant.name, constant.tensor)
