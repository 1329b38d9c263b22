"""bfloat16 as float32, since Core ML has no bfloat16."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from graphpress.backends import exporting
from graphpress.backends.errors import ConversionError


def widened(program: ExportedProgram) -> ExportedProgram:
    """Return `program` with float32 in place of bfloat16, or itself if it has none.

    Weights keep their values, and results are rounded less often. Each bfloat16 input and output becomes float32. Warns
    with the number of values.

    Raises:
        ConversionError: if torch cannot trace the program in float32.
    """
    nodes = [node for node in program.graph.nodes if _is_narrow(node.meta.get("val"))]
    if not nodes:
        return program
    warnings.warn(
        f"Core ML has no bfloat16: {len(nodes)} values of the program become float32, with the same weights; "
        "graphpress.casting.cast_to_16_bit_precision converts a float32 model to float16",
        UserWarning,
        stacklevel=3,
    )
    try:
        with exporting.quiet():
            copy = program.run_decompositions({})
            for node in copy.graph.nodes:
                _widen(node)
            for held in (copy.state_dict, copy.constants):
                held.update({name: _float32(value) for name, value in held.items()})
            copy.graph_module.recompile()
            return copy.run_decompositions({})
    except Exception as error:
        raise ConversionError(f"torch cannot trace the program in float32: {exporting.head(error)}") from error


def _widen(node: fx.Node) -> None:
    """Replace bfloat16 in the arguments of a node, and in the type of an input."""
    if node.op == "placeholder" and _is_narrow(node.meta.get("val")):
        node.meta["val"] = node.meta["val"].to(torch.float32)
    node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _float32_dtype)


def _float32_dtype(argument: Any) -> Any:
    return torch.float32 if argument is torch.bfloat16 else argument


def _is_narrow(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype is torch.bfloat16


def _float32(value: Any) -> Any:
    if not _is_narrow(value):
        return value
    wide = value.detach().to(torch.float32)
    return torch.nn.Parameter(wide, requires_grad=False) if isinstance(value, torch.nn.Parameter) else wide
