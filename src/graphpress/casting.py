"""16-bit precision for exported programs, as the last step before a converter.

Compress first and cast last: compressed weights are not changed, the remaining tensors take half the bytes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphpress.compiling import CompileError
from graphpress.compiling import compile as compile_program
from graphpress.passes.cast_16_bit import Cast16Bit
from graphpress.passes.framework import Pipeline

__all__ = ["cast_fp32_to_fp16", "cast_int32_to_int16", "cast_to_16_bit_precision"]


def cast_to_16_bit_precision(exported_program: ExportedProgram) -> ExportedProgram:
    """Cast float32 to float16, and int32 and int64 to int16 where this is safe and saves space.

    Weights, user inputs and outputs, and the results of ops are cast; see `graphpress.passes.cast_16_bit.Cast16Bit` for
    the exceptions.

    Args:
        exported_program: the result of `torch.export.export`, before or after ``run_decompositions``. It is changed in
            place, and then takes inputs of the new types.

    Returns:
        `exported_program`.

    Raises:
        CompileError: if the argument is not an exported program.
    """
    return _cast(exported_program, Cast16Bit())


def cast_fp32_to_fp16(exported_program: ExportedProgram) -> ExportedProgram:
    """Cast float32 to float16, as `cast_to_16_bit_precision` does."""
    return _cast(exported_program, Cast16Bit(integers=False))


def cast_int32_to_int16(exported_program: ExportedProgram) -> ExportedProgram:
    """Cast int32 and int64 to int16 where safe, as `cast_to_16_bit_precision` does."""
    return _cast(exported_program, Cast16Bit(floats=False))


def _cast(program: ExportedProgram, cast: Cast16Bit) -> ExportedProgram:
    if not isinstance(program, ExportedProgram):
        raise CompileError(
            f"casting takes an ExportedProgram, not a {type(program).__name__}; "
            "torch.export.export(model.eval(), example_inputs) creates one"
        )
    examples = program.example_inputs
    result = compile_program(program, Pipeline(cast))
    if examples is not None:
        result._example_inputs = _like_inputs(examples, result)
    vars(program).update(vars(result))
    return program


def _like_inputs(examples: Any, program: ExportedProgram) -> Any:
    """Convert the program's example inputs to the types it now takes."""
    flat, spec = pytree.tree_flatten(examples)
    wanted = program.example_inputs
    types = [getattr(value, "dtype", None) for value in pytree.tree_leaves(wanted)]
    cast = [v.to(d) if isinstance(v, torch.Tensor) and d is not None else v for v, d in zip(flat, types, strict=True)]
    return pytree.tree_unflatten(cast, spec)
