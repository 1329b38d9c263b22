"""Casts of float32 to float16, and of integers to int16."""

from __future__ import annotations

from attrs import define, field, frozen

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Constant, Graph, Node, Output, Value
from graphpress.ir.inference import TypeInferenceError, infer_element_types
from graphpress.ir.ops import Trait
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import ScalarType, TensorType, Type
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.analysis.float16_range import Wide, is_float32, width_after, width_of_constant, width_of_numbers
from graphpress.passes.framework.effects import LOSSY
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass


@define(eq=False)
class Casts:
    """Inserts casts directly after the values that they cast, each once."""

    rewriter: Rewriter
    _made: dict[tuple[int, DType], Value] = field(factory=dict, init=False)
    _widened: dict[int, Value] = field(factory=dict, init=False)

    def cast(self, value: Value, dtype: DType) -> Value:
        """Return `value` cast to `dtype`, reusing an existing value or the one it was widened from."""
        if value.tensor_type.dtype is dtype:
            return value
        widened_from = self._widened.get(id(value))
        if widened_from is not None and widened_from.tensor_type.dtype is dtype:
            return widened_from
        key = id(value), dtype
        if key not in self._made:
            anchor = value.node._next if value.node is not None else self.rewriter.graph._first
            location = value.node.location if value.node is not None else None
            node = self.rewriter.insert_before(
                anchor,
                "aten._to_copy",
                {"self": value},
                {"dtype": dtype},
                types=[value.tensor_type.with_dtype(dtype)],
                name=f"{value.name}_{dtype.value}".replace("#", "_").replace(".", "_"),
                location=location,
            )
            self._made[key] = node.result
            if dtype.bits > value.tensor_type.dtype.bits:
                self._widened[id(node.result)] = value
        return self._made[key]

    def finish(self) -> int:
        """Erase unread casts and return the number of those that remain."""
        nodes = [value.node for value in self._made.values() if value.node is not None]
        for node in nodes:
            if node.is_dead:
                self.rewriter.erase(node)
        return sum(node.graph is not None for node in nodes)

    def cast_operands(self, node: Node, wanted: dict[int, DType]) -> None:
        """Cast the operands of `node` whose ``id`` is in `wanted` to the element type there."""
        for name, operand in list(node.operands.items()):
            if isinstance(operand, Value):
                if id(operand) in wanted:
                    self.rewriter.set_operand(node, name, self.cast(operand, wanted[id(operand)]))
            elif isinstance(operand, tuple) and any(id(item) in wanted for item in operand):
                items = [self.cast(item, wanted[id(item)]) if id(item) in wanted else item for item in operand]
                self.rewriter.set_operand(node, name, items)


_CASTS = ("_to_copy", "to")


