"""Reader of fx graphs: whole programs, and bodies of higher-order ops."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from graphpress.ir.calling import CALL_SPEC, RESULT_SPEC, check_depth
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Signature, Value
from graphpress.ir.inference import TypeInferenceError, infer_types_at_hints
from graphpress.ir.ops import OpDef, OpError, Trait, lookup_op, op_of_target, register_op
from graphpress.ir.rewriter import drop_defaults
from graphpress.ir.text.pytrees import dump_spec, spec_children
from graphpress.ir.torch.functionalization import (
    SCATTERS,
    Cell,
    Entangled,
    functional_form,
    is_training_batch_norm,
    needs_own_memory,
    plan_writes,
)
from graphpress.ir.torch.locations import LocationReader
from graphpress.ir.torch.types import type_of
from graphpress.ir.types import TensorType, Type

_ASSERT_METADATA = torch.ops.aten._assert_tensor_metadata.default


class BodyReader:
    """Reads the nodes of one fx graph, which is in `depth` others, into one `Graph`."""

    def __init__(
        self, graph: Graph, module: GraphModule, cells: dict[FxNode, Cell], allow_writes: bool, depth: int = 0
    ):
        self.graph = graph
        self.depth = depth
        self.module = module
        self.cells = cells
        self.allow_writes = allow_writes
        self.locations = LocationReader()
        self._here: FxNode | None = None
        self._bound: dict[FxNode, Any] = {}  # a value, a tuple of values, a nested graph, or a Python object

    def bind(self, node: FxNode, value: Any) -> None:
        """Bind `node` to `value` for later reads."""
        cell = self.cells.get(node)
        if cell is not None and isinstance(value, Value):
            cell.value, cell.is_stale = value, False
        else:
            self._bound[node] = value

    def read(self, nodes: Iterable[FxNode]) -> list[Any]:
        """Add every call to the graph, and return the flat outputs."""
        results: Any = ()
        for node in nodes:
            if node.op == "call_function":
                self._read_call(node)
            elif node.op == "get_attr":
                self._read_attribute(node)
            elif node.op == "output":
                results = self.resolve(node.args[0])
            elif node.op != "placeholder":
                raise OpError(f"{node.name}: an exported graph has no {node.op} nodes")
        self._here = None
        leaves, _ = pytree.tree_flatten(results)
        return leaves

    def resolve(self, argument: Any) -> Any:
        """Replace the fx nodes in an argument by their bindings."""
        if isinstance(argument, FxNode):
            cell = self.cells.get(argument)
            return self._current(cell) if cell is not None else self._bound.get(argument)
        if isinstance(argument, list | tuple):
            return tuple(self.resolve(item) for item in argument)
        if isinstance(argument, dict):
            return {key: self.resolve(item) for key, item in argument.items()}
        if isinstance(argument, slice):
            return slice(*(self.resolve(item) for item in (argument.start, argument.stop, argument.step)))
        return _plain(argument)

    def _read_call(self, node: FxNode) -> None:
        target = node.target
        if target is _ASSERT_METADATA:  # types carry the same facts, and passes may change them
            return
        if target is operator.getitem:
            source = self.resolve(node.args[0])
            if isinstance(source, tuple):
                self.bind(node, source[node.args[1]])  # type: ignore[index]
                return
        if target is torch.ops.aten.detach_.default:
            self.bind(node, self.resolve(node.args[0]))
        elif node in self.cells and isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
            self._read_write(node, target)
            self._write_through(node)
        elif is_training_batch_norm(node) and not self.allow_writes:
            self._read_training_batch_norm(node)
        else:
            op = _op_of(target)
            bound = op.bind(map(self.resolve, node.args), {k: self.resolve(v) for k, v in node.kwargs.items()})
            if op.variadic:
                bound = _flat_call(bound)
            self.bind(node, self._insert_as_it_returns(node, op, bound))

    def _insert_as_it_returns(self, node: FxNode, op: OpDef, bound: Mapping[str, Any]) -> Any:
        """Add the call, and return its results in torch's structure."""
        fake = node.meta.get("val", node)
        if isinstance(fake, list | tuple):
            leaves, spec = pytree.tree_flatten(fake)
            if op.variadic and not all(child.is_leaf() for child in spec_children(spec)):
                bound = {**bound, RESULT_SPEC: dump_spec(spec)}
            made = self.insert(node, op, bound, map(type_of, leaves))
            return _as_tuples(pytree.tree_unflatten(list(made.results), spec))
        if op.result_count == 0 or (op.has(Trait.OPAQUE) and fake is None):
            self.insert(node, op, bound, ())
            return None
        if op.has(Trait.OPAQUE):
            bound = {**bound, RESULT_SPEC: dump_spec(pytree.tree_structure(0))}
        return self.insert(node, op, bound, [type_of(fake)]).result

    def insert(self, node: FxNode, op: OpDef, bound: Mapping[str, Any], types: Iterable[Type]) -> Node:
        """Add the call of `op` for the fx node `node`."""
        operands = {name: argument for name, argument in bound.items() if _holds_value(argument)}
        attributes = {name: argument for name, argument in bound.items() if name not in operands}
        return self.graph.insert(
            op,
            operands,
            drop_defaults(op, attributes),
            types,
            name=node.name,
            location=self.locations.read(node.meta),
        )

    def _current(self, cell: Cell) -> Value | None:
        """Return the current value of a cell; a view of memory that was written is taken again."""
        if cell.is_stale:
            assert cell.base is not None
            assert cell.view is not None
            assert isinstance(cell.view.target, torch._ops.OpOverload)
            base = self._current(cell.base)
            op = op_of_target(cell.view.target)
            rest = {name: self.resolve(argument) for name, argument in cell.view.kwargs.items()}
            bound = op.bind([base, *map(self.resolve, cell.view.args[1:])], rest)
            cell.value, cell.is_stale = (
                self.insert(cell.view, op, bound, [type_of(cell.view.meta["val"])]).result,
                False,
            )
        return cell.value

    def _write_through(self, node: FxNode) -> None:
        """Change the bases of a written view, and mark their other views as stale."""
        cell = self.cells[node]
        top = cell.tops.get(node)
        if top is None:
            return
        line = cell.line_to(top)
        for part, base in itertools.pairwise(line):
            assert part.view is not None
            whole = self._current(base)
            op = op_of_target(SCATTERS[part.view.target])
            arguments = [whole, part.value, *map(self.resolve, part.view.args[1:])]
            rest = {name: self.resolve(argument) for name, argument in part.view.kwargs.items()}
            assert whole is not None
            base.value = self.insert(node, op, op.bind(arguments, rest), [whole.type]).result
        pending = [view for each in line for view in each.views if view not in line]
        while pending:
            view = pending.pop()
            view.is_stale = True
            pending += view.views

    def _read_write(self, node: FxNode, target: torch._ops.OpOverload) -> None:
        if target is torch.ops.aten.copy_.default:
            self.bind(node, self._copied(node))
            return
        functional = functional_form(target)
        assert functional is not None, "the plan has accepted it"
        op = op_of_target(functional)
        bound = op.bind(map(self.resolve, node.args), {k: self.resolve(v) for k, v in node.kwargs.items()})
        declared = type_of(node.meta["val"])
        assert isinstance(declared, TensorType)
        found = self._inferred(op, bound)
        if found is None or found.dtype is declared.dtype:
            self.bind(node, self.insert(node, op, bound, [declared]).result)
            return
        # In place, the result is cast to the dtype of the written tensor.
        made = self.graph.insert(op, *_split(op, bound), [declared.with_dtype(found.dtype)], name=node.name)
        made.location = self.locations.read(node.meta)
        self._here = node
        self.bind(node, self._add("aten.to.dtype", made.result, {"dtype": declared.dtype}, declared))

    def _inferred(self, op: OpDef, bound: Mapping[str, Any]) -> TensorType | None:
        try:
            types = infer_types_at_hints(op, *_split(op, bound), self.graph.symbols)
        except TypeInferenceError:
            return None
        return types[0] if types and isinstance(types[0], TensorType) else None

    def _copied(self, node: FxNode) -> Value:
        """Lower `copy_(target, source)`: the source in the element type, shape and layout of the target."""
        self._here = node
        target, source = node.args[:2]
        value = self.fit(self.resolve(source), self.resolve(target))
        if needs_own_memory(source.meta["val"], target.meta["val"]):  # type: ignore[union-attr]
            value = self._add("aten.clone", value, {"memory_format": torch.contiguous_format}, value.type)
        return value

    def fit(self, value: Value, target: Value) -> Value:
        """Convert `value` to the element type and shape of `target`."""
        wanted = target.tensor_type
        if value.tensor_type.dtype is not wanted.dtype:
            cast = value.tensor_type.with_dtype(wanted.dtype)
            value = self._add("aten.to.dtype", value, {"dtype": wanted.dtype}, cast)
        if value.tensor_type.shape == wanted.shape:
            return value
        if wanted.is_static:
            return self._add("aten.expand", value, {"size": wanted.shape}, wanted)
        return self._add("aten.expand_as", value, {"other": target}, wanted)

    def _add(self, op: str, value: Value, bound: dict[str, Any], type: Type) -> Value:
        """Add an implicit call of the program, with the name and location of the node it belongs to."""
        node = self._here
        if node is not None:
            return self.insert(node, lookup_op(op), {"self": value, **bound}, [type]).result
        operands, attributes = _split(lookup_op(op), {"self": value, **bound})
        return self.graph.insert(lookup_op(op), operands, attributes, [type]).result

    def _read_training_batch_norm(self, node: FxNode) -> None:
        """Lower a training batch norm, with the updated running statistics as results and new buffer values."""
        names = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
        arguments = op_of_target(node.target).bind(map(self.resolve, node.args), node.kwargs)  # type: ignore[arg-type]
        bound = {name: arguments[name] for name in names}
        output = type_of(node.meta["val"])
        mean, variance = bound["running_mean"], bound["running_var"]
        types = [output, mean.type, variance.type, mean.type, variance.type]
        made = self.insert(node, lookup_op("aten._native_batch_norm_legit_functional"), bound, types)
        self.bind(node, made.results[0])
        for statistic, result in zip(node.args[3:5], made.results[3:], strict=True):
            self.bind(statistic, result)  # type: ignore[arg-type]

    def _read_attribute(self, node: FxNode) -> None:
        owner: Any = self.module
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        if isinstance(owner, GraphModule):
            check_depth(str(node.target), self.depth + 1)
            owner = _read_nested(str(node.target), owner, self)
        elif isinstance(owner, torch.Tensor):
            owner = self.graph.add_constant(str(node.target), owner, "literal").value
        self.bind(node, owner)


