"""Evaluation of a saved package by the IR's interpreter, since Core ML itself runs on Apple's systems only."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from graphpress.backends.comparison import ExactConvolutions
from graphpress.backends.coreml.importing import from_mil
from graphpress.backends.coreml.importing.reader import is_state
from graphpress.backends.coreml.package import load_program
from graphpress.backends.errors import AssetError
from graphpress.backends.importing.reader import program_errors_named
from graphpress.ir.graph import Graph
from graphpress.ir.interpreter import Interpreter, Observer
from graphpress.ir.types import TensorType


def evaluate(
    path: str | PathLike[str], inputs: Sequence[torch.Tensor], observe: Observer | None = None
) -> tuple[Graph, list[Any]]:
    """Import the package's program, and evaluate it on flat `inputs`, cast to the declared types.

    States are zero before the run, and their values after it are not among the returned outputs.

    Args:
        path: a saved package.
        inputs: one tensor for each input, in order.
        observe: called after every node, with its results.

    Raises:
        AssetError: if there is no package, it is damaged, or it has another number of inputs.
        InterpreterError: if it has an op that the IR cannot translate.
    """
    program = load_program(path)
    with program_errors_named(path):
        states = {name: var for name, var in program.functions["main"].inputs.items() if is_state(var)}
        names = [name for name in program.functions["main"].inputs if name not in states]
    if len(names) != len(inputs):
        raise AssetError(f"{path} takes {len(names)} inputs ({', '.join(names)}), got {len(inputs)}")
    shapes = {name: tuple(value.shape) for name, value in zip(names, inputs, strict=True)}
    with program_errors_named(path):
        graph = from_mil(program, name=Path(path).stem, shapes=shapes)
    zeros = [torch.zeros(tuple(var.shape)) for var in states.values()]
    fed = [value.to(_dtype(each.value)) for value, each in zip([*inputs, *zeros], graph.inputs, strict=True)]
    with ExactConvolutions():
        return graph, Interpreter(graph, observe).run(fed)[: len(program.functions["main"].outputs)]


def _dtype(value: Any) -> torch.dtype:
    assert isinstance(value.type, TensorType)
    return value.type.dtype.torch_dtype
