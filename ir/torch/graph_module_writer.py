"""Emission of graphs as `fx.GraphModule`s with the calling convention of the original module."""

from __future__ import annotations

import keyword
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx, nn

from graphpress.ir.calling import call_arguments, check_depth, result_paths
from graphpress.ir.collector import holding_collector
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Constant, Graph, GraphError, Node, Value
from graphpress.ir.ops import Trait, lookup_op
from graphpress.ir.tensors import lazy_copy
from graphpress.ir.text.pytrees import load_spec
from graphpress.ir.torch.emitted_module import (
    CAPTURED_TYPE,
    EmittedModule,
    check_identifiers,
    pytree_codegen,
    set_captured_class,
)
from graphpress.ir.torch.locations import captured_scopes, location_meta
from graphpress.ir.types import TensorType

# (qualified name, module, call arguments)
ModuleCall = tuple[str, nn.Module, Sequence[Any]]


@holding_collector
def to_graph_module(
    graph: Graph,
    *,
    module_for: Callable[[Node], ModuleCall | None] | None = None,
    copy_constants: bool = False,
) -> EmittedModule:
    """Emit `graph` as a module with the original calling convention.

    Parameters and buffers are registered at their qualified names; the names of tied weights share one tensor. Ops
    unknown to torch run through their `evaluate`.

    Args:
        graph: the graph to emit; it is not changed.
        module_for: called with every node; to replace the node by a submodule, it returns the submodule's qualified
            name, the module, and the values to call it with.
        copy_constants: copy the tensors on the first write; otherwise the module shares them with `graph`.

    Raises:
        GraphError: if an op cannot be emitted, or graphs nest deeper than `graphpress.ir.calling.MOST_NESTED_CALLS`.
    """
    return _Emitter(graph, copy_constants).emit(module_for or (lambda node: None))


def body_module(graph: Graph) -> EmittedModule:
    """Emit the body of a higher-order op, called with flat operands and sharing the graph's tensors."""
    return _Emitter(graph, copy_constants=False, is_body=True).emit(lambda node: None)


def call_op(name: str, /, **arguments: Any) -> Any:
    """Run the op called `name` by its reference implementation; element types are passed as ``"dtype:<name>"``."""
    evaluate = lookup_op(name).evaluate
    assert evaluate is not None
    return evaluate(**{key: _decoded(argument) for key, argument in arguments.items()})


def _encoded(argument: Any) -> Any:
    return f"dtype:{argument.value}" if isinstance(argument, DType) else argument


def _decoded(argument: Any) -> Any:
    if isinstance(argument, str) and argument.startswith("dtype:"):
        return DType.of(argument.removeprefix("dtype:"))
    return tuple(argument) if isinstance(argument, list) else argument


