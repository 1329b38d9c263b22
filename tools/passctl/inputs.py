"""Example inputs and calibration data, from files (without executing code) or from shapes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from safetensors import SafetensorError
from safetensors.torch import load_file

from graphpress.ir.dtypes import DType, DTypeError
from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Graph, Input
from graphpress.ir.torch.archives import ArchiveError, check_sizes
from graphpress.ir.types import ScalarType, SymDim, TensorType
from graphpress.tools.passctl.console import InputDataError


def read_tensors(path: Path) -> Any:
    """Read a file: a dict of tensors by name, or the result of `torch.load(weights_only=True)`.

    Raises:
        InputDataError: if the file is missing, of another type, or damaged.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        accepted = ", ".join(_READERS)
        raise InputDataError(f"{path}: files of tensors end in {accepted}{suggestion(path.suffix, _READERS)}")
    if not path.is_file():
        raise InputDataError(f"no file {str(path)!r}{_near_files(path)}")
    try:
        return reader(path)
    except InputDataError:
        raise
    except ArchiveError as error:
        raise InputDataError(str(error)) from error
    except (OSError, ValueError, EOFError, SafetensorError, RuntimeError, KeyError) as error:
        raise InputDataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    except Exception as error:  # zipfile and pickle have error classes of their own
        raise InputDataError(f"{path} cannot be read: {type(error).__name__}: {str(error)[:300]}") from error


_SLACK = 2**28  # bytes that a member of an archive of tensors may inflate to in any case


def _check_inflation(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        check_sizes(path, archive, _SLACK)


def _npz(path: Path) -> Mapping[str, torch.Tensor]:
    _check_inflation(path)
    with np.load(path, allow_pickle=False) as archive:
        return {name: _tensor(archive[name], f"{path}: {name}") for name in archive.files}


def _npy(path: Path) -> Mapping[str, torch.Tensor]:
    return {"arr_0": _tensor(np.load(path, allow_pickle=False), str(path))}


def _pt(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        _check_inflation(path)
    return torch.load(path, weights_only=True, map_location="cpu")


def _tensor(array: np.ndarray, where: str) -> torch.Tensor:
    try:
        # Float64 is numpy's default, and rarely a model's dtype.
        return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else np.ascontiguousarray(array))
    except TypeError as error:
        raise InputDataError(f"{where}: torch has no tensors of {array.dtype}") from error


def _near_files(path: Path) -> str:
    folder = path.parent
    return suggestion(path.name, [file.name for file in folder.iterdir()]) if folder.is_dir() else ""


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".safetensors": lambda path: load_file(path),
    ".pt": _pt,
}
SUFFIXES = tuple(_READERS)
"""Suffixes of files with tensors."""


@frozen
class ExampleInputs:
    """Example inputs, by name or in order."""

    named: Mapping[str, Any] | None = None
    ordered: tuple[Any, ...] | None = None

    def in_order(self, names: Sequence[str], where: str) -> tuple[Any, ...]:
        """Return one item per name, in their order.

        If the names in a file differ from those of the inputs, a single tensor is the first input, and names that end
        in numbers (``arr_0``, ``input1``) are sorted by number.

        Raises:
            InputDataError: if names do not fit.
        """
        if self.ordered is not None:
            return self.ordered
        assert self.named is not None
        if set(self.named) <= set(names):
            last = max((names.index(name) for name in self.named), default=-1)
            missing = [name for name in names[: last + 1] if name not in self.named]
            if missing:
                raise InputDataError(
                    f"{where} has no {', '.join(map(repr, missing))}, which the model takes before others"
                )
            return tuple(self.named[name] for name in names[: last + 1])
        if len(self.named) == 1:
            return tuple(self.named.values())
        numbers = {name: re.search(r"\d+$", name) for name in self.named}
        if all(numbers.values()) and not set(self.named) & set(names):
            ordered = sorted(self.named, key=lambda name: int(numbers[name].group()))  # type: ignore[union-attr]
            return tuple(self.named[name] for name in ordered)
        stranger = next(name for name in self.named if name not in names)
        raise InputDataError(
            f"{where} has {stranger!r}, which is not an input{suggestion(stranger, names)}; the inputs are "
            f"{', '.join(names) or 'none'}"
        )


def read_inputs(file: Path | None, shapes: Sequence[str]) -> ExampleInputs | None:
    """Return the example inputs of the options ``--inputs`` and ``--input-shape``, or None without options.

    Raises:
        InputDataError: if both options are used, or an input cannot be read.
    """
    if file is not None and shapes:
        raise InputDataError("--inputs and --input-shape exclude each other")
    if file is not None:
        return inputs_from(read_tensors(file), str(file))
    return ExampleInputs(ordered=tuple(_of_shape(text) for text in shapes)) if shapes else None


def inputs_from(data: Any, where: str) -> ExampleInputs:
    """Return the inputs in the content of a file.

    Raises:
        InputDataError: if the items are not tensors.
    """
    if isinstance(data, torch.Tensor):
        return ExampleInputs(ordered=(data,))
    if isinstance(data, Mapping) and data:
        return ExampleInputs(named={str(name): value for name, value in data.items()})
    if isinstance(data, list | tuple) and data:
        return ExampleInputs(ordered=tuple(data))
    raise InputDataError(f"{where} holds a {type(data).__name__}, not tensors: a tensor, a tuple, or a dict by name")


