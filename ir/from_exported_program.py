"""Graphs from `torch.export.ExportedProgram`.

The program is read node by node, without tracing it again: conv2d, linear, batch_norm stay whole, in-place ops become
values (`graphpress.ir.functionalize`), control flow and other higher-order ops become opaque nodes with their
subgraphs as nested `Graph` attributes. Time is linear in the program.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from graphpress.ir.calling import CALL_SPEC, RESULT_SPEC, dump_spec, spec_children
from graphpress.ir.collector import holding_collector
from graphpress.ir.dims import Dim
from graphpress.ir.dtypes import DType
from graphpress.ir.functionalize import Cell, Entangled, functional_form, is_training_batch_norm, plan_writes
from graphpress.ir.graph import Constant, Graph, Node, Signature, Value
from graphpress.ir.inference import TypeInferenceError, infer_types_at_hints
from graphpress.ir.ops import OpDef, OpError, Trait, lookup_op, op_of_target, register_op
from graphpress.ir.rewriter import drop_defaults
from graphpress.ir.source_locations import LocationReader
from graphpress.ir.torch_types import dim_of, symbols_of, type_of
from graphpress.ir.types import TensorType, Type

_ASSERT_METADATA = torch.ops.aten._assert_tensor_metadata.default


@holding_collector
def from_exported_program(program: ExportedProgram) -> Graph:
    """The graph of an exported program; tensors are shared with it.

    Unused parameters are left out. Buffers and inputs that the program writes to become mutation outputs. A program
    with writes through views is functionalized by torch first, which costs another trace.
    """
    try:
        return _read_program(program, allow_writes=False)
    except Entangled:
        with warnings.catch_warnings(), _explicit_copies(program):
            warnings.simplefilter("ignore", FutureWarning)  # torch uses what it deprecates
            program = program.run_decompositions({})
    try:
        return _read_program(program, allow_writes=False)
    except Entangled:  # torch could not do it either: the writes stay, and passes go round them
        return _read_program(program, allow_writes=True)


@contextmanager
def _explicit_copies(program: ExportedProgram) -> Iterator[None]:
    """While this lasts, the source of every `copy_` has the element type, shape and strides of the target.

    torch's functionalization takes the source of a `copy_` to a buffer for the buffer's new value, whatever its type.
    """
    added: list[FxNode] = []
    restore: list[tuple[FxNode, FxNode]] = []
    graph = program.graph
    for node in [node for node in graph.nodes if node.target is torch.ops.aten.copy_.default]:
        target, source = node.args[:2]
        wanted, given = target.meta["val"], source.meta["val"]
        restore.append((node, source))
        with graph.inserting_before(node):
            if given.dtype != wanted.dtype:
                source = graph.call_function(torch.ops.aten.to.dtype, (source, wanted.dtype))
                added.append(source)
            if _layout(given)[0] != _layout(wanted)[0]:
                source = graph.call_function(torch.ops.aten.expand_as.default, (source, target))
                added.append(source)
            if _needs_own_memory(given, wanted):
                contiguous = {"memory_format": torch.contiguous_format}
                source = graph.call_function(torch.ops.aten.clone.default, (source,), contiguous)
                added.append(source)
        node.update_arg(1, source)
    for node in added:
        node.meta = {key: item for key, item in next(iter(node.users)).meta.items() if key != "val"}
    program.graph_module.recompile()
    try:
        yield
    finally:
        for node, source in restore:
            node.update_arg(1, source)
        for node in reversed(added):
            graph.erase_node(node)
        program.graph_module.recompile()


def _read_program(program: ExportedProgram, allow_writes: bool) -> Graph:
    fx_graph = program.graph
    graph = Graph("main")
    graph.symbols = symbols_of(program.range_constraints, (node.meta.get("val") for node in fx_graph.nodes))
    reader = _BodyReader(graph, program.graph_module, {} if allow_writes else plan_writes(fx_graph.nodes), allow_writes)
    tensors = _TensorNames(program)
    inputs: dict[str, Value] = {}
    sources: dict[int, tuple[str, Value]] = {}  # cell of a placeholder -> mutation kind, target
    placeholders = (node for node in fx_graph.nodes if node.op == "placeholder")
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            value = _add_input(graph, node, spec.arg)
            reader.bind(node, value)
            if isinstance(value, Value):
                inputs[node.name] = value
                sources[id(reader.cells.get(node))] = "input_mutation", value
        elif spec.kind is InputKind.CUSTOM_OBJ:
            reader.bind(node, program.constants.get(spec.target))
        elif spec.kind is InputKind.TOKEN:
            reader.bind(node, None)
        elif node.users:
            constant = tensors.constant(graph, spec)
            reader.bind(node, constant.value)
            sources[id(reader.cells.get(node))] = "buffer_mutation", constant.value
    results = reader.read(fx_graph.nodes)
    mutations = []
    for item, spec in zip(results, program.graph_signature.output_specs, strict=True):
        if spec.kind in (OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT):
            _add_output(graph, item)
        elif spec.kind is OutputKind.USER_INPUT_MUTATION:
            mutations.append((item, "input_mutation", inputs[spec.target]))
        elif spec.target is not None and spec.kind is not OutputKind.TOKEN:
            mutations.append((item, "buffer_mutation", tensors.constant_named(graph, spec.target).value))
    for item, kind, target in mutations:
        graph.add_output(reader.fit(item, target), kind, target=target)
    for cell in dict.fromkeys(reader.cells.values()):
        if cell.outside and cell.is_written and cell.value is not None:
            kind, target = sources[id(cell)]
            if cell.value is not target:
                graph.add_output(cell.value, kind, target=target)
    graph.signature = _signature(program)
    return graph


def _add_input(graph: Graph, node: FxNode, argument: Any) -> Value | Any:
    if type(argument).__name__ == "ConstantArgument":
        literal = argument.value
        graph.add_input(node.name, literal=literal)
        return literal
    return graph.add_input(node.name, type_of(node.meta.get("val"))).value


def _add_output(graph: Graph, item: Any) -> None:
    if isinstance(item, Value):
        graph.add_output(item)
    else:
        graph.add_output(None, literal=item)


def _signature(program: ExportedProgram) -> Signature | None:
    call = program.module_call_graph[0].signature
    if call is None:
        return None
    names = getattr(call, "forward_arg_names", None)
    if not names:
        positional, keywords = spec_children(call.in_spec)
        names = [f"arg_{i}" for i in range(positional.num_children)] + list(keywords.context or ())
    return Signature(tuple(names), dump_spec(call.in_spec), dump_spec(call.out_spec))


class _TensorNames:
    """The program's tensors by name; names of one tensor are kept together."""

    def __init__(self, program: ExportedProgram):
        non_persistent = set(program.graph_signature.non_persistent_buffers)
        self._tensors: dict[str, Any] = dict(program.state_dict)
        for name, tensor in program.constants.items():
            self._tensors.setdefault(name, tensor)
        self._non_persistent = non_persistent
        self._groups: dict[Any, list[str]] = {}
        literal = {s.target for s in program.graph_signature.input_specs if s.kind is InputKind.CONSTANT_TENSOR}
        for name, tensor in self._tensors.items():
            if isinstance(tensor, torch.Tensor) and name not in literal:
                self._groups.setdefault(_identity(tensor), []).append(name)
        self._constants: dict[Any, Constant] = {}

    def constant(self, graph: Graph, spec: Any) -> Constant:
        """The constant of `graph` for an input spec."""
        tensor = self._tensors[spec.target]
        key = spec.target if spec.kind is InputKind.CONSTANT_TENSOR else _identity(tensor)
        if key not in self._constants:
            if spec.kind is InputKind.CONSTANT_TENSOR:
                made = graph.add_constant(spec.target, tensor, "literal")
            else:
                names = self._groups[key]
                kind = "parameter" if isinstance(tensor, torch.nn.Parameter) else "buffer"
                persistent = any(name not in self._non_persistent for name in names)
                made = graph.add_constant(names[0], tensor, kind, names, persistent=persistent)
            self._constants[key] = made
        return self._constants[key]

    def constant_named(self, graph: Graph, name: str) -> Constant:
        """The constant that the program calls `name`; made when nothing reads it."""
        tensor = self._tensors[name]
        key = _identity(tensor)
        if key not in self._constants:
            names = self._groups[key]
            persistent = any(n not in self._non_persistent for n in names)
            self._constants[key] = graph.add_constant(names[0], tensor, "buffer", names, persistent=persistent)
        return self._constants[key]