class _Emitter:
    def __init__(self, graph: Graph, copy_constants: bool, is_body: bool = False, depth: int = 0):
        check_depth(graph.name, depth)
        self._graph = graph
        self._depth = depth  # the number of graphs that this one is in
        self._is_body = is_body  # the body of a higher-order op, called with flat operands
        self._copy = copy_constants
        self._root = EmittedModule(nn.Module(), fx.Graph())
        self._fx = fx.Graph()
        self._taken = set(graph._names)
        self._suffixes: dict[str, int] = {}
        self._values: dict[int, fx.Node] = {}
        self._paths: dict[int, str] = {}  # constant -> its qualified name in the module

    def emit(self, module_for: Callable[[Node], ModuleCall | None]) -> EmittedModule:
        calls: dict[int, tuple[str, Sequence[Any]]] = {}
        for node in self._graph.nodes:
            call = module_for(node)
            if call is not None:
                name, module, operands = call
                calls[id(node)] = self._place_module(name, module), operands
        self._place_constants(calls)
        for graph_input in self._graph.inputs:
            name = self._parameter_name(graph_input.name)
            made = self._fx.create_node("placeholder", name, name=name)
            if graph_input.value is not None:
                if isinstance(graph_input.value.type, TensorType):
                    made.meta[CAPTURED_TYPE] = graph_input.value.type
                self._values[id(graph_input.value)] = made
        for node in self._graph.nodes:
            self._emit_node(node, calls.get(id(node)))
        self._emit_outputs()
        self._root.graph = self._fx
        return self._root

    # Nodes.

    def _emit_node(self, node: Node, module_call: tuple[str, Sequence[Any]] | None) -> None:
        op = node.op
        meta = location_meta(node.location)
        if module_call is not None:
            target, operands = module_call
            made = self._fx.create_node("call_module", target, tuple(map(self._argument, operands)), name=node.name)
            paths: list[tuple[Any, ...]] = [()] if len(node.results) == 1 else result_paths(node)
        elif op.target is not None:
            args, kwargs = call_arguments(node, self._read, self._nested)
            check_identifiers(kwargs)
            args = [self._object(a) for a in args]
            made = self._fx.create_node("call_function", op.target, tuple(args), kwargs, name=node.name)
            paths = result_paths(node)
        elif op.evaluate is not None:
            bound = {k: self._argument(v) for k, v in node.operands.items()}
            bound |= {k: _encoded(v) for k, v in node.attributes.items()}
            made = self._fx.create_node("call_function", call_op, (op.name,), bound, name=node.name)
            paths = result_paths(node)
        else:
            raise GraphError(f"{node.name}: {op.name} has neither a torch target nor a reference implementation")
        made.meta.update(meta)
        for result, path in zip(node.results, paths, strict=True):
            if path and not result._uses:
                continue
            item = made
            for index in path:
                name = self._free_name(f"{node.name}_item")
                item = self._fx.create_node("call_function", operator.getitem, (item, index), name=name)
                item.meta.update(meta)
            self._values[id(result)] = item

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Value):
            return self._read(argument)
        return [self._argument(item) for item in argument] if isinstance(argument, tuple | list) else argument

    def _read(self, value: Value) -> fx.Node:
        found = self._values.get(id(value))
        if found is None:
            constant = value.constant
            if constant is None:
                raise GraphError(f"{value.name} is read before it is computed")
            path = self._paths[id(constant)]
            found = self._values[id(value)] = self._attribute(path)
        return found

    def _attribute(self, path: str) -> fx.Node:
        return self._fx.create_node("get_attr", path, name=self._free_name(path.replace(".", "_")))

    def _nested(self, graph: Graph) -> fx.Node:
        module = _Emitter(graph, self._copy, is_body=True, depth=self._depth + 1).emit(lambda node: None)
        return self._attribute(self._place_module(graph.name, module))

    def _object(self, argument: Any) -> Any:
        """Register an argument without a source form, such as a script object, as an attribute."""
        if not isinstance(argument, torch.ScriptObject):
            return argument
        name = _free_attribute(self._root, "script_object")
        setattr(self._root, name, argument)
        return self._attribute(name)

    def _parameter_name(self, name: str) -> str:
        """Return a valid identifier for the name of an input."""
        if name.isidentifier() and name.isascii() and not keyword.iskeyword(name):
            return name
        letters = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
        return self._free_name(f"input_{letters}" if letters else "input_")

    def _free_name(self, hint: str) -> str:
        name = hint
        while name in self._taken:
            self._suffixes[hint] = self._suffixes.get(hint, 0) + 1
            name = f"{hint}_{self._suffixes[hint]}"
        self._taken.add(name)
        return name

    # Outputs.

    def _emit_outputs(self) -> None:
        """Emit writes last, after copying outputs that alias a written tensor."""
        outputs = self._graph.outputs
        written = {id(output.target) for output in outputs if output.target is not None}
        for output in outputs:
            if output.value is not None and output.value is not output.target and _aliases(output.value, written):
                clone = self._call(torch.ops.aten.clone.default, self._read(output.value))
                self._values[id(output)] = clone
        for output in outputs:
            if output.target is not None and output.value is not None and output.value is not output.target:
                target = self._read(output.target)
                if output.target.constant is not None and output.target.constant.kind == "parameter":
                    target = self._call(torch.ops.aten.detach.default, target)  # autograd forbids writes to a leaf
                self._call(torch.ops.aten.copy_.default, target, self._returned(output))
        results = tuple(self._returned(output) for output in outputs if output.kind == "user")
        signature = self._graph.signature
        if signature is None:
            self._fx.output(results[0] if len(results) == 1 else results)
            return
        if self._is_body:
            self._fx.output(pytree.tree_unflatten(list(results), load_spec(signature.out_spec)))
            return
        self._fx.set_codegen(pytree_codegen(signature.argument_names, signature.in_spec, signature.out_spec))
        self._fx.output(results)

    def _returned(self, output: Any) -> Any:
        if output.value is None:
            return output.literal
        return self._values.get(id(output)) or self._read(output.value)

    def _call(self, target: Any, *args: Any) -> fx.Node:
        name = self._free_name(target._schema.name.partition("::")[2])
        return self._fx.create_node("call_function", target, args, name=name)

    # Tensors and modules.

    def _place_constants(self, module_calls: Mapping[int, tuple[str, Sequence[Any]]]) -> None:
        """Register every constant that the emitted code reads at its qualified names."""
        read: set[int] = set()
        for node in self._graph.nodes:
            if id(node) in module_calls:
                read |= {id(v) for v in _values_of(module_calls[id(node)][1])}
            else:
                read |= {id(value) for _, _, value in node.operand_values()}
        for output in self._graph.outputs:
            read |= {id(value) for value in (output.value, output.target) if value is not None}
        for constant in self._graph.constants.values():
            if id(constant.value) in read:
                self._place_constant(constant)

    def _place_constant(self, constant: Constant) -> None:
        tensor = _owned(constant, self._copy)
        persistent = constant.persistent and constant.kind != "literal"
        paths = [
            path
            for name in constant.names or (constant.name,)
            if (path := _place_tensor(self._root, name, tensor, persistent)) is not None
        ]
        if not paths:
            name = _free_attribute(self._root, constant.name.replace(".", "_"))
            _register(self._root, name, tensor, persistent)
            paths = [name]
        own = constant.name if constant.name in paths else paths[0]
        self._paths[id(constant)] = own

    def _place_module(self, name: str, module: nn.Module) -> str:
        owner, leaf = _descend(self._root, name)
        if owner is not None and owner._modules.get(leaf) is module:
            return name
        if owner is None or hasattr(owner, leaf):
            owner, flat = self._root, name.replace(".", "_")
            if self._root._modules.get(flat) is module:
                return flat
            name = leaf = _free_attribute(self._root, flat)
        owner.add_module(leaf, module)
        return name