@define(eq=False)
class FloatCaster:
    """Casts float32 values to float16 in one traversal, and records those that stay wide."""

    graph: Graph
    rewriter: Rewriter
    context: PassContext
    kept: frozenset[str] = frozenset()
    beyond: frozenset[str] | None = None
    _wide: dict[int, Wide] = field(factory=dict, init=False)
    _casts: Casts = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._casts = Casts(self.rewriter)

    def run(self) -> None:
        """Cast constants, inputs, nodes and outputs, in this order."""
        for constant in self.graph.constants.values():
            self._cast_constant(constant)
        for graph_input in self.graph.inputs:
            value = graph_input.value
            if value is not None and is_float32(value):
                self.rewriter.retype(value, value.tensor_type.with_dtype(DType.FLOAT16))
                self.context.count("inputs")
        for node in list(self.graph.nodes):
            self.context.node = node
            self._cast_node(node)
        self.context.node = None
        for output in self.graph.outputs:
            self._cast_output(output)
        self.context.count("casts", self._casts.finish())
        for constant in list(self.graph.constants.values()):
            if not constant.value.use_count:  # only an assertion of its element type read it
                self.rewriter.erase_constant(constant)

    def _cast_constant(self, constant: Constant) -> None:
        if not is_float32(constant.value):
            return
        width = width_of_constant(constant.value, constant.tensor)
        if width:
            self._wide[id(constant.value)] = width
            end = "above" if width & Wide.LARGE else "below"
            self.context.report(None, f"{constant.name} stays float32: it holds values {end} float16's range")
        else:
            self.rewriter.cast_constant(constant, DType.FLOAT16)
            self.context.count("constants")

    def _cast_node(self, node: Node) -> None:
        values = [value for _, _, value in node.operand_values()]
        is_cast = any(isinstance(v.type, TensorType) and v.type.dtype is DType.FLOAT16 for v in values)
        makes_float = any(map(is_float32, node.results))
        if node.op.short_name == "_assert_tensor_metadata" and is_cast:
            self.rewriter.erase(node)  # it asserts the former element type
            return
        width = self._width(values)
        is_complex = any(map(_is_complex, (*values, *node.results)))
        if not (is_cast or makes_float or width):
            return
        if makes_float:
            width |= width_of_numbers(node)
            width |= Wide.LARGE if self.beyond is not None and node.name in self.beyond else Wide.NONE
        is_kept = is_complex or node.name in self.kept or node.op.has(Trait.OPAQUE)
        if width or is_kept or not self._narrow(node):
            self._keep(node, width)

    def _narrow(self, node: Node) -> bool:
        """Change `node` to compute in float16; return False, without an edit, if torch cannot."""
        attributes = {n: DType.FLOAT16 if v is DType.FLOAT32 else v for n, v in node.attributes.items()}
        if "dtype" in node.op.by_name and not any(True for _ in node.operand_values()):
            attributes.setdefault("dtype", DType.FLOAT16)
        types = self._types(node, attributes)
        if types is None:
            return False
        for name, value in attributes.items():
            self.rewriter.set_attribute(node, name, value)
        for result, type in zip(node.results, types, strict=True):
            if is_float32(result) and isinstance(type, TensorType):
                self.rewriter.retype(result, result.tensor_type.with_dtype(type.dtype))
            if is_float32(result):  # for example statistics that norms keep in float32
                self._cast_down(result)
        self._drop_identity(node)
        self.context.count("nodes")
        return True

    def _types(self, node: Node, attributes: dict[str, object]) -> tuple[Type, ...] | None:
        op = node.op
        try:
            return infer_element_types(op, node.operands, attributes, self.graph.symbols)
        except TypeInferenceError:
            if op.infer is not None:
                raise
            return None

    def _drop_identity(self, node: Node) -> None:
        """Remove a cast of the model to the element type that its operand has by now."""
        value = node.operand("self")
        if node.op.short_name not in _CASTS or value is None or value.type != node.result.type:
            return
        if set(node.attributes) <= {"dtype", "non_blocking", "copy"}:
            self.rewriter.replace(node, value)

    def _keep(self, node: Node, width: Wide) -> None:
        """Keep `node` in float32: widen its operands, and narrow its results where that is safe."""
        up = {
            id(v): DType.FLOAT32
            for _, _, v in node.operand_values()
            if isinstance(v.type, TensorType) and v.type.dtype is DType.FLOAT16
        }
        self._casts.cast_operands(node, up)
        after = width_after(node, width)
        if self.beyond is not None and node.name not in self.beyond:
            after &= ~Wide.LARGE  # as seen on data
        for result in node.results:
            if not is_float32(result):
                continue
            if after:
                self._wide[id(result)] = after
            else:
                self._cast_down(result)
        self.context.count("nodes kept in float32")

    def _cast_down(self, result: Value) -> None:
        """Redirect the readers of `result`, if any, to a float16 cast of it."""
        uses = result.uses
        if uses:
            narrow = self._casts.cast(result, DType.FLOAT16)
            self.rewriter.replace_uses(result, narrow, where=lambda use: use in uses)

    def _cast_output(self, output: Output) -> None:
        """Cast returned values to float16, and values written to buffers to the type of the buffer."""
        value = output.value
        if value is None or not isinstance(value.type, TensorType):
            return
        wanted = output.target.tensor_type.dtype if output.target is not None else DType.FLOAT16
        if value.type.dtype is not wanted and value.type.dtype in (DType.FLOAT32, DType.FLOAT16):
            self.graph.set_output(output, self._casts.cast(value, wanted))

    def _width(self, values: list[Value]) -> Wide:
        width = Wide.NONE
        for value in values:
            width |= self._wide.get(id(value), Wide.NONE)
        return width


def _is_complex(value: Value) -> bool:
    """Return True for complex tensors, whose parts are not cast: torch has no kernels for most of them in 16 bits."""
    return isinstance(value.type, TensorType) and value.type.dtype in (DType.COMPLEX64, DType.COMPLEX128)


_BINARY = frozenset(("add", "sub", "mul"))
_REDUCING = frozenset(("sum",))
_INDEX_OPERANDS = frozenset(("index", "indices"))
_WIDE = (DType.INT32, DType.INT64)


