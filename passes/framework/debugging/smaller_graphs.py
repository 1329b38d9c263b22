"""Candidate graphs for reduction: fewer nodes and outputs, smaller and simpler tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from attrs import evolve

from graphpress.ir.graph import Graph, Input, Node, Output, Value
from graphpress.ir.inference import TypeInferenceError, infer_types
from graphpress.ir.interpreter import Interpreter
from graphpress.ir.ops import Trait
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.subgraph import extract
from graphpress.ir.types import Dim, TensorType
from graphpress.passes.framework.debugging.reproduction import Case

Accept = Callable[[Case | None], bool]


def values_in_a_run(case: Case) -> dict[str, Any]:
    """Return the value of every input and node result by name, for the inputs of `case`; empty without inputs.

    Raises:
        InterpreterError: if the graph does not run.
    """
    if case.inputs is None:
        return {}
    known: dict[str, Any] = {each.name: given for each, given in zip(case.graph.inputs, case.inputs, strict=True)}
    may_change = any(node.op.has(Trait.IN_PLACE) for node in case.graph.nodes)

    def keep(node: Node, results: Sequence[Any]) -> None:
        for value, result in zip(node.results, results, strict=True):
            known[value.name] = result.clone() if may_change and isinstance(result, torch.Tensor) else result

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        Interpreter(case.graph, keep).execute(case.inputs)
    return known


def part(case: Case, names: Collection[str], known: Mapping[str, Any]) -> Case | None:
    """Return the case with the nodes `names` only, or None if the value of a new input is unknown."""
    graph = extract(case.graph, names)
    if case.inputs is None:
        return evolve(case, graph=graph)
    if any(each.name not in known for each in graph.inputs):
        return None
    return evolve(case, graph=graph, inputs=[known[each.name] for each in graph.inputs])


def remove_nodes(case: Callable[[], Case], accept: Accept, known: Mapping[str, Any]) -> None:
    """Remove nodes by delta debugging (`ddmin`, Zeller and Hildebrandt, 2002).

    Args:
        case: returns the current case.
        accept: tests a candidate, and makes it the current case if it still fails.
        known: values of a run; see `values_in_a_run`.
    """
    pieces = 2
    while len(names := [node.name for node in case().graph.nodes]) > 1:
        pieces = min(pieces, len(names))
        chunks = _chunks(names, pieces)
        if any(accept(part(case(), chunk, known)) for chunk in chunks):
            pieces = 2
            continue
        if pieces > 2 and _remove_chunks(chunks, case, accept, known):
            pieces = max(pieces // 2, 2)
            continue
        if pieces == len(names):
            return
        pieces *= 2


def _remove_chunks(chunks: list[list[str]], case: Callable[[], Case], accept: Accept, known: Mapping[str, Any]) -> bool:
    is_smaller = False
    for chunk in chunks:
        rest = {node.name for node in case().graph.nodes} - set(chunk)
        if rest and accept(part(case(), rest, known)):
            is_smaller = True
    return is_smaller


def _chunks(names: list[str], count: int) -> list[list[str]]:
    bounds = [round(place * len(names) / count) for place in range(count + 1)]
    return [names[start:end] for start, end in pairwise(bounds)]


def fewer_outputs(case: Case) -> Iterator[Case]:
    """Yield the case with each single output, then without each single output."""
    count = len(case.graph.outputs)
    if count > 1:
        for place in range(count):
            yield with_outputs(case, {place})
        if count > 2:
            for place in range(count):
                yield with_outputs(case, set(range(count)) - {place})


def with_outputs(case: Case, places: Collection[int]) -> Case:
    """Return the case with the outputs at `places`, and the nodes they need."""
    graph = case.graph.clone()
    graph.signature = None
    for place, output in enumerate(list(graph.outputs)):
        if place not in places:
            _remove_output(graph, output)
    rewriter = Rewriter(graph)
    for node in reversed(graph.nodes):
        if node.is_dead:
            rewriter.erase(node)
    for constant in list(graph.constants.values()):
        if not constant.value.use_count:
            rewriter.erase_constant(constant)
    kept = [place for place, each in enumerate(graph.inputs) if each.value is not None and each.value.use_count]
    graph.inputs[:] = [graph.inputs[place] for place in kept]
    inputs = None if case.inputs is None else [case.inputs[place] for place in kept]
    return evolve(case, graph=graph, inputs=inputs)


def _remove_output(graph: Graph, output: Output) -> None:
    graph.set_output(output, None)
    if output.target is not None:
        del output.target._uses[output, "target", None]
    graph.outputs.remove(output)


Shape = tuple[Dim, ...]


def smaller_dims(case: Case) -> Iterator[Case | None]:
    """Yield the case with each dim of inputs and constants replaced by a smaller one.

    The old dim is replaced everywhere, in node attributes too or in tensors only; then each axis of the inputs by
    itself. Types are inferred again; None represents dims that do not fit together.
    """
    shapes = [_shape(each.value) for each in case.graph.inputs] + [c.type.shape for c in case.graph.constants.values()]
    dims = sorted({dim for shape in shapes for dim in shape if isinstance(dim, int) and dim > 1})
    for old in reversed(dims):
        for new in _smaller(old):
            for in_attributes in (True, False):
                yield _resized(case, lambda _, shape: _swapped(shape, old, new), old if in_attributes else None, new)  # noqa: B023
    for each in case.graph.inputs:
        for axis, dim in enumerate(_shape(each.value)):
            for new in _smaller(dim):
                yield _resized(case, lambda one, shape: _at(shape, axis, new) if one is each else shape, None, new)  # noqa: B023


def simpler_values(case: Case) -> Iterator[Case]:
    """Yield the case with each constant, then each input, replaced by zeros or ones."""
    for name, constant in case.graph.constants.items():
        if constant.has_data and constant.type.dtype.is_dense:
            for plain in _plain(constant.tensor):
                graph = case.graph.clone()
                graph.constants[name]._tensor = plain
                graph.constants[name].digest = None
                yield evolve(case, graph=graph)
    for place, given in enumerate(case.inputs or ()):
        if isinstance(given, torch.Tensor):
            for plain in _plain(given):
                assert case.inputs is not None
                yield evolve(case, inputs=[*case.inputs[:place], plain, *case.inputs[place + 1 :]])


def _plain(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield simpler tensors than `tensor`; none for a plain one, so that candidates only get simpler."""
    for number in (0, 1):
        if bool((tensor == number).all()):
            return
        yield torch.full_like(tensor, number)


