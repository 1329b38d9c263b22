"""From an exported program to one in the ops that a converter has, as a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from graphpress.backends.errors import ConversionError
from graphpress.backends.exporting import head, place, quiet


def decompose(
    program: ExportedProgram, table: Mapping[Any, Callable[..., Any]], takes: Callable[[Any], bool], converter: str
) -> ExportedProgram:
    """A copy of `program` in ATen ops that `takes` is true for.

    What `table` has is decomposed by it, and torch's own decompositions are taken for what is refused after that.

    Args:
        program: what is to be converted.
        table: decompositions by operator.
        takes: whether the converter has a lowering for an ATen operator.
        converter: what the converter is called, for the error.

    Raises:
        ConversionError: when an operator is left that the converter does not have, with its places.
    """
    decompositions = dict(table)
    try:
        with quiet():
            program = program.run_decompositions(dict(decompositions))
            while refused := _refused_operators(program, takes):
                extra = _known_to_torch(refused.keys() - decompositions.keys())
                if not extra:
                    break
                decompositions |= extra
                program = program.run_decompositions(dict(decompositions))
    except Exception as error:
        raise ConversionError(f"torch cannot decompose the program: {head(error)}") from error
    if refused:
        places = "; ".join(f"{op} {' and '.join(place(node) for node in nodes[:3])}" for op, nodes in refused.items())
        raise ConversionError(f"{converter} has no lowering for {places}")
    return program


def _known_to_torch(operators: Iterable[Any]) -> dict[Any, Callable[..., Any]]:
    """Torch's decompositions of those that it has any for; by ATen ops rather than by primitives."""
    composite, others = torch.export.default_decompositions(), torch._decomp.decomposition_table
    found = {op: others[op] for op in operators if op in others}
    return found | {op: composite[op] for op in operators if op in composite}


def _refused_operators(program: ExportedProgram, takes: Callable[[Any], bool]) -> dict[Any, list[fx.Node]]:
    """Operators of torch in `program` that the converter has no lowering for, with their nodes."""
    assertions = ("aten._assert", "aten.sym_constrain_range")  # converters drop these themselves
    refused: dict[Any, list[fx.Node]] = {}
    for node in program.graph.nodes:
        name = str(node.target)
        if node.op != "call_function" or not name.startswith(("aten.", "prims.")) or name.startswith(assertions):
            continue
        if not takes(node.target):
            refused.setdefault(node.target, []).append(node)
    return refused
