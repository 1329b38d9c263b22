"""Memory-mapped files for the tensors of finalized models, as `finalize(mmap_dir=...)` writes them."""

from __future__ import annotations

from os import PathLike
from urllib.parse import quote

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from graphpress.ir.errors import GraphpressError
from graphpress.ir.files import FileError, make_folder, path_of
from graphpress.ir.graph import Graph
from graphpress.ir.tensors import mapped_tensor


class MappingError(GraphpressError, OSError):
    """Packed weights cannot be written to a folder."""


class Mapped:
    """Moves tensors into memory-mapped files of a folder; without a folder, tensors remain in memory.

    An existing file is replaced, not overwritten, so models that map it are not affected.

    Raises:
        PathError: if `folder` is no path.
        MappingError: if the folder cannot be created.
    """

    def __init__(self, folder: str | PathLike[str] | None):
        self._folder = None if folder is None else path_of(folder, "mmap_dir")
        self._known = WeakTensorKeyDictionary()
        if self._folder is not None:
            try:
                make_folder(self._folder)
            except FileError as error:
                raise MappingError(f"cannot write packed weights to {self._folder}: {error.reason}") from error

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """Return the data of `tensor` mapped from ``<name>.bin``, or `tensor` itself without a folder.

        Repeated calls with one tensor return one result. A parameter remains a parameter.

        Raises:
            MappingError: if the file cannot be written.
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
            MappingError: if a file cannot be written.
        """
        for constant in graph.constants.values():
            constant._tensor = self(constant.name, constant.tensor)
