"""The `fx.GraphModule` class of emitted graphs, and its errors for unfitting inputs."""

from __future__ import annotations

import copy
import importlib
import keyword
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from attrs import frozen
from torch import fx, nn

from graphpress.ir.dtypes import DType, DTypeError
from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import GraphError
from graphpress.ir.ops import op_of_target, process_op
from graphpress.ir.text.pytrees import dump_spec, load_spec, spec_children, spec_context
from graphpress.ir.types import SymDim, TensorType

CAPTURED_TYPE = "captured_type"
"""Key in a placeholder's `meta` for the `TensorType` of its graph input."""


_CAPTURED_CLASS = "_graphpress_captured_class"


def captured_class(module: nn.Module) -> str | None:
    """Return the qualified class name of the module that a module of an emitted one stands for, or None."""
    name: str | None = module.__dict__.get(_CAPTURED_CLASS)
    return name


def set_captured_class(module: nn.Module, name: str) -> None:
    """Set the name that `captured_class` returns."""
    module.__dict__[_CAPTURED_CLASS] = name


class CallError(GraphpressError, RuntimeError, TypeError):
    """A failed call with inputs that differ from the captured ones; the cause is torch's error.

    Other inputs alone are not an error: many models run at other sizes than those of the example.
    """


def call_error(graph: fx.Graph, args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> CallError | None:
    """Return the error for a failed call of the module of `graph`, or None if the inputs fit."""
    captured = [(str(node.target), node.meta.get(CAPTURED_TYPE)) for node in graph.nodes if node.op == "placeholder"]
    problems = list(_differences(captured, graph, args, kwargs))
    if not problems:
        return None
    said = str(error).strip().split("\n")[0]
    return CallError(f"the model fails on inputs that differ from the captured ones: {'; '.join(problems)} ({said})")


def _differences(
    captured: list[tuple[str, TensorType | None]], graph: fx.Graph, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[str]:
    info = getattr(graph._codegen, "pytree_info", None)
    names = list(info.orig_args) if info is not None else [name for name, _ in captured]
    given = len(args) + len(kwargs)
    if given != len(names):
        yield f"it takes {len(names)} ({', '.join(names)}), got {given}"
        return
    unknown = [name for name in kwargs if name not in names[len(args) :]]
    if unknown:
        yield f"it takes {', '.join(names)}, got {', '.join(map(repr, unknown))} by name"
        return
    nested = list(_nested_otherwise(info, names, args, kwargs)) if info is not None else []
    if nested:
        yield from nested
        return
    values = pytree.tree_leaves((tuple(args), dict(kwargs)))
    if len(values) != len(captured):
        yield f"its arguments hold {len(captured)} values, got {len(values)}"
        return
    for (name, type), value in zip(captured, values, strict=True):
        if type is not None and not _fits(type, value):
            yield f"{name} was {_shown(type)}, is {_described(value)}"


def _nested_otherwise(info: Any, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[str]:
    """Describe the arguments that are other containers than the captured ones."""
    positional, named = info.in_spec.children()
    captured = dict(zip(names, (*positional.children(), *named.children()), strict=True))
    for name, value in (*zip(names, args, strict=False), *kwargs.items()):
        given = pytree.tree_structure(value)
        if given != captured[name]:
            yield f"{name} was {_container(captured[name], 'one value')}, is {_container(given, _described(value))}"


def _container(spec: Any, leaf: str) -> str:
    if spec.is_leaf():
        return leaf
    keys = f" with {', '.join(map(repr, spec.context))}" if spec.type is dict else ""
    return f"a {spec.type.__name__} of {spec.num_children}{keys}"


def _fits(type: TensorType, value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.dtype != type.dtype.torch_dtype or value.ndim != type.rank:
        return False
    return all(isinstance(have, SymDim) or have == got for have, got in zip(type.shape, value.shape, strict=True))


def _described(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    try:
        return _shown(TensorType(DType.of(value.dtype), tuple(value.shape)))
    except DTypeError:
        return f"{value.dtype} {list(value.shape)}"


def _shown(type: TensorType) -> str:
    return f"{type.dtype.long_name}[{', '.join(map(str, type.shape))}]"


_DERIVED = {"_graph", "_code", "_in_spec", "_out_spec", "_lineno_map", "_prologue_start"}
_KEPT_META = ("nn_module_stack", "stack_trace", CAPTURED_TYPE)


class EmittedModule(fx.GraphModule):
    """A `GraphModule` that copies and pickles completely, and explains failures on unfitting inputs."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module.

        Raises:
            CallError: if the run fails and the inputs differ from the captured ones.
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
    """A node, identified by its position in the graph."""

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
    """An op by name; torch ops do not pickle by themselves."""

    name: str


@frozen
class _GlobalName:
    """A function or other global object that a module holds, by name."""

    module: str
    name: str


def _encode_target(target: Callable[..., Any]) -> Any:
    if isinstance(target, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
        return _OpName(op_of_target(target).name)
    return _GlobalName(target.__module__, target.__qualname__)


def _decode_target(target: Any) -> Any:
    if isinstance(target, _OpName):
        return process_op(target.name).target
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
    """Return the code generator for nested arguments and results; specs as from `dump_spec`.

    Raises:
        GraphError: if a name is no identifier.
    """
    loaded = load_spec(in_spec)
    children = spec_children(loaded)
    check_identifiers(argument_names)
    if len(children) == 2 and children[1].type is dict:
        check_identifiers(spec_context(children[1]))
    return fx.graph._PyTreeCodeGen(fx.graph._PyTreeInfo(list(argument_names), loaded, load_spec(out_spec)))


def check_identifiers(names: Iterable[Any]) -> None:
    """Raise if a name of an argument is no identifier: torch writes these names into source code that it compiles.

    Raises:
        GraphError: if one is not.
    """
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise GraphError(f"an argument is called {name!r}; accepted: a Python identifier")