def inputs_for(graph: Graph, seed: int = 0) -> list[Any]:
    """Make flat inputs for a graph: normal floats, zero integers, symbols at their example values."""
    generator = torch.Generator().manual_seed(seed)
    hints = {name: symbol.hint for name, symbol in graph.symbols.items()}
    return [_made(graph_input, hints, generator) for graph_input in graph.inputs]


def _made(graph_input: Input, hints: Mapping[str, int], generator: torch.Generator) -> Any:
    if graph_input.value is None:
        return graph_input.literal
    type = graph_input.value.type
    if isinstance(type, TensorType):
        return _filled(type.at(hints).shape, type.dtype, generator)  # type: ignore[arg-type]
    if isinstance(type, ScalarType):
        if isinstance(type.value, SymDim):
            return type.value.evaluate(hints)
        return {"int": int, "float": float, "bool": bool}[type.kind](type.value or 0)
    raise InputDataError(f"input {graph_input.name!r} is {type}: pass example inputs with --inputs")


def _of_shape(text: str) -> torch.Tensor:
    shape_text, _, dtype_text = text.partition(":")
    if not re.fullmatch(r"\d+(x\d+)*|scalar", shape_text):
        raise InputDataError(f"{text!r} is not a shape; accepted: 1x3x32x32, 1x12:int64, or scalar")
    shape = [] if shape_text == "scalar" else [int(dim) for dim in shape_text.split("x")]
    try:
        dtype = DType.of(dtype_text) if dtype_text else DType.FLOAT32
        return _filled(shape, dtype, torch.Generator().manual_seed(0))
    except DTypeError as error:
        raise InputDataError(f"{text!r}: {error}") from error


def _filled(shape: Sequence[int], dtype: DType, generator: torch.Generator) -> torch.Tensor:
    if dtype.is_floating:
        return torch.randn(shape, generator=generator).to(dtype.torch_dtype)
    return torch.zeros(shape, dtype=dtype.torch_dtype)


@frozen
class CalibrationData:
    """Batches in files; iterating yields tuples of the model's positional inputs.

    An array with one axis more than the model's input holds batches; one with the same rank is split along its first
    axis into batches of the example's size, the last of which may be smaller.

    Attributes:
        files: the files, in reading order.
        input_names: the names of the model's positional inputs.
        example: the inputs with which the model is captured.
    """

    files: tuple[Path, ...]
    input_names: tuple[str, ...]
    example: tuple[torch.Tensor, ...]

    @classmethod
    def open(cls, path: Path, input_names: Sequence[str], example: Sequence[Any]) -> CalibrationData:
        """Open a file, or the files of a folder in the order of their names.

        The first file is read, so that unfitting data is reported before any work.

        Raises:
            InputDataError: if there is no data, or it does not fit the model.
        """
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
            if not files:
                raise InputDataError(
                    f"the folder {str(path)!r} has no calibration data: no {', '.join(SUFFIXES)} files"
                )
        else:
            files = [path]
        if not all(isinstance(each, torch.Tensor) for each in example):
            raise InputDataError("calibration data from files is for models all of whose inputs are tensors")
        data = cls(tuple(files), tuple(input_names), tuple(example))
        next(data._batches_in(files[0]))
        return data

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        for file in self.files:
            yield from self._batches_in(file)

    def _batches_in(self, file: Path) -> Iterator[tuple[torch.Tensor, ...]]:
        given = inputs_from(read_tensors(file), str(file)).in_order(self.input_names, str(file))
        if len(given) != len(self.example):
            raise InputDataError(f"{file} has {len(given)} inputs; the model is captured with {len(self.example)}")
        names = [*self.input_names, *(f"input {place}" for place in range(len(self.input_names), len(given)))]
        columns = [_batches(*each, str(file)) for each in zip(names, given, self.example, strict=False)]
        if len({len(column) for column in columns}) > 1:
            counts = ", ".join(f"{name} {len(column)}" for name, column in zip(names, columns, strict=False))
            raise InputDataError(f"{file} has different numbers of batches of the inputs: {counts}")
        if not columns or not columns[0]:
            raise InputDataError(f"{file} has no batch: its arrays are empty")
        yield from zip(*columns, strict=True)


def _batches(name: str, data: Any, example: torch.Tensor, where: str) -> Sequence[torch.Tensor]:
    if not isinstance(data, torch.Tensor):
        raise InputDataError(f"{where}: {name} is a {type(data).__name__}, not a tensor")
    shape = "x".join(map(str, data.shape)) or "scalar"
    wanted = "x".join(map(str, example.shape)) or "scalar"
    if data.is_floating_point() != example.is_floating_point():
        raise InputDataError(f"{where}: {name} is {_dtype(data)}, and the model takes {_dtype(example)}")
    data = data.to(example.dtype)
    if data.ndim == example.ndim + 1:
        return data.unbind()
    if data.ndim != example.ndim:
        raise InputDataError(
            f"{where}: {name} has the shape {shape}; accepted: samples like {wanted}, stacked or along the first axis"
        )
    if not data.ndim:
        return [data]
    return data.split(max(1, example.shape[0])) if len(data) else []


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
