"""The same graph with smaller and simpler tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from attrs import evolve

from graphpress.ir.dims import Dim
from graphpress.ir.graph import Graph, Input, Output, Value
from graphpress.ir.inference import TypeInferenceError, infer_types
from graphpress.ir.types import TensorType
from graphpress.passes.framework.reproduction import Case

Shape = tuple[Dim, ...]


def smaller_extents(case: Case) -> Iterator[Case | None]:
    """Every extent that inputs and constants have, replaced by a smaller one wherever it stands, in the attributes of
    nodes too or only in tensors; then every axis of the inputs by itself. Types are inferred anew; None stands for
    extents that do not go together.
    """
    shapes = [_shape(each.value) for each in case.graph.inputs] + [c.type.shape for c in case.graph.constants.values()]
    extents = sorted({extent for shape in shapes for extent in shape if isinstance(extent, int) and extent > 1})
    for old in reversed(extents):
        for new in _smaller(old):
            for in_attributes in (True, False):
                yield _resized(case, lambda _, shape: _swapped(shape, old, new), old if in_attributes else None, new)  # noqa: B023
    for each in case.graph.inputs:
        for axis, extent in enumerate(_shape(each.value)):
            for new in _smaller(extent):
                yield _resized(case, lambda one, shape: _at(shape, axis, new) if one is each else shape, None, new)  # noqa: B023


def simpler_values(case: Case) -> Iterator[Case]:
    """Every constant, then every input, as zeros, or else as ones."""
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
    """Nothing for a tensor that is plain already: a simpler one must never give way to a less simple one."""
    for number in (0, 1):
        if bool((tensor == number).all()):
            return
        yield torch.full_like(tensor, number)


def _smaller(extent: Dim) -> list[int]:
    if not isinstance(extent, int):
        return []
    return [new for new in dict.fromkeys((1, 2, extent // 2)) if 0 < new < extent]


def _shape(value: Value | None) -> Shape:
    return value.type.shape if value is not None and isinstance(value.type, TensorType) else ()


def _swapped(shape: Shape, old: int, new: int) -> Shape:
    return tuple(new if extent == old else extent for extent in shape)


def _at(shape: Shape, axis: int, new: int) -> Shape:
    return (*shape[:axis], new, *shape[axis + 1 :])


def _resized(case: Case, resize: Callable[[Input | None, Shape], Shape], old: int | None, new: int) -> Case | None:
    """The graph with the shapes that `resize` gives inputs and (None) constants, and `old` replaced by `new` in the
    attributes; None when it does not fit together then, or nothing changes."""
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
    """The first elements along every axis; along a symbolic one all."""
    if not isinstance(tensor, torch.Tensor):
        return tensor
    return tensor[tuple(slice(extent if isinstance(extent, int) else None) for extent in shape)].contiguous()
