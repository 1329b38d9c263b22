"""bfloat16 as float32, and 8-bit inputs as int32, since Core ML has neither."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument

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


def with_wide_inputs(program: ExportedProgram) -> ExportedProgram:
    """Return `program` with int32 inputs in place of those of 8 bits, or itself if it has none.

    Each is cast to its former dtype first, so that arithmetic on it wraps around as before.

    Raises:
        ConversionError: if torch cannot trace the program again.
    """
    names = set(program.graph_signature.user_inputs)
    if not any(_is_byte(node) for node in program.graph.find_nodes(op="placeholder") if node.name in names):
        return program
    try:
        with exporting.quiet():
            copy = program.run_decompositions({})
            placeholders = copy.graph.find_nodes(op="placeholder")
            for node in reversed([node for node in placeholders if node.name in names and _is_byte(node)]):
                with copy.graph.inserting_after(placeholders[-1]):
                    cast = copy.graph.call_function(
                        torch.ops.aten._to_copy.default, (node,), {"dtype": node.meta["val"].dtype}
                    )
                cast.meta = dict(node.meta)
                node.replace_all_uses_with(cast, delete_user_cb=lambda user, cast=cast: user is not cast)
                node.meta["val"] = node.meta["val"].to(torch.int32)
                _rename_outputs(copy, node.name, cast.name)
            copy.graph_module.recompile()
            return copy.run_decompositions({})
    except Exception as error:
        raise ConversionError(f"torch cannot trace the program with int32 inputs: {exporting.head(error)}") from error


def _is_byte(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype in (torch.uint8, torch.int8)


def _rename_outputs(program: ExportedProgram, old: str, new: str) -> None:
    specs = program.graph_signature.output_specs
    for place, spec in enumerate(specs):
        if isinstance(spec.arg, TensorArgument) and spec.arg.name == old:
            specs[place] = dataclasses.replace(spec, arg=TensorArgument(new))


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
