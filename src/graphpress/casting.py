"""16-bit precision for exported programs, as the last step before a converter.

Compress first and cast last: compressed weights are not changed, the remaining tensors take half the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, fx
from torch._ops import OpOverload, OpOverloadPacket
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphpress.compiling import CompileError
from graphpress.compiling import compile as compile_program
from graphpress.ir.graph import Graph, Node
from graphpress.ir.interpreter import Interpreter
from graphpress.ir.torch.capture import from_exported_program
from graphpress.passes.cast_16_bit import Cast16Bit
from graphpress.passes.framework import Pipeline

__all__ = ["cast_fp32_to_fp16", "cast_int32_to_int16", "cast_to_16_bit_precision"]

Op = OpOverload | OpOverloadPacket
Ignored = Op | Collection[Op] | Callable[[fx.Node], bool] | None
Samples = Iterable[Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]] | None


def cast_to_16_bit_precision(
    exported_program: ExportedProgram, ignored_ops: Ignored = None, calibration_data: Samples = None
) -> ExportedProgram:
    """Cast float32 to float16, and int32 and int64 to int16 where this is safe and saves space.

    Weights, user inputs and outputs, and the results of ops are cast; see `graphpress.passes.cast_16_bit.Cast16Bit` for
    the exceptions.

    Args:
        exported_program: the result of `torch.export.export`, before or after ``run_decompositions``. It is changed in
            place, and then takes inputs of the new types.
        ignored_ops: ops that stay float32: one or several, or a function of nodes of the program's graph.
        calibration_data: inputs, each a tensor, a tuple or list of positional arguments, or a dictionary of them by
            name. Ops whose values exceed the range of float16 on one of them stay float32, and so do the ops that
            read them. None infers ranges from the constants of the program alone.

    Returns:
        `exported_program`.

    Raises:
        CompileError: if an argument has the wrong type, or data does not fit the program.
    """
    return _cast(exported_program, Cast16Bit(), ignored_ops, calibration_data)


def cast_fp32_to_fp16(
    exported_program: ExportedProgram, ignored_ops: Ignored = None, calibration_data: Samples = None
) -> ExportedProgram:
    """Cast float32 to float16, as `cast_to_16_bit_precision` does."""
    return _cast(exported_program, Cast16Bit(integers=False), ignored_ops, calibration_data)


def cast_int32_to_int16(exported_program: ExportedProgram) -> ExportedProgram:
    """Cast int32 and int64 to int16 where safe, as `cast_to_16_bit_precision` does."""
    return _cast(exported_program, Cast16Bit(floats=False), None, None)


def _cast(program: ExportedProgram, cast: Cast16Bit, ignored: Ignored, data: Samples) -> ExportedProgram:
    if not isinstance(program, ExportedProgram):
        raise CompileError(
            f"casting takes an ExportedProgram, not a {type(program).__name__}; "
            "torch.export.export(model.eval(), example_inputs) creates one"
        )
    if data is not None and not isinstance(data, Iterable):
        raise CompileError(
            f"calibration_data is a {type(data).__name__}; accepted: an iterable of the inputs of calls, each a "
            "tensor, a tuple, a list or a dict by name"
        )
    beyond = None if data is None else tuple(sorted(_beyond_float16(program, data)))
    examples = program.example_inputs
    result = compile_program(program, Pipeline(evolve(cast, kept=_names(program, ignored), beyond=beyond)))
    if examples is not None:
        result._example_inputs = _like_inputs(examples, result)
    vars(program).update(vars(result))
    return program


def _names(program: ExportedProgram, ignored: Ignored) -> tuple[str, ...]:
    """Return the names of the nodes that `ignored` selects."""
    if ignored is None:
        return ()
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    if not isinstance(ignored, Op) and callable(ignored):
        return tuple(node.name for node in calls if ignored(node))
    ops = [ignored] if isinstance(ignored, Op) else [*ignored] if isinstance(ignored, Collection) else [None]
    wrong = [op for op in ops if not isinstance(op, Op)]
    if wrong:
        raise CompileError(
            f"ignored_ops has {wrong[0]!r}; accepted: ops such as torch.ops.aten.linear or "
            "torch.ops.aten.linear.default, a collection of them, or a function of a node"
        )
    return tuple(node.name for node in calls if node.target in ops or getattr(node.target, "overloadpacket", 0) in ops)


def _beyond_float16(program: ExportedProgram, data: Iterable[Any]) -> set[str]:
    """Return the names of the nodes with finite values beyond the range of float16 on `data`."""
    most = torch.finfo(torch.float16).max
    graph, found = from_exported_program(program), set[str]()

    def note(node: Node, results: Any) -> None:
        for result in results:
            if isinstance(result, Tensor) and result.dtype is torch.float32 and result.numel():
                finite = result[torch.isfinite(result)]
                if finite.numel() and float(finite.abs().max()) > most:
                    found.add(node.name)

    interpreter = Interpreter(graph, note)
    for sample in data:
        interpreter.run(_flat(graph, sample))
    return found


def _flat(graph: Graph, sample: Any) -> list[Any]:
    """Return the flat inputs of one sample."""
    if isinstance(sample, Tensor):
        return [sample]
    if isinstance(sample, tuple | list):
        return pytree.tree_leaves(tuple(sample))
    if not isinstance(sample, dict):
        raise CompileError(
            f"calibration_data has a {type(sample).__name__}; accepted: tensors, tuples, lists, and dictionaries by "
            "name"
        )
    names = [entry.name for entry in graph.inputs if entry.value is not None]
    if set(names) != set(sample):
        raise CompileError(
            f"calibration_data names {', '.join(map(str, sample))}; the program takes {', '.join(names)}"
        )
    return [sample[name] for name in names]


def _like_inputs(examples: Any, program: ExportedProgram) -> Any:
    """Convert the program's example inputs to the types it now takes."""
    flat, spec = pytree.tree_flatten(examples)
    wanted = program.example_inputs
    types = [getattr(value, "dtype", None) for value in pytree.tree_leaves(wanted)]
    cast = [v.to(d) if isinstance(v, torch.Tensor) and d is not None else v for v, d in zip(flat, types, strict=True)]
    return pytree.tree_unflatten(cast, spec)
