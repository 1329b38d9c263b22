"""The `fx.GraphModule` that graphs are emitted as.

torch's own class loses things on the way through `deepcopy` and `pickle`: buffers become persistent, second names of
tied weights and node metadata go, and unpickling traces the generated code anew. This one keeps its graph.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from torch import fx, nn

from graphpress.ir.call_errors import CAPTURED_TYPE, call_error
from graphpress.ir.errors import GraphpressError
from graphpress.ir.ops import lookup_op, op_of_target
from graphpress.ir.tree_specs import dump_spec, load_spec

_DERIVED = {"_graph", "_code", "_in_spec", "_out_spec", "_lineno_map", "_prologue_start"}
_KEPT_META = ("nn_module_stack", "stack_trace", CAPTURED_TYPE)


class EmittedModule(fx.GraphModule):
    """A `GraphModule` that copies and pickles whole, and says when it was called with what it was not captured for."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module.

        Raises:
            CallError: when that fails and the inputs differ from those that the module was captured with.
        """
        if torch.compiler.is_compiling():
            return super().__call__(*args, **kwargs)
        try:
            return super().__call__(*args, **kwargs)
        except GraphpressError:
            raise
        except Exception as error:
            explained = call_error(self.graph, args, kwargs, error)
            if explained is None:
                raise
            raise explained from error

    def __deepcopy__(self, memo: dict[int, Any]) -> EmittedModule:
        made = _empty()
        memo[id(self)] = made
        made.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items() if k not in _DERIVED})
        graph = fx.Graph()
        output = graph.graph_copy(self.graph, {}, return_output_node=True)
        if isinstance(output, tuple):
            values, old = output
            assert isinstance(old, fx.Node)
            graph.output(values).meta.update(old.meta)
        graph.set_codegen(self.graph._codegen)
        made.graph = graph
        return made

    def __reduce__(self) -> Any:
        state = {k: v for k, v in self.__dict__.items() if k not in _DERIVED}
        return _restore, (state, _encode_graph(self.graph))


def _empty() -> EmittedModule:
    return EmittedModule(nn.Module(), fx.Graph())


@frozen
class _Reference:
    """A node by its place in the graph."""

    index: int


@frozen
class _EncodedNode:
    kind: str
    name: str
    target: Any
    args: Any
    kwargs: Any
    meta: dict[str, Any]


@frozen
class _EncodedGraph:
    nodes: list[_EncodedNode]
    argument_names: tuple[str, ...] | None
    in_spec: Any
    out_spec: Any


def _encode_graph(graph: fx.Graph) -> _EncodedGraph:
    places = {node: _Reference(index) for index, node in enumerate(graph.nodes)}

    def encode(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return places[argument]
        if isinstance(argument, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
            return _encode_target(argument)
        if isinstance(argument, torch.layout | torch.memory_format):
            return _GlobalName("torch", str(argument).removeprefix("torch."))
        if isinstance(argument, list | tuple):
            items = [encode(item) for item in argument]
            return tuple(items) if isinstance(argument, tuple) else items
        if isinstance(argument, dict):
            return {key: encode(item) for key, item in argument.items()}
        return argument

    nodes = []
    for node in graph.nodes:
        meta = {key: node.meta[key] for key in _KEPT_META if key in node.meta}
        target = node.target if isinstance(node.target, str) else _encode_target(node.target)
        nodes.append(_EncodedNode(node.op, node.name, target, encode(node.args), encode(node.kwargs), meta))
    info = getattr(graph._codegen, "pytree_info", None)
    if info is None:
        return _EncodedGraph(nodes, None, None, None)
    return _EncodedGraph(nodes, tuple(info.orig_args), dump_spec(info.in_spec), dump_spec(info.out_spec))


@frozen
class _OpName:
    """An op; torch's do not pickle by themselves."""

    name: str


@frozen
class _GlobalName:
    """A function or other object that a module holds."""

    module: str
    name: str


def _encode_target(target: Callable[..., Any]) -> Any:
    if isinstance(target, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
        return _OpName(op_of_target(target).name)
    return _GlobalName(target.__module__, target.__qualname__)


def _decode_target(target: Any) -> Any:
    if isinstance(target, _OpName):
        return lookup_op(target.name).target
    if isinstance(target, _GlobalName):
        found: Any = importlib.import_module(target.module)
        for part in target.name.split("."):
            found = getattr(found, part)
        return found
    return target


def _restore(state: dict[str, Any], encoded: _EncodedGraph) -> EmittedModule:
    made = _empty()
    made.__dict__.update(state)
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def decode(argument: Any) -> Any:
        if isinstance(argument, _Reference):
            return nodes[argument.index]
        if isinstance(argument, list | tuple):
            return type(argument)([decode(item) for item in argument])
        if isinstance(argument, dict):
            return {key: decode(item) for key, item in argument.items()}
        return _decode_target(argument)

    for node in encoded.nodes:
        made_node = graph.create_node(
            node.kind, _decode_target(node.target), decode(node.args), decode(node.kwargs), name=node.name
        )
        made_node.meta.update(node.meta)
        nodes.append(made_node)
    if encoded.argument_names is not None:
        graph.set_codegen(pytree_codegen(encoded.argument_names, encoded.in_spec, encoded.out_spec))
    made.graph = graph
    return made


def pytree_codegen(argument_names: tuple[str, ...], in_spec: Any, out_spec: Any) -> fx.graph.CodeGen:
    """The code generator for a call with nested arguments and results; specs as `dump_spec` writes them."""
    info = fx.graph._PyTreeInfo(list(argument_names), load_spec(in_spec), load_spec(out_spec))
    return fx.graph._PyTreeCodeGen(info)
