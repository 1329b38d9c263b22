"""Storage of graphs: the text form in ``model.gir``, constant data in ``model.safetensors`` beside it.

The text names each constant's data by its hash, and the safetensors file maps its tensors to hashes, so that tied
constants are stored once and mismatched files are detected. A save renames three times::

    model.safetensors.new   the new data, complete, beside the old
    model.gir               the new text replaces the old; this commits the save
    model.safetensors       the new data replaces the old

After an interruption at any point, the directory holds a text and, in one of the two data files, all the data it names.
`load_graph` searches both, and reads again if a save replaces a file meanwhile; the next save completes the renames.
Savers to one folder wait for each other.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from attrs import frozen
from safetensors import SafetensorError, safe_open

from graphpress.ir.errors import GraphpressError
from graphpress.ir.files import FileError, locked_folder, path_of, write_file
from graphpress.ir.graph import Constant, Graph, all_constants
from graphpress.ir.plain import parse_json
from graphpress.ir.tensors import fresh_tensor_digest, from_archive, write_archive
from graphpress.ir.text.parser import parse_graph
from graphpress.ir.text.printer import exact_text
from graphpress.ir.text.tokens import ParseError, name_text

SUFFIX = ".gir"
_DIGESTS = "graphpress.sha256"
_UNREADABLE = (OSError, SafetensorError, ValueError, RuntimeError)  # torch raises RuntimeError for a missing file
_ATTEMPTS = 100  # of a load that finds the files replaced under it


class StorageError(GraphpressError):
    """A saved graph that is missing, damaged, or cannot be written."""


def save_graph(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write `graph` to `path` (suffix ``.gir``), and its data beside it with suffix ``.safetensors``.

    An interrupted save leaves either the previous graph or the new one.

    Raises:
        StorageError: if the suffix differs, a constant has no data, or the files cannot be written.
        TextFormError: if a node holds an object without a text form.
    """
    text_path, data_path, new_path = _paths(path)
    for place in (text_path, data_path, new_path):
        if place.is_dir():
            raise StorageError(f"cannot save {text_path}: {place} is a folder")
    digests = {id(constant): _digest(constant, text_path) for constant in all_constants(graph)}
    text = exact_text(graph)
    try:
        with locked_folder(text_path.parent):
            _finish_interrupted_save(text_path, data_path, new_path)
            _write_tensors(graph, digests, new_path)
            write_file(text_path, text)
            os.replace(new_path, data_path)
    except OSError as error:
        raise StorageError(f"cannot save {text_path}: {FileError.of(text_path, error).reason}") from error


def load_graph(path: str | os.PathLike[str]) -> Graph:
    """Load the graph that `save_graph` wrote to `path`, and check its data against the hashes.

    No code is executed. While others save to `path`, the result is one of the saved graphs, whole.

    Raises:
        StorageError: if a file is missing or damaged; the message names the tensor.
        ParseError: if the text is not a graph.
    """
    paths = _paths(path)
    for _ in range(_ATTEMPTS):
        before = _state(paths)
        try:
            return _load(*paths)
        except StorageError:
            if _state(paths) == before:
                raise
    return _load(*paths)


