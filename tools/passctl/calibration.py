"""Calibration data from files, as batches of the size the model was captured with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen

from graphpress.tools.passctl.errors import InputDataError
from graphpress.tools.passctl.inputs import given_in
from graphpress.tools.passctl.tensor_files import SUFFIXES, read_tensors


@frozen
class CalibrationData:
    """Batches in files. Iterating gives tuples of the model's positional inputs.

    An array with one axis more than the model's input holds batches; one with as many is cut along its first axis into
    batches as large as the example's, of which the last may be smaller.

    Attributes:
        files: in the order in which they are read.
        input_names: of the model's positional inputs.
        example: the inputs the model is captured with.
    """

    files: tuple[Path, ...]
    input_names: tuple[str, ...]
    example: tuple[torch.Tensor, ...]

    @classmethod
    def open(cls, path: Path, input_names: Sequence[str], example: Sequence[Any]) -> CalibrationData:
        """The data in a file, or in the files of a folder in the order of their names.

        The first file is read, so that data which does not fit is found before any work.

        Raises:
            InputDataError: when there is no data, or it does not fit the model.
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
        given = given_in(read_tensors(file), str(file)).in_order(self.input_names, str(file))
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