def _smaller(dim: Dim) -> list[int]:
    if not isinstance(dim, int):
        return []
    return [new for new in dict.fromkeys((1, 2, dim // 2)) if 0 < new < dim]


def _shape(value: Value | None) -> Shape:
    return value.type.shape if value is not None and isinstance(value.type, TensorType) else ()


def _swapped(shape: Shape, old: int, new: int) -> Shape:
    return tuple(new if dim == old else dim for dim in shape)


def _at(shape: Shape, axis: int, new: int) -> Shape:
    return (*shape[:axis], new, *shape[axis + 1 :])


def _resized(case: Case, resize: Callable[[Input | None, Shape], Shape], old: int | None, new: int) -> Case | None:
    """Return the case with the shapes from `resize`, and `old` replaced by `new` in attributes.

    `resize` returns the shape of each input and (None) constant. Returns None if the result is invalid or unchanged.
    """
    source, graph = case.graph, Graph(case.graph.name, symbols=dict(case.graph.symbols))
    values: dict[int, Value] = {}
    inputs, is_changed = list(case.inputs or ()), False
    for place, each in enumerate(source.inputs):
        type = None if each.value is None else each.value.type
        if isinstance(type, TensorType):
            shape = resize(each, type.shape)
            is_changed |= shape != type.shape
            type = TensorType(type.dtype, shape)
            if inputs:
                inputs[place] = _cut(inputs[place], shape)
        made = graph.add_input(each.name, type, each.literal)
        if each.value is not None and made.value is not None:
            values[id(each.value)] = made.value
    for constant in source.constants.values():
        if not constant.has_data:
            return None
        shape = resize(None, constant.type.shape)
        is_changed |= shape != constant.type.shape
        copy = graph.add_constant(
            constant.name,
            _cut(constant.tensor, shape),
            constant.kind,
            constant.names,
            type=TensorType(constant.type.dtype, shape),
            persistent=constant.persistent,
        )
        values[id(constant.value)] = copy.value
    if not is_changed or not _copy_nodes(source, graph, values, old, new):
        return None
    for output in source.outputs:
        _copy_output(output, graph, values)
    return evolve(case, graph=graph, inputs=inputs if case.inputs is not None else None)


def _copy_nodes(source: Graph, graph: Graph, values: dict[int, Value], old: int | None, new: int) -> bool:
    for node in source.nodes:
        if any(isinstance(attribute, Graph) for attribute in node.attributes.values()):
            return False
        operands = {name: _moved(operand, values) for name, operand in node.operands.items()}
        attributes = {name: _with_number(value, old, new) for name, value in node.attributes.items()}
        try:
            types = infer_types(node.op, operands, attributes, graph.symbols)
        except (TypeInferenceError, ValueError):
            return False
        if types is None or len(types) != len(node.results):
            return False
        made = graph.insert(node.op, operands, attributes, types, name=node.name, location=node.location)
        made.annotations = dict(node.annotations)
        values.update((id(before), after) for before, after in zip(node.results, made.results, strict=True))
    return True


def _copy_output(output: Output, graph: Graph, values: dict[int, Value]) -> None:
    value = None if output.value is None else values[id(output.value)]
    target = None if output.target is None else values[id(output.target)]
    graph.add_output(value, output.kind, output.literal, target)


def _moved(operand: Any, values: dict[int, Value]) -> Any:
    if isinstance(operand, Value):
        return values[id(operand)]
    return tuple(_moved(item, values) for item in operand) if isinstance(operand, tuple) else operand


def _with_number(value: Any, old: int | None, new: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_with_number(item, old, new) for item in value)
    return new if old is not None and type(value) is int and value == old else value


def _cut(tensor: Any, shape: Shape) -> Any:
    """Return the leading elements along every axis; all along symbolic axes."""
    if not isinstance(tensor, torch.Tensor):
        return tensor
    return tensor[tuple(slice(dim if isinstance(dim, int) else None) for dim in shape)].contiguous()