@define(eq=False)
class IntegerCaster:
    """Casts sums, products and reductions of integers to int16; adjacent ops exchange int16 directly."""

    graph: Graph
    rewriter: Rewriter
    context: PassContext
    _casts: Casts = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._casts = Casts(self.rewriter)

    def run(self) -> None:
        """Cast the chosen ops, and retype inputs that are read as int16 only."""
        chosen = self._chosen()
        for node in chosen:
            self.context.node = node
            self._cast(node)
        self.context.node = None
        self.context.count("casts", self._casts.finish())
        for graph_input in self.graph.inputs:
            if graph_input.value is not None:
                self._cast_input(graph_input.value)
        self.context.count("integer nodes", len(chosen))

    def _chosen(self) -> list[Node]:
        """Ops whose operands are worth a cast, and reductions that need none."""
        constant = constant_values(self.graph)
        positional = self._positional()
        chosen: dict[int, Node] = {}
        for node in self.graph.nodes:
            read = [value for _, _, value in node.operand_values()]
            if not all(map(_is_integer, [*read, *node.results])) or len(node.results) != 1:
                continue
            if id(node.result) in positional or any(id(value) in constant for value in read):
                continue
            is_reduction = node.op.family in _REDUCING and len(read) == 1 and id(read[0]) in chosen
            if is_reduction or (node.op.family in _BINARY and len(read) == 2):
                chosen[id(node.result)] = node
        return list(chosen.values())

    def _positional(self) -> set[int]:
        """Values that are an index or a size, or from which one is computed."""
        found: set[int] = set()
        for node in reversed(self.graph.nodes):
            counts = node.op.has(Trait.SYMBOLIC) or any(isinstance(r.type, ScalarType) for r in node.results)
            made = any(id(result) in found for result in node.results)
            for name, _, value in node.operand_values():
                if name in _INDEX_OPERANDS or counts or (made and _is_integer(value)):
                    found.add(id(value))
        return found

    def _cast(self, node: Node) -> None:
        before = node.result.tensor_type
        self._casts.cast_operands(node, {id(value): DType.INT16 for _, _, value in node.operand_values()})
        if node.op.family in _REDUCING:
            self.rewriter.set_attribute(node, "dtype", DType.INT16)
        uses = list(node.result.uses)
        self.rewriter.retype(node.result, before.with_dtype(DType.INT16))
        back = self._casts.cast(node.result, before.dtype)
        self.rewriter.replace_uses(node.result, back, where=lambda use: use in uses)

    def _cast_input(self, value: Value) -> None:
        """Change an input to int16 if the graph only casts it to int16."""
        readers = value.users
        if _is_integer(value) and readers and not value.is_output and all(map(_casts_to_int16, readers)):
            self.rewriter.retype(value, value.tensor_type.with_dtype(DType.INT16))
            for reader in readers:
                self.rewriter.replace(reader, value)
            self.context.count("inputs")


def _is_integer(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype in _WIDE


def _casts_to_int16(node: Node) -> bool:
    return node.op.name == "aten._to_copy" and node.attributes == {"dtype": DType.INT16}


@register_pass
@frozen
class Cast16Bit(Pass):
    """Cast float32 to float16, and int32 and int64 to int16 where that is safe and pays.

    Weights, inputs, outputs and results of ops become float16. Values outside the range of float16 stay float32, with
    a report, and so do values computed from them until an op brings them back into range: an attention mask of -1e9
    reaches its softmax as -1e9. Codes of compressed weights are not cast; their scales and lookup tables are.

    Sums and products of integer tensors become int16, unless an index or a size is computed from them. Their values,
    and those of inputs that become int16, are assumed to fit.

    Lossy by rounding to 16 bits; every op computes the same function of the rounded values.

    Attributes:
        floats: cast float32.
        integers: cast int32 and int64.
        kept: names of nodes that stay float32.
        beyond: names of nodes whose values exceed the range of float16 on data. They and the nodes that read them stay
            float32, and the results of other nodes are taken to be in range. None infers ranges from the graph alone.
    """

    effect = LOSSY(against="the same ops on values rounded to 16 bits")

    floats: bool = True
    integers: bool = True
    kept: tuple[str, ...] = ()
    beyond: tuple[str, ...] | None = None

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Cast floats, then integers."""
        if self.floats:
            beyond = None if self.beyond is None else frozenset(self.beyond)
            FloatCaster(graph, rewriter, context, frozenset(self.kept), beyond).run()
        if self.integers:
            IntegerCaster(graph, rewriter, context).run()