def _identity(tensor: torch.Tensor) -> Any:
    """Equal for two tensors that are the same elements of the same memory."""
    if tensor.numel() == 0 or tensor.layout is not torch.strided or tensor.device.type == "meta":
        return id(tensor)
    try:
        storage = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a tensor subclass around others
        return id(tensor)
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


class _BodyReader:
    """Reads the nodes of one fx graph into one `Graph`."""

    def __init__(self, graph: Graph, module: GraphModule, cells: dict[FxNode, Cell], allow_writes: bool):
        self.graph = graph
        self.module = module
        self.cells = cells
        self.allow_writes = allow_writes
        self.locations = LocationReader()
        self._here: FxNode | None = None
        self._bound: dict[FxNode, Any] = {}  # a value, a tuple of them, a nested graph, or a Python object

    def bind(self, node: FxNode, value: Any) -> None:
        """Let later reads of `node` see `value`."""
        cell = self.cells.get(node)
        if cell is not None and isinstance(value, Value):
            cell.value = value
        else:
            self._bound[node] = value

    def read(self, nodes: Iterable[FxNode]) -> list[Any]:
        """Add every call to the graph; return what the graph returns, flattened."""
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
        """An fx argument with its nodes replaced by what they are now bound to."""
        if isinstance(argument, FxNode):
            cell = self.cells.get(argument)
            return cell.value if cell is not None else self._bound.get(argument)
        if isinstance(argument, list | tuple):
            return tuple(self.resolve(item) for item in argument)
        if isinstance(argument, dict):
            return {key: self.resolve(item) for key, item in argument.items()}
        if isinstance(argument, slice):
            return slice(*(self.resolve(item) for item in (argument.start, argument.stop, argument.step)))
        return _plain(argument)

    def _read_call(self, node: FxNode) -> None:
        target = node.target
        if target is _ASSERT_METADATA:  # what it asserts is in the types, and may change when a pass changes them
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
        elif is_training_batch_norm(node) and not self.allow_writes:
            self._read_training_batch_norm(node)
        else:
            op = _op_of(target)
            bound = op.bind(map(self.resolve, node.args), {k: self.resolve(v) for k, v in node.kwargs.items()})
            if op.variadic:
                bound = _flat_call(bound)
            made, structure = self._insert_with_value(node, op, bound)
            self.bind(node, structure(made))

    def _insert_with_value(
        self, node: FxNode, op: OpDef, bound: Mapping[str, Any]
    ) -> tuple[Node, Callable[[Node], Any]]:
        fake = node.meta.get("val", node)
        if isinstance(fake, list | tuple):
            leaves, spec = pytree.tree_flatten(fake)
            flat = all(child.is_leaf() for child in spec_children(spec))
            if op.variadic and not (flat and isinstance(fake, tuple | list)):
                bound = {**bound, RESULT_SPEC: dump_spec(spec)}
            made = self.insert(node, op, bound, map(type_of, leaves))
            return made, lambda made: _as_tuples(pytree.tree_unflatten(list(made.results), spec))
        if op.variadic and not op.has(Trait.SYMBOLIC):
            if fake is None:
                return self.insert(node, op, bound, ()), lambda made: None
            bound = {**bound, RESULT_SPEC: dump_spec(pytree.tree_structure(0))}
        types = () if op.result_count == 0 else [type_of(fake)]
        made = self.insert(node, op, bound, types)
        return made, lambda made: made.results[0] if made.results else None

    def insert(self, node: FxNode, op: OpDef, bound: Mapping[str, Any], types: Iterable[Type]) -> Node:
        """Add the call of `op` that `node` stands for."""
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
        # In place, the result is cast to the type of the tensor that is written to.
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
        """`copy_(target, source)`: the source, in the element type, shape and layout of the target."""
        self._here = node
        target, source = node.args[:2]
        value = self.fit(self.resolve(source), self.resolve(target))
        if _needs_own_memory(source.meta["val"], target.meta["val"]):  # type: ignore[union-attr]
            value = self._add("aten.clone", value, {"memory_format": torch.contiguous_format}, value.type)
        return value

    def fit(self, value: Value, target: Value) -> Value:
        """`value` in the element type and shape of `target`."""
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
        """A call that the program implies but does not spell out; named and located after the node it is part of."""
        node = self._here
        if node is not None:
            return self.insert(node, lookup_op(op), {"self": value, **bound}, [type]).result
        operands, attributes = _split(lookup_op(op), {"self": value, **bound})
        return self.graph.insert(lookup_op(op), operands, attributes, [type]).result

    def _read_training_batch_norm(self, node: FxNode) -> None:
        """Running statistics that are updated become results, and their tensors' new values."""
        names = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
        whole = op_of_target(node.target).bind(map(self.resolve, node.args), node.kwargs)  # type: ignore[arg-type]
        bound = {name: whole[name] for name in names}
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
            owner = _read_nested(str(node.target), owner, self.graph, self.allow_writes)
        elif isinstance(owner, torch.Tensor):
            owner = self.graph.add_constant(str(node.target), owner, "literal").value
        self.bind(node, owner)


