"""The ops of a model, recorded in an eager run or read from a captured graph."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
from torch import nn

from graphpress.eager import OpCall, TensorUse, observed_by
from graphpress.eager.operators import Operator
from graphpress.eager.recording import Recorder
from graphpress.inspection.summary import OpInfo
from graphpress.ir.graph import Graph, Node, Output, Value
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.analysis.sites import site_of

_NOT_THE_USERS = tuple(os.path.dirname(package) + os.sep for package in (torch.__file__, os.path.dirname(__file__)))


def eager_ops(model: nn.Module, run: Callable[[], Any], wanted: Callable[[OpCall], bool]) -> list[OpInfo]:
    """Return the ops that `model` calls during `run` and that `wanted` selects, each once, in the order of calls."""
    recorder = _Sourced(model)
    with observed_by(model, recorder):
        run()
    recording = recorder.recording()
    calls = recording.ops
    readers: dict[str, dict[str, None]] = {}
    for call in calls:
        for use in call.operands:
            if use.producer is not None:
                readers.setdefault(use.producer[0].qualified_name, {})[call.qualified_name] = None
    for use in recording.modules[-1].outputs if recording.modules else ():  # the model's own call ends last
        if use.producer is not None:
            readers.setdefault(use.producer[0].qualified_name, {})["output"] = None
    found: dict[str, OpInfo] = {}
    for call in calls:
        if wanted(call) and call.qualified_name not in found:  # an op of a module that is called again is one op
            found[call.qualified_name] = OpInfo(
                call.qualified_name,
                call.op_type,
                call.module_stack,
                tuple(_name(use) for use in call.operands),
                tuple(readers.get(call.qualified_name, ())),
                recorder.sources.get(id(call), ""),
            )
    return list(found.values())


class _Sourced(Recorder):
    """Recorder that also stores the source location of each op."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.sources: dict[int, str] = {}

    def call(self, operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """See the base class."""
        before = len(self._ops)
        result = super().call(operator, args, kwargs)
        if len(self._ops) > before:
            self.sources[id(self._ops[-1])] = _source(sys._getframe(1))
        return result


def _source(frame: FrameType | None) -> str:
    """Return the innermost source location outside torch and this package."""
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _name(use: TensorUse) -> str:
    if use.producer is not None:
        return use.producer[0].qualified_name
    return use.states[0] if use.states else use.name


def graph_ops(graph: Graph, wanted: Callable[[Node], bool]) -> list[OpInfo]:
    """Return the nodes of a canonical graph that `wanted` selects, in execution order."""
    constant = constant_values(graph)
    return [_op(node, constant) for node in graph.nodes if wanted(node)]


def _op(node: Node, constant: set[int]) -> OpInfo:
    site = site_of(node, constant)
    origin = node.location.origins[0] if node.location.origins else None
    return OpInfo(
        site.name,
        site.op_type,
        site.module_stack,
        tuple(_node_name(value) for _, _, value in node.operand_values()),
        tuple(dict.fromkeys(_reader(use.user) for result in node.results for use in result.uses)),
        f"{origin.file}:{origin.line}" if origin is not None and origin.file else "",
    )


def _node_name(value: Value) -> str:
    constant = value.constant
    return value.producer.name if constant is None or not constant.names else constant.names[0]


def _reader(user: Node | Output) -> str:
    return "output" if isinstance(user, Output) else user.name
