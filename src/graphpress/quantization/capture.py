"""Capture of a model as a graph that accepts other batch sizes than the example's."""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from graphpress.ir.errors import suggestion
from graphpress.ir.graph import Graph, Node
from graphpress.ir.torch.arguments import Arguments
from graphpress.ir.torch.capture import from_module
from graphpress.ir.torch.export_errors import ExportError
from graphpress.ir.torch.generalization import NotProven, prove
from graphpress.modules.states import states_restored
from graphpress.passes.config import SpecError
from graphpress.programs import Model, graph_of
from graphpress.quantization.batch_of_one import settled_at_one
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase

# Ops whose attributes contain dims of the result.
_SHAPED = frozenset(
    {"view", "reshape", "expand", "_unsafe_view", "view_as", "zeros", "ones", "full", "arange", "repeat"}
)
# Ops with a number attribute that may have been computed from a dim.
_NUMBERED = frozenset(
    {
        "add",
        "sub",
        "mul",
        "div",
        "rsub",
        "pow",
        "remainder",
        "floor_divide",
        "arange",
        "linspace",
        "eye",
        "full",
        "full_like",
        "slice",
        "narrow",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "repeat_interleave",
    }
)


def capture(model: Model, example_inputs: Any, dynamic_shapes: Any = None, *, strict: bool = False) -> Graph:
    """Capture `model` in eval mode as a graph.

    Without dynamic shapes, if the graph contains constants that may be the batch size of the example, they are made
    symbolic: by proof (`graphpress.ir.torch.generalization`), if need be of a capture at twice the batch of an example
    of one, or else by a capture with a dynamic batch, if torch supports it. A model that computes something else at a
    batch of one causes a `BatchOfOneWarning`. An exported program is imported as it is.

    Raises:
        ExportError: if torch cannot capture the model, and for options of a capture beside an exported program.
    """
    if isinstance(model, ExportedProgram):
        if dynamic_shapes is not None or strict:
            raise ExportError(
                "dynamic_shapes and strict are options of torch.export; the model is an exported program already, and "
                "keeps the shapes of its export"
            )
        return graph_of(model)
    arguments = Arguments.of(example_inputs).bound_to(model.forward)
    graph = _export(model, arguments, dynamic_shapes, strict=strict)
    spells_out_batch = any(map(_spells_out_batch, graph.nodes))
    if dynamic_shapes is not None or not (spells_out_batch or any(map(_has_numbers, graph.nodes))):
        return graph
    try:
        found = prove(graph, model, arguments)
    except NotProven as reason:
        if not spells_out_batch and not reason.reads_batch:
            return graph
        otherwise = _captured_otherwise(model, arguments, reason, strict=strict)
        return graph if otherwise is None else settled_at_one(otherwise, graph, model, arguments)
    if spells_out_batch or found.is_needed:
        found.apply()
    return settled_at_one(graph, graph, model, arguments)


def _export(model: nn.Module, arguments: Arguments, dynamic_shapes: Any = None, *, strict: bool) -> Graph:
    return from_module(model, arguments.positional, arguments.named, dynamic_shapes, strict=strict)


def _captured_otherwise(model: nn.Module, arguments: Arguments, reason: NotProven, *, strict: bool) -> Graph | None:
    """Capture at a batch of two, if the example has one, or with a dynamic batch."""
    doubled = _with_batch_of_two(arguments)
    try:
        if reason.at_one:
            graph = _export(model, doubled, strict=strict)
            prove(graph, model, doubled).apply()
            return graph
    except (ExportError, NotProven, RuntimeError):
        pass
    try:
        graph = _export(model, doubled, _dynamic_batch(model, arguments), strict=strict)
    except (ExportError, RuntimeError):
        return None
    return graph if _takes(graph, arguments) else None


def _takes(graph: Graph, arguments: Arguments) -> bool:
    """Return True if the arguments have the shapes of the inputs; torch may make an automatic dim static."""
    for given, argument in zip(graph.inputs, arguments.leaves, strict=False):
        if given.value is None or not isinstance(argument, torch.Tensor):
            continue
        shape = given.value.tensor_type.shape
        if any(isinstance(dim, int) and dim != size for dim, size in zip(shape, argument.shape, strict=True)):
            return False
    return True


def _spells_out_batch(node: Node) -> bool:
    return (
        node.op.dialect == "aten"
        and node.op.short_name in _SHAPED
        and any(isinstance(a, tuple) and a and isinstance(a[0], int) and a[0] > 0 for a in node.attributes.values())
    )


def _has_numbers(node: Node) -> bool:
    return (
        node.op.dialect == "aten"
        and node.op.short_name in _NUMBERED
        and any(type(a) in (int, float) and a > 0 for name, a in node.attributes.items() if not name.startswith("dim"))
    )


def _dynamic_batch(model: nn.Module, arguments: Arguments) -> Any:
    def shape(argument: Any) -> Any:
        if isinstance(argument, torch.Tensor):
            return {0: torch.export.Dim.AUTO} if argument.ndim else None
        if isinstance(argument, list | tuple):
            return type(argument)([shape(item) for item in argument])
        return {key: shape(item) for key, item in argument.items()} if isinstance(argument, dict) else None

    shapes = tuple(shape(argument) for argument in (*arguments.positional, *arguments.named.values()))
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    place = kinds.index(inspect.Parameter.VAR_POSITIONAL)  # its arguments are one tuple for torch
    listed = len(arguments.positional)
    return (*shapes[:place], shapes[place:listed], *shapes[listed:])


def _with_batch_of_two(arguments: Arguments) -> Arguments:
    """Double a batch of one, since `torch.export` specializes dims of size 1."""

    def doubled(leaf: Any) -> Any:
        is_one = isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.shape[0] == 1
        return torch.cat([leaf, leaf]) if is_one else leaf

    return arguments.with_leaves([doubled(leaf) for leaf in arguments.leaves])


def preserve_attributes(names: Iterable[str] | None, source: Model, target: nn.Module) -> None:
    """Copy attributes of `source` to `target`; methods are bound to `target`.

    Raises:
        SpecError: for a name that `source` does not have, or that every module has, and for a value that cannot be
            copied.
    """
    for place, name in enumerate(names or ()):
        path = f"preserved_attributes[{place}]"
        if not hasattr(source, name):
            known = [known for known in dir(source) if not known.startswith("_")]
            raise SpecError(f"the model has no attribute {name!r}{suggestion(name, known)}", path)
        if isinstance(target, type(source)) and hasattr(target, name):
            continue  # a copy of the model already has its attributes
        value = getattr(source, name)
        if name in target._modules or name in target._parameters or name in target._buffers:
            continue  # already present in compressed form
        if hasattr(type(target), name):
            raise SpecError(f"{name!r} is an attribute of every module; accepted: names of the model's own", path)
        is_method = isinstance(value, types.MethodType) and value.__self__ is source
        try:
            kept = types.MethodType(value.__func__, target) if is_method else copy.deepcopy(value)
        except Exception as error:
            raise SpecError(f"{name!r} cannot be copied ({type(error).__name__}: {error})", path) from error
        setattr(target, name, kept)


def states_restored_in(prepared: nn.Module) -> AbstractContextManager[None]:
    """Restore the states of the user's model on exit; quantizers keep what they observe."""
    quantizers = (module for module in prepared.modules() if isinstance(module, FakeQuantizeImplBase))
    return states_restored(prepared, {id(buffer) for module in quantizers for buffer in module.buffers()})
