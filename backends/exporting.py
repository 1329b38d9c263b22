"""Tracing of modules for conversion, and programs in the ops that a converter has."""

from __future__ import annotations

import copyreg
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from graphpress.backends.errors import ConversionError


def export(
    model: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any] | None,
    dynamic_shapes: Any = None,
) -> ExportedProgram:
    """Trace `model` in eval mode with `torch.export`; its training mode is restored afterwards.

    Args:
        model: any exportable module.
        example_inputs: one tensor, the positional arguments, or the arguments by name.
        dynamic_shapes: as `torch.export.export` takes them.

    Raises:
        ConversionError: when inputs are missing or torch cannot trace the model.
    """
    if example_inputs is None:
        raise ConversionError(
            f"converting a {type(model).__name__} needs example_inputs: a tensor, a tuple of the positional "
            "arguments, or a dict of them by name (an ExportedProgram needs none)"
        )
    args, kwargs = arguments(example_inputs)
    try:
        with in_eval_mode(model), torch.no_grad(), quiet():
            return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes)
    except Exception as error:
        raise ConversionError(
            f"torch.export cannot trace {type(model).__name__}: {type(error).__name__}: {head(error)}"
        ) from error


def arguments(inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split what a caller gives as inputs into positional and named arguments."""
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs), {}


def place(node: fx.Node) -> str:
    """Where a node comes from: its module path, if any, and the user's source line."""
    path = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
    frames = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if "File " in line]
    module = f"in module {path[-1]!r}" if path and path[-1] else "in the model's own forward"
    return f"{module} ({frames[-1]})" if frames else module


@contextmanager
def in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Run the body with every submodule in eval mode, then restore each one's own mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def quiet() -> Iterator[None]:
    """Silence a deprecation that torch.export raises about itself on every call."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=copyreg.__name__)
        yield


def head(error: BaseException, most: int = 600) -> str:
    """The start of an error's text: torch appends pages of hints."""
    text = str(error).strip()
    return text if len(text) <= most else text[:most].rstrip() + " ..."


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