def add_output(graph: Graph, item: Any) -> None:
    """Add a value or a Python constant to the outputs of the graph."""
    if isinstance(item, Value):
        graph.add_output(item)
    else:
        graph.add_output(None, literal=item)


def _read_nested(name: str, module: GraphModule, outer: BodyReader) -> Graph:
    """Read the body of a higher-order op, which may use symbols of the enclosing graph."""
    graph = Graph(name, symbols=outer.graph.symbols)
    cells = {} if outer.allow_writes else plan_writes(module.graph.nodes)
    if any(cell.outside and cell.is_written for cell in cells.values()):
        raise Entangled(f"{name} writes to its inputs")
    reader = BodyReader(graph, module, cells, outer.allow_writes, outer.depth + 1)
    names = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            reader.bind(node, graph.add_input(node.name, type_of(node.meta.get("val"))).value)
            names.append(node.name)
    for item in reader.read(module.graph.nodes):
        add_output(graph, item)
    returned = next(reversed(module.graph.nodes)).args[0]
    in_spec = pytree.tree_structure((tuple(range(len(names))), {}))
    out_spec = pytree.tree_structure(pytree.tree_map(lambda _: 0, returned))
    graph.signature = Signature(tuple(names), dump_spec(in_spec), dump_spec(out_spec))
    return graph


