"""The ops of a model, recorded in an eager run or read from a captured graph."""

from __future__ import annotations

import linecache
import os
import re
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
from torch import nn

from graphpress.eager import OpCall, Recording, TensorUse, observed_by
from graphpress.eager.operators import Operator
from graphpress.eager.recording import ModuleCall, Recorder
from graphpress.inspection.tree import FoundOps, Key, context_of
from graphpress.inspection.types import InputEdge, OpInfo, SourceFrame
from graphpress.ir.graph import Graph, Node, Value
from graphpress.passes.analysis.boundaries import is_float
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.analysis.sites import site_of

_NOT_THE_USERS = tuple(os.path.dirname(package) + os.sep for package in (torch.__file__, os.path.dirname(__file__)))


def eager_ops(model: nn.Module, run: Callable[[], Any], wanted: Callable[[OpCall], bool]) -> FoundOps:
    """Return the ops that `model` calls during `run`, each once, and those that `wanted` selects among them."""
    recorder = _Sourced(model)
    with observed_by(model, recorder):
        run()
    return _Calls(recorder.recording(), recorder.sources).found(wanted)


class _Calls:
    """Ops of a recording. An op of a module that is called again is one op."""

    def __init__(self, recording: Recording, sources: Mapping[int, tuple[SourceFrame, ...]]):
        self._recording = recording
        self._model: ModuleCall | None = recording.modules[-1] if recording.modules else None  # its call ends last
        self._others: dict[Any, OpInfo] = {}
        inputs = () if self._model is None else self._model.inputs
        for index, use in enumerate(inputs):
            self._others[use.identity] = OpInfo(f"input_{index}", None)
        self.by_name: dict[str, OpInfo] = {}
        self.calls: list[OpCall] = []
        for call in recording.ops:
            if call.qualified_name not in self.by_name:
                stack = tuple(context_of(scope) for scope in call.module_stack)
                frames = sources.get(id(call), ())
                self.by_name[call.qualified_name] = OpInfo(call.qualified_name, call.op_type, stack, frames)
                self.calls.append(call)

    def found(self, wanted: Callable[[OpCall], bool]) -> FoundOps:
        """Connect the ops, and return them with the boundaries of modules."""
        for call in self.calls:
            self.by_name[call.qualified_name].inputs = tuple(self._edge(use) for use in call.operands)
        for call in self._recording.ops:
            for use in call.operands:
                self._note_reader(use, self.by_name[call.qualified_name])
        for index, use in enumerate(() if self._model is None else self._model.outputs):
            self._note_reader(use, OpInfo(f"output_{index}", None, inputs=(self._edge(use),)))
        entering: dict[str, list[Key]] = {}
        leaving: dict[str, list[Key]] = {}
        for module in self._recording.modules:  # the first call of a module counts
            entering.setdefault(module.calls.path, [self._key(use) for use in module.inputs])
            leaving.setdefault(module.calls.path, [self._key(use) for use in module.outputs])
        listed = [self.by_name[call.qualified_name] for call in self.calls if wanted(call)]
        return FoundOps([*self.by_name.values()], listed, entering, leaving)

    def _note_reader(self, use: TensorUse, reader: OpInfo) -> None:
        edge = self._edge(use)
        edge.op.add_reader(edge.output_idx or 0, reader)

    def _edge(self, use: TensorUse) -> InputEdge:
        if use.producer is not None:
            return InputEdge(self.by_name[use.producer[0].qualified_name], use.producer[1])
        if use.states:
            return InputEdge(self._others.setdefault(use.states, OpInfo(use.states[0], None, is_state=True)), None)
        unknown = sum(info.op_name.startswith("untracked_") for info in self._others.values())
        return InputEdge(self._others.setdefault(use.identity, OpInfo(f"untracked_{unknown}", None)), None)

    def _key(self, use: TensorUse) -> Key:
        edge = self._edge(use)
        return id(edge.op), edge.output_idx


