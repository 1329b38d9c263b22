"""Example inputs for a model: from a file, from shapes, or from the types of a graph's inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen

from graphpress.ir.dims import SymDim
from graphpress.ir.dtypes import DType, DTypeError
from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Graph, Input
from graphpress.ir.types import ScalarType, TensorType
from graphpress.tools.passctl.errors import InputDataError
from graphpress.tools.passctl.tensor_files import read_tensors


@frozen
class GivenInputs:
    """Example inputs as given: by name where they have names, or in order."""

    named: Mapping[str, Any] | None = None
    ordered: tuple[Any, ...] | None = None

    def in_order(self, names: Sequence[str], where: str) -> tuple[Any, ...]:
        """One item per name, in their order.

        Files have names of their own: when they are not those of the inputs, a lone tensor is the first input, and
        names that end in numbers (``arr_0``, ``input1``) are in the order of the numbers.

        Raises:
            InputDataError: when names do not fit.
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
            f"{where} has {stranger!r}, which is no input of the model{suggestion(stranger, names)}; its inputs are "
            f"{', '.join(names) or 'none'}"
        )


def read_inputs(file: Path | None, shapes: Sequence[str]) -> GivenInputs | None:
    """The example inputs of the options ``--inputs`` and ``--input-shape``; None when neither was given.

    Raises:
        InputDataError: when both are given, or what is given cannot be read.
    """
    if file is not None and shapes:
        raise InputDataError("--inputs and --input-shape both say what the example inputs are; give one of them")
    if file is not None:
        return given_in(read_tensors(file), str(file))
    return GivenInputs(ordered=tuple(_of_shape(text) for text in shapes)) if shapes else None


def given_in(data: Any, where: str) -> GivenInputs:
    """The inputs that a file held.

    Raises:
        InputDataError: when they are no tensors.
    """
    if isinstance(data, torch.Tensor):
        return GivenInputs(ordered=(data,))
    if isinstance(data, Mapping) and data:
        return GivenInputs(named={str(name): value for name, value in data.items()})
    if isinstance(data, list | tuple) and data:
        return GivenInputs(ordered=tuple(data))
    raise InputDataError(f"{where} holds a {type(data).__name__}, not tensors: a tensor, a tuple, or a dict by name")


def made_for(graph: Graph, seed: int = 0) -> list[Any]:
    """Flat inputs of the types of a graph's inputs: normal floats, zero integers; symbols at their example values."""
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
    raise InputDataError(f"input {graph_input.name!r} is {type}: give example inputs with --inputs")


def _of_shape(text: str) -> torch.Tensor:
    shape_text, _, dtype_text = text.partition(":")
    if not re.fullmatch(r"\d+(x\d+)*|scalar", shape_text):
        raise InputDataError(f"{text!r} is no shape; write 1x3x32x32, 1x12:int64, or scalar")
    shape = [] if shape_text == "scalar" else [int(extent) for extent in shape_text.split("x")]
    try:
        dtype = DType.of(dtype_text) if dtype_text else DType.FLOAT32
        return _filled(shape, dtype, torch.Generator().manual_seed(0))
    except DTypeError as error:
        raise InputDataError(f"{text!r}: {error}") from error


def _filled(shape: Sequence[int], dtype: DType, generator: torch.Generator) -> torch.Tensor:
    if dtype.is_floating:
        return torch.randn(shape, generator=generator).to(dtype.torch_dtype)
    return torch.zeros(shape, dtype=dtype.torch_dtype)