def _read_nested(name: str, module: GraphModule, parent: Graph, allow_writes: bool) -> Graph:
    """The body of a higher-order op. It may use the symbols of the graph around it."""
    graph = Graph(name, symbols=parent.symbols)
    cells = {} if allow_writes else plan_writes(module.graph.nodes)
    if any(cell.outside and cell.is_written for cell in cells.values()):
        raise Entangled(f"{name} writes to what it is given")
    reader = _BodyReader(graph, module, cells, allow_writes)
    names = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            reader.bind(node, graph.add_input(node.name, type_of(node.meta.get("val"))).value)
            names.append(node.name)
    for item in reader.read(module.graph.nodes):
        _add_output(graph, item)
    returned = next(reversed(module.graph.nodes)).args[0]
    in_spec = pytree.tree_structure((tuple(range(len(names))), {}))
    out_spec = pytree.tree_structure(pytree.tree_map(lambda _: 0, returned))
    graph.signature = Signature(tuple(names), dump_spec(in_spec), dump_spec(out_spec))
    return graph


def _needs_own_memory(source: torch.Tensor, target: torch.Tensor) -> bool:
    """True when a copy of `source` lies in memory as `target` does, but `source` itself does not.

    Later views, and the order in which sums are taken, depend on it.
    """
    if _layout(source) == _layout(target):
        return False
    shape, stride = _layout(target)
    expected: Dim = 1
    for extent, step in zip(reversed(shape), reversed(stride), strict=True):
        if step != expected and extent != 1:
            return False
        if not isinstance(extent, int) or not isinstance(expected, int):
            return True  # of symbolic extents only the last is looked at
        expected *= extent
    return True


def _layout(tensor: torch.Tensor) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """Shape and strides, symbolic ones as expressions: comparing torch's own would add guards."""
    return tuple(map(dim_of, tensor.shape)), tuple(map(dim_of, tensor.stride()))


def _split(op: OpDef, bound: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    operands = {name: argument for name, argument in bound.items() if _holds_value(argument)}
    return operands, drop_defaults(op, {n: argument for n, argument in bound.items() if n not in operands})


def _op_of(target: Any) -> OpDef:
    try:
        return op_of_target(target)
    except OpError:
        # Something torch's table does not name: called as it is, never looked into.
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
    """The arguments of a higher-order call, flattened beside their spec when values nest deeper than one list."""
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