class _Sourced(Recorder):
    """Recorder that also stores the user's calls that led to each op."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.sources: dict[int, tuple[SourceFrame, ...]] = {}

    def call(self, operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """See the base class."""
        before = len(self._ops)
        result = super().call(operator, args, kwargs)
        if len(self._ops) > before:
            self.sources[id(self._ops[-1])] = _frames(sys._getframe(1))
        return result


def _frames(frame: FrameType | None) -> tuple[SourceFrame, ...]:
    """Return the calls outside torch and this package within `eager_ops`, outermost first."""
    found: list[SourceFrame] = []
    while frame is not None and frame.f_code is not eager_ops.__code__:
        code = frame.f_code
        if not code.co_filename.startswith(_NOT_THE_USERS):
            text = linecache.getline(code.co_filename, frame.f_lineno).strip()
            found.append(SourceFrame(code.co_filename, frame.f_lineno, code.co_name, text))
        frame = frame.f_back
    return tuple(reversed(found))


def graph_ops(graph: Graph, wanted: Callable[[Node], bool]) -> FoundOps:
    """Return the nodes of a canonical graph, in execution order, and those that `wanted` selects among them."""
    constant = constant_values(graph)
    infos: dict[int, OpInfo] = {}
    edges: dict[int, InputEdge] = {}

    def edge_of(value: Value) -> InputEdge:
        if id(value) not in edges:
            held = value.constant
            name = held.names[0] if held is not None and held.names else value.producer.name
            edges[id(value)] = InputEdge(OpInfo(name, None, is_state=held is not None), None)
        return edges[id(value)]

    for node in graph.nodes:
        info = infos[id(node)] = _op(node, constant)
        info.inputs = tuple(edge_of(value) for _, _, value in node.operand_values())
        for edge in info.inputs:
            edge.op.add_reader(edge.output_idx or 0, info)
        edges |= {id(result): InputEdge(info, index) for index, result in enumerate(node.results)}
    end = OpInfo("output", None)
    returned = [edge_of(output.value) for output in graph.user_outputs() if output.value is not None]
    for edge in returned:
        edge.op.add_reader(edge.output_idx or 0, end)
    end.inputs = tuple(returned)
    entering, leaving = _crossing([*infos.values()], {_key(edges[id(v)]) for v in _floats(graph, constant)})
    inputs = [entry.value for entry in graph.inputs if entry.value is not None and is_float(entry.value)]
    entering[""] = [_key(edge_of(value)) for value in inputs]
    leaving[""] = [_key(edge) for edge in returned]
    return FoundOps([*infos.values()], [infos[id(n)] for n in graph.nodes if wanted(n)], entering, leaving)


def _floats(graph: Graph, constant: set[int]) -> list[Value]:
    """Return the float values that depend on data, as modules count them."""
    values = [entry.value for entry in graph.inputs if entry.value is not None and entry.value.uses]
    values += [result for node in graph.nodes for result in node.results]
    return [value for value in values if is_float(value) and id(value) not in constant]


def _crossing(ops: list[OpInfo], floats: set[Key]) -> tuple[dict[str, list[Key]], dict[str, list[Key]]]:
    """Return the values that enter each module in order of the first read, and those that leave it."""
    entering: dict[str, list[Key]] = {}
    leaving: dict[str, list[Key]] = {}
    paths = {id(op): {scope.module_name for scope in op.module_stack} for op in ops}
    for op in ops:
        for edge in op.inputs:
            key = _key(edge)
            for path in paths[id(op)] - paths.get(id(edge.op), set()) if key in floats else ():
                if key not in entering.setdefault(path, []):
                    entering[path].append(key)
    for op in ops:
        for result, readers in op.outputs.items():
            outside = [path for path in paths[id(op)] if any(path not in paths.get(id(r), set()) for r in readers)]
            for path in outside if (id(op), result) in floats else ():
                leaving.setdefault(path, []).append((id(op), result))
    return entering, leaving


def _key(edge: InputEdge) -> Key:
    return id(edge.op), edge.output_idx


def _op(node: Node, constant: set[int]) -> OpInfo:
    site = site_of(node, constant)
    origin = node.location.origins[0] if node.location.origins else None
    frames: tuple[SourceFrame, ...] = ()
    if origin is not None and origin.file:
        text = linecache.getline(origin.file, origin.line).strip()
        frames = (SourceFrame(origin.file, origin.line, _function_at(origin.file, origin.line), text),)
    return OpInfo(site.name, site.op_type, tuple(context_of(scope) for scope in site.module_stack), frames)


def _function_at(file: str, line: int) -> str:
    """Return the name of the function around a line, or empty if unknown."""
    lines = linecache.getlines(file)[:line]
    indent = len(lines[-1]) - len(lines[-1].lstrip()) if lines else 0
    for text in reversed(lines[:-1]):
        start = re.match(r"(\s*)(?:async )?def (\w+)", text)
        if start is not None and len(start[1]) < indent:
            return start[2]
    return ""