def _split(op: OpDef, bound: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    operands = {name: argument for name, argument in bound.items() if _holds_value(argument)}
    return operands, drop_defaults(op, {n: argument for n, argument in bound.items() if n not in operands})


def _op_of(target: Any) -> OpDef:
    try:
        return op_of_target(target)
    except OpError:
        # Not in torch's table: called as an opaque object.
        name = f"python.{getattr(target, '__module__', None) or 'builtins'}.{getattr(target, '__qualname__', target)}"
        try:
            return lookup_op(name)
        except OpError:
            return register_op(
                OpDef(
                    name,
                    target=target,
                    variadic=True,
                    result_count=None,
                    returns_sequence=True,
                    traits={Trait.OPAQUE, Trait.EFFECT},
                )
            )


def _flat_call(bound: dict[str, Any]) -> dict[str, Any]:
    """Flatten the arguments of a higher-order call, with their spec if values nest deeper than one list."""
    if all(_is_plain_argument(argument) for argument in bound.values()):
        return bound
    leaves, spec = pytree.tree_flatten(bound)
    return {f"arg{i}": leaf for i, leaf in enumerate(leaves)} | {CALL_SPEC: dump_spec(spec)}


def _is_plain_argument(argument: Any) -> bool:
    if isinstance(argument, dict):
        return False
    if isinstance(argument, tuple):
        return not any(isinstance(item, tuple | list | dict | Graph) for item in argument)
    return True


def _holds_value(argument: Any) -> bool:
    if isinstance(argument, Value):
        return True
    return isinstance(argument, tuple) and any(isinstance(item, Value) for item in argument)


def _as_tuples(structure: Any) -> Any:
    return tuple(map(_as_tuples, structure)) if isinstance(structure, list | tuple) else structure


def _plain(argument: Any) -> Any:
    if isinstance(argument, torch.dtype):
        return DType.of(argument)
    if isinstance(argument, torch._ops.OpOverload):
        return op_of_target(argument)
    if isinstance(argument, torch.SymInt | torch.SymFloat | torch.SymBool):
        return argument.node.maybe_as_int() if isinstance(argument, torch.SymInt) else argument
    return argument