def _aliases(value: Value, written: set[int]) -> bool:
    """Return True if `value` may share memory with one of the `written` values."""
    pending, seen = [value], set()
    while pending:
        value = pending.pop()
        if id(value) in written:
            return True
        node = value.node
        if id(value) in seen or node is None:
            continue
        seen.add(id(value))
        if node.op.has(Trait.ALIASING) or node.op.has(Trait.VIEW) or node.op.has(Trait.OPAQUE):
            pending += [operand for _, _, operand in node.operand_values()]
    return False


def _values_of(arguments: Iterable[Any]) -> Iterable[Value]:
    for argument in arguments:
        if isinstance(argument, Value):
            yield argument
        elif isinstance(argument, tuple | list):
            yield from _values_of(argument)


def place_captured_modules(root: nn.Module, graph: Graph) -> None:
    """Add an empty module at the path of each module that runs an op of `graph`, and name the captured classes."""
    scopes = captured_scopes(graph)
    for path in filter(None, scopes):
        owner, leaf = _descend(root, path)
        if owner is not None and not hasattr(owner, leaf):
            owner.add_module(leaf, nn.Module())
    for path, module in root.named_modules(remove_duplicate=False):
        if path in scopes:
            set_captured_class(module, scopes[path].type_name)


def _owned(constant: Constant, copy: bool) -> torch.Tensor:
    tensor = constant.tensor
    if constant.kind != "parameter":
        tensor = tensor.detach() if isinstance(tensor, nn.Parameter) else tensor
        return lazy_copy(tensor) if copy else tensor
    if copy:
        tensor = lazy_copy(tensor)
    elif isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=constant.is_trainable)


def _place_tensor(root: nn.Module, name: str, tensor: torch.Tensor, persistent: bool) -> str | None:
    """Register `tensor` under `name`, or return None if the name is taken or invalid."""
    owner, leaf = _descend(root, name)
    if owner is None:
        return None
    if getattr(owner, leaf, None) is tensor:
        return name
    if hasattr(owner, leaf):
        return None
    _register(owner, leaf, tensor, persistent)
    return name


def _register(owner: nn.Module, name: str, tensor: torch.Tensor, persistent: bool) -> None:
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(name, tensor)
    else:
        owner.register_buffer(name, tensor, persistent=persistent)


def _descend(root: nn.Module, name: str) -> tuple[nn.Module | None, str]:
    """Return the parent module of `name`, created if missing, and the last part of the name.

    Returns None if a part cannot be a module name: it is empty, not an identifier, or taken.
    """
    *parents, leaf = name.split(".")
    if not all(map(_is_spellable, (*parents, leaf))):
        return None, leaf
    owner = root
    for part in parents:
        child = owner._modules.get(part)
        if child is None:
            if hasattr(owner, part):
                return None, leaf
            child = nn.Module()
            owner.add_module(part, child)
        owner = child
    return owner, leaf


def _is_spellable(part: str) -> bool:
    """Return True if generated code can access an attribute of this name."""
    if not part or not part.isprintable() or '"' in part or "\\" in part or keyword.iskeyword(part):
        return False
    return unicodedata.normalize("NFKC", part) == part  # Python normalizes identifiers


def _free_attribute(module: nn.Module, hint: str) -> str:
    hint = hint if _is_spellable(hint) else f"_{re.sub(r'[^A-Za-z0-9_]', '_', hint)}"
    name, suffix = hint, 0
    while hasattr(module, name):
        suffix += 1
        name = f"{hint}_{suffix}"
    return name
