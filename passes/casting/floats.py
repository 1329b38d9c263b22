"""float32 to float16, everywhere but where float16 cannot hold the value."""

from __future__ import annotations

from attrs import define, field

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Constant, Graph, Node, Output, Value
from graphpress.ir.inference import TypeInferenceError, infer_types_at_hints
from graphpress.ir.ops import Trait
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType, Type
from graphpress.passes.casting.casts import Casts
from graphpress.passes.casting.wide import Wide, is_float32, width_after, width_of_constant, width_of_numbers
from graphpress.passes.framework.context import PassContext

_CASTS = ("_to_copy", "to")


@define(eq=False)
class FloatCaster:
    """Visits every value once, in order. A float32 value becomes float16, or is noted as wide."""

    graph: Graph
    rewriter: Rewriter
    context: PassContext
    _wide: dict[int, Wide] = field(factory=dict, init=False)
    _casts: Casts = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._casts = Casts(self.rewriter)

    def run(self) -> None:
        """Constants, inputs, nodes, outputs."""
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
            self.rewriter.erase(node)  # it asserts the element type of before
            return
        width = self._width(values)
        if not (is_cast or makes_float or width):
            return
        if makes_float:
            width |= width_of_numbers(node)
        if width or node.op.has(Trait.OPAQUE) or not self._narrow(node):
            self._keep(node, width)

    def _narrow(self, node: Node) -> bool:
        """Let `node` compute in float16; False, and nothing changed, where torch cannot."""
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
            if is_float32(result):  # statistics that norms keep in float32, say
                self._cast_down(result)
        self._drop_identity(node)
        self.context.count("nodes")
        return True

    def _types(self, node: Node, attributes: dict[str, object]) -> tuple[Type, ...] | None:
        op = node.op
        if op.infer is not None:
            operands = {name: _types_in(operand) for name, operand in node.operands.items()}
            return tuple(op.infer(operands, attributes))
        try:
            return infer_types_at_hints(op, node.operands, attributes, self.graph.symbols)
        except TypeInferenceError:
            return None

    def _drop_identity(self, node: Node) -> None:
        """Remove a cast of the model's own to what its operand is by now."""
        value = node.operand("self")
        if node.op.short_name not in _CASTS or value is None or value.type != node.result.type:
            return
        if set(node.attributes) <= {"dtype", "non_blocking", "copy"}:
            self.rewriter.replace(node, value)

    def _keep(self, node: Node, width: Wide) -> None:
        """Let `node` compute in float32: cast what it reads up, and what it makes down where that is safe again."""
        up = {
            id(v): DType.FLOAT32
            for _, _, v in node.operand_values()
            if isinstance(v.type, TensorType) and v.type.dtype is DType.FLOAT16
        }
        self._casts.cast_operands(node, up)
        after = width_after(node, width)
        for result in node.results:
            if not is_float32(result):
                continue
            if after:
                self._wide[id(result)] = after
            else:
                self._cast_down(result)
        self.context.count("nodes kept in float32")

    def _cast_down(self, result: Value) -> None:
        """Let what reads `result`, if anything, read it as float16."""
        uses = result.uses
        if uses:
            narrow = self._casts.cast(result, DType.FLOAT16)
            self.rewriter.replace_uses(result, narrow, where=lambda use: use in uses)

    def _cast_output(self, output: Output) -> None:
        """Return what a user reads in float16, and write to buffers what they hold."""
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


def _types_in(operand: object) -> object:
    if isinstance(operand, Value):
        return operand.type
    return tuple(map(_types_in, operand)) if isinstance(operand, tuple) else operand
