"""From an exported program to one in the ops that the Core AI converter takes, as a copy."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from graphpress.backends.coreai.ops import require
from graphpress.backends.errors import ConversionError
from graphpress.backends.exporting import head, place, quiet


def decompose(program: ExportedProgram) -> ExportedProgram:
    """A copy of `program` in the ops the converter knows; where it lacks one torch can decompose, that too.

    Raises:
        ConversionError: when an operator is left that the converter does not have, with its places.
    """
    table = require("coreai_torch").get_decomp_table()
    try:
        with quiet():
            program = program.run_decompositions(table)
            refused = _refused_operators(program)
            known = torch._decomp.decomposition_table
            extra = {target: known[target] for target in refused if target in known}
            if extra:
                program = program.run_decompositions({**table, **extra})
                refused = _refused_operators(program)
    except Exception as error:
        raise ConversionError(f"torch cannot decompose the program: {head(error)}") from error
    if refused:
        places = "; ".join(
            f"{target} {' and '.join(place(node) for node in nodes[:3])}" for target, nodes in refused.items()
        )
        raise ConversionError(f"the Core AI converter has no lowering for {places}")
    return program


def _refused_operators(program: ExportedProgram) -> dict[Any, list[fx.Node]]:
    """ATen operators of `program` that the converter has no lowering for, with their nodes."""
    lowerings = require("coreai_torch._aten_to_core")._aten_to_core_resolver
    assertions = ("aten._assert", "aten.sym_constrain_range")  # the converter drops these itself
    refused: dict[Any, list[fx.Node]] = {}
    for node in program.graph.nodes:
        name = str(node.target)
        if node.op != "call_function" or not name.startswith("aten.") or name.startswith(assertions):
            continue
        if name.removeprefix("aten.") not in lowerings:
            refused.setdefault(node.target, []).append(node)
    return refused
