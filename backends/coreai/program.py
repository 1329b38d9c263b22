"""From an exported program to one in the ops that the Core AI converter takes, as a copy."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from graphpress.backends.coreai.ops import require
from graphpress.backends.errors import ConversionError
from graphpress.backends.exporting import head, place, quiet
from graphpress.backends.moments import variance, variance_and_mean


def _norm_without_parameters(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    momentum: float,
    eps: float,
) -> Any:
    """The converter wants both parameters of a batch norm, or none of the op."""
    if weight is not None and bias is not None:
        return NotImplemented
    scale = torch.rsqrt(var + eps) if weight is None else torch.rsqrt(var + eps) * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = [1, -1] + [1] * (x.dim() - 2)
    return x * scale.reshape(shape) + shift.reshape(shape), x.new_empty(0), x.new_empty(0)


_SPELLED_OUT = {
    torch.ops.aten.var.correction: variance,
    torch.ops.aten.var_mean.correction: variance_and_mean,
    torch.ops.aten._native_batch_norm_legit_no_training.default: _norm_without_parameters,
}
"""What torch decomposes to ops that the converter lacks, and what it takes in one form only."""


def decompose(program: ExportedProgram) -> ExportedProgram:
    """A copy of `program` in the ops the converter knows; where it lacks one torch can decompose, that too.

    Raises:
        ConversionError: when an operator is left that the converter does not have, with its places.
    """
    table = {**require("coreai_torch").get_decomp_table(), **_SPELLED_OUT}
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