def _state(paths: tuple[Path, ...]) -> list[tuple[int, int, int] | None]:
    """The identity of each file, which changes whenever the file is replaced; None for a missing file."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return found


def _load(text_path: Path, data_path: Path, new_path: Path) -> Graph:
    try:
        text = text_path.read_bytes().decode()
    except FileNotFoundError:
        raise StorageError(f"no saved graph at {text_path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read {text_path}: {error}") from error
    try:
        graph = parse_graph(text)
    except ParseError as error:
        raise ParseError(error.message, error.text, error.offset, source=str(text_path)) from None
    constants = list(all_constants(graph))
    if constants:
        _attach(constants, _data_file(_digests_in(text), data_path, new_path), text_path)
    return graph


def _paths(path: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    text_path = path_of(path, "the path of a saved graph")
    if text_path.suffix != SUFFIX:
        raise StorageError(f"a saved graph is called *{SUFFIX}, not {str(path)!r}")
    data_path = text_path.with_suffix(".safetensors")
    return text_path, data_path, data_path.with_name(f"{data_path.name}.new")


# Saving.


def _digest(constant: Constant, path: Path) -> str:
    if not constant.has_data:
        raise StorageError(f"cannot save {path}: constant {constant.name!r} has no data, only its type and hash")
    if constant.tensor.is_meta:
        raise StorageError(f"cannot save {path}: constant {constant.name!r} is on the meta device and has no data")
    return fresh_tensor_digest(constant.tensor)


def _write_tensors(graph: Graph, digests: dict[int, str], file: Path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    keys: dict[str, str] = {}
    for constant in all_constants(graph):
        digest = digests[id(constant)]
        if digest not in keys:
            key = name_text(constant.name)
            while key in tensors or key == "__metadata__":  # reserved by safetensors
                key += f".{digest[:8]}"
            tensors[key], keys[digest] = constant.tensor, key
    write_archive(file, tensors, {"format": "pt", _DIGESTS: json.dumps(keys)})


def _finish_interrupted_save(text_path: Path, data_path: Path, new_path: Path) -> None:
    """Complete an interrupted save, so that the data of the text on disk is not overwritten."""
    if not new_path.exists() or not text_path.exists():
        return
    digests = _digests_in(text_path.read_bytes().decode(errors="replace"))
    if not _TensorFile.open(data_path).holds(digests) and _TensorFile.open(new_path).holds(digests):
        os.replace(new_path, data_path)


# Loading.


@frozen
class _TensorFile:
    """The tensors of one safetensors file by digest, or the reason why it cannot be read."""

    path: Path
    keys: dict[str, str]
    problem: str = ""

    @classmethod
    def open(cls, path: Path) -> _TensorFile:
        if path.exists() and not path.is_file():  # a pipe would block, a device has no end
            return cls(path, {}, "is no file")
        try:
            with safe_open(path, "pt") as file:
                keys = parse_json((file.metadata() or {}).get(_DIGESTS, "null"))
        except FileNotFoundError:
            return cls(path, {}, "is missing")
        except _UNREADABLE as error:
            return cls(path, {}, f"is damaged or truncated ({error})")
        if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
            return cls(path, {}, "was not written with a graph")
        return cls(path, keys)

    def holds(self, digests: Iterable[str]) -> bool:
        return not self.problem and all(digest in self.keys for digest in digests)


def _digests_in(text: str) -> set[str]:
    return set(re.findall(r'sha256\("([0-9a-f]{64})"\)', text))


def _data_file(digests: set[str], data_path: Path, new_path: Path) -> _TensorFile:
    data = _TensorFile.open(data_path)
    if not data.holds(digests) and new_path.exists():
        new = _TensorFile.open(new_path)
        if new.holds(digests):
            return new
    return data


def _attach(constants: list[Constant], source: _TensorFile, text_path: Path) -> None:
    first = constants[0].name
    if source.problem:
        raise StorageError(
            f"cannot load {text_path}: {source.path} {source.problem}, so constant {first!r} and the others have no "
            "data; copy both files together, or save the graph again"
        )
    tensors: dict[str, torch.Tensor] = {}
    try:
        opened = safe_open(source.path, "pt")
    except _UNREADABLE as error:  # replaced since it was described
        raise StorageError(f"cannot load {text_path}: {source.path} cannot be opened again: {error}") from error
    with opened as file:
        for constant in constants:
            if constant.digest is None:
                raise StorageError(f"cannot load {text_path}: its text gives constant {constant.name!r} no sha256")
            key = source.keys.get(constant.digest)
            if key is None:
                raise StorageError(
                    f"cannot load {text_path}: {source.path} has no tensor for constant {constant.name!r} with sha256 "
                    f"{constant.digest}; the two files are from different saves: copy both together, or save again"
                )
            if key not in tensors:
                tensors[key] = _checked(file, key, constant, source.path)
            constant._tensor, constant.digest = tensors[key], None


def _checked(file: safe_open, key: str, constant: Constant, path: Path) -> torch.Tensor:
    try:
        tensor = from_archive(file.get_tensor(key), constant.type.dtype)
    except SafetensorError as error:
        raise StorageError(f"{path} lists constant {constant.name!r} but does not hold it: {error}") from error
    if fresh_tensor_digest(tensor) != constant.digest:
        raise StorageError(
            f"the data of constant {constant.name!r} in {path} is damaged: it is not what was saved (sha256 "
            f"{constant.digest}); restore the file from a copy, or save the graph again"
        )
    return tensor
