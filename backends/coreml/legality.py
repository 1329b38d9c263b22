"""Check of the lowered graph against the storage formats of a deployment target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum

from attrs import field, frozen

from graphpress.backends.coreai.raising import is_packed_float4
from graphpress.backends.errors import LoweringError
from graphpress.ir.dtypes import DType
from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.ir.graph import Graph, Node, Use, Value
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import TensorType
from graphpress.passes.framework.facts import Fact
from graphpress.passes.framework.passes import Pass, PassContext
from graphpress.passes.framework.registry import register_pass


class TargetError(GraphpressError, ValueError):
    """An unknown deployment target."""


class Target(IntEnum):
    """The oldest system that a package supports."""

    iOS15 = 15
    """No compressed constants."""
    iOS16 = 16
    """8-bit weights per tensor or channel, one lookup table per tensor, sparse weights."""
    iOS17 = 17
    """Also 8-bit activations."""
    iOS18 = 18
    """Also 4-bit weights, blocks, lookup tables per group, vector and 8-bit entries, and their combinations."""
    iOS26 = 26
    """Also lookup tables whose entries are scaled at the lookup."""

    @classmethod
    def of(cls, value: object) -> Target:
        """Return a target from a target, a name, or a member of coremltools' `target`.

        Raises:
            TargetError: if the name is unknown.
        """
        if isinstance(value, cls):
            return value
        name = getattr(value, "name", value)
        if isinstance(name, str) and name in cls.__members__:
            return cls[name]
        accepted = ", ".join(cls.__members__)
        raise TargetError(f"unknown target {value!r}{suggestion(str(name), cls.__members__)}; accepted: {accepted}")


STORABLE_IN_COREML = Fact("storable-in-coreml", "every compressed value has a stored form at the Core ML target")

_TABLE_BITS = {2: 1, 4: 2, 8: 3, 16: 4, 64: 6, 256: 8}
_WEIGHTS = {
    DType.INT8: Target.iOS16,
    DType.UINT8: Target.iOS16,
    DType.INT4: Target.iOS18,
    DType.UINT4: Target.iOS18,
}
_ACTIVATIONS = (DType.INT8, DType.UINT8)


@frozen
class Violation:
    """A compressed value that a target cannot store.

    Attributes:
        node: the node of the value.
        what: the unsupported feature, as text.
        lowest: the oldest target that supports it, or None.
    """

    node: Node
    what: str
    lowest: Target | None

    def __str__(self) -> str:
        can = f"{self.lowest.name} can" if self.lowest is not None else "no target can"
        return f"{self.node.name} ({self.node.location}): {self.what}; {can}"


def _target_name(value: object) -> str:
    return Target.of(value).name


@register_pass
@frozen
class CheckCoremlTarget(Pass):
    """Reject a graph with compressed values that the target cannot store.

    All values are checked before the error is raised, which names each unsupported feature and the oldest target that
    supports it. The graph is not changed.

    Attributes:
        target: the deployment target, such as ``iOS18``.
    """

    name = "check-coreml-target"
    gives = frozenset({STORABLE_IN_COREML})

    target: str = field(default="iOS18", converter=_target_name)

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Check every compressed value."""
        require_legal(graph, Target.of(self.target))


def require_legal(graph: Graph, target: Target) -> None:
    """Raise if `target` cannot store the compressed values of `graph`.

    Raises:
        LoweringError: naming each node, the unsupported feature, and the oldest target that supports it.
    """
    found = violations(graph, target)
    if found:
        lines = "".join(f"\n  {each}" for each in found)
        possible = [each.lowest for each in found]
        advice = "" if None in possible else f"\n{max(filter(None, possible)).name} can store all of it"
        raise LoweringError(f"{target.name} cannot store {len(found)} compressed values:{lines}{advice}")


def violations(graph: Graph, target: Target) -> list[Violation]:
    """Return the features of `graph` that `target` cannot store, in graph order."""
    return [each for each in _demands(graph.nodes) if each.lowest is None or each.lowest > target]


def lowest_target(nodes: Iterable[Node]) -> Target:
    """Return the oldest target that can store the values of `nodes`.

    Raises:
        LoweringError: if there is none.
    """
    demands = list(_demands(nodes))
    impossible = "".join(f"\n  {each}" for each in demands if each.lowest is None)
    if impossible:
        raise LoweringError(f"Core ML cannot store these compressed values:{impossible}")
    return max((each.lowest for each in demands if each.lowest is not None), default=Target.iOS15)


def _demands(nodes: Iterable[Node]) -> Iterator[Violation]:
    """Yield the features that each compressed value needs, with the oldest target that supports them."""
    for node in nodes:
        if node.op.dialect in ("coreai", "quant"):
            demand = _DEMANDS.get(node.op.short_name)
            if demand is not None:
                yield Violation(node, *demand(node))


def _table_demand(node: Node) -> tuple[str, Target | None]:
    lut, indices = node.operands["lut"].tensor_type, node.operands["indices"].tensor_type
    entries, width = lut.shape[-2:]
    if entries not in _TABLE_BITS:
        return f"a table of {entries} entries, where {_listed(_TABLE_BITS)} are possible", None
    if lut.dtype not in (DType.FLOAT32, DType.FLOAT16, DType.INT8, DType.UINT8):
        return f"a table of {lut.dtype.long_name}, where float32, float16, int8 and uint8 are possible", None
    if lut.dtype.is_integer:
        if not all(_is_scaled(use) for use in node.result.uses):
            return "a table of integers that nothing scales", None
        return f"a table of {lut.dtype.long_name} entries", Target.iOS18
    if width > 1:
        return "a table of vectors", Target.iOS18
    if any(dim != 1 for dim in lut.shape[:-2]):
        return "a table for each group of channels", Target.iOS18
    if entries == 8:
        return "a table of 3 bits", Target.iOS18
    if indices.rank < 1:
        return "a table for a single number", None
    if any(isinstance(user := use.user, Node) and user.op.short_name == "sparse_to_dense" for use in node.result.uses):
        return "a table for the kept elements of a pruned weight", Target.iOS18
    return "a table", Target.iOS16


def _weight_demand(node: Node) -> tuple[str, Target | None]:
    data = node.operands["input"]
    dtype = _code_dtype(node)
    if node.operand("minval") is not None:
        return "a minimum value beside the scale; the zero-point formulation is possible", None
    maker = data.node.op.short_name if data.node is not None else None
    sparse = data.node is not None and maker == "sparse_to_dense"
    of_table = sparse and (kept := _kept_of(data)).node is not None and kept.node.op.short_name == "lut_to_dense"
    if maker == "lut_to_dense" or of_table:
        floats = dtype.is_floating and dtype.bits >= 16
        return "a scale beside a table", Target.iOS18 if floats or dtype in _WEIGHTS else None
    if dtype not in _WEIGHTS:
        return f"weights of {dtype.long_name}, where {_names(_WEIGHTS)} are possible", None
    if maker == "sparse_to_dense":
        if node.operand("zero_point") is not None:
            return "a zero point for kept elements; symmetric codes are possible", None
        return "sparse weights of integers", Target.iOS18
    wide = [axis for axis, dim in enumerate(_shape(node.operands["scale"])) if dim != 1]
    per_channel = len(wide) <= 1 and all(_shape(node.operands["scale"])[a] == _shape(data)[a] for a in wide)
    if not per_channel:
        return "a scale for each block", Target.iOS18
    return f"weights of {dtype.long_name}", _WEIGHTS[dtype]


def _activation_demand(node: Node) -> tuple[str, Target | None]:
    dtype = _code_dtype(node)
    if dtype not in _ACTIVATIONS:
        return f"activations of {dtype.long_name}, where {_names(_ACTIVATIONS)} are possible", None
    if node.operand("minval") is not None:
        return "a minimum value beside the scale; the zero-point formulation is possible", None
    return f"activations of {dtype.long_name}", Target.iOS17


def _sparse_demand(node: Node) -> tuple[str, Target | None]:
    dtype = _kept_of(node.result).tensor_type.dtype
    if dtype in (DType.FLOAT32, DType.FLOAT16):
        return "sparse weights", Target.iOS16
    return f"sparse weights of {dtype.long_name}", Target.iOS18 if dtype in _WEIGHTS else None


def _kept_of(dense: Value) -> Value:
    """Return the kept elements that `dense` scatters."""
    node = dense.node
    assert node is not None
    return node.operands.get("nonzero_data") or node.operands["values"]


_DEMANDS = {
    "lut_to_dense": _table_demand,
    "blockwise_shift_scale": _weight_demand,
    "constexpr_blockwise_shift_scale": _weight_demand,
    "quantize": _activation_demand,
    "dequantize": _activation_demand,
    "sparse_to_dense": _sparse_demand,
}


def _code_dtype(node: Node) -> DType:
    """Return the element type of the codes: the op's dtype argument, or the operand's type."""
    if is_packed_float4(node):
        return DType.FLOAT4_E2M1FN
    for name in ("dtype", "input_dtype") if node.op.short_name != "quantize" else ("dtype", "output_dtype"):
        given = node.attributes.get(name)
        if given is not None:
            return DType.of(given)
    data: Value = node.operands["input"]
    return data.tensor_type.dtype


def _is_scaled(use: Use) -> bool:
    """Return True if a scale follows, possibly after the expansion of kept elements."""
    if isinstance(use.user, Node) and use.user.op.short_name == "sparse_to_dense":
        return all(_is_scaled(next_use) for next_use in use.user.result.uses)
    return use.operand == "input" and _is_shift_scale(use.user)


def _is_shift_scale(node: object) -> bool:
    return isinstance(node, Node) and node.op.short_name in ("blockwise_shift_scale", "constexpr_blockwise_shift_scale")


def _shape(value: Value) -> tuple[object, ...]:
    type = value.type
    assert isinstance(type, TensorType)
    return type.shape


def _names(dtypes: object) -> str:
    return ", ".join(dtype.long_name for dtype in dtypes)  # type: ignore[attr-defined]


def _listed(numbers: object) -> str:
    return ", ".join(map(str, numbers))  # type: ignore[call-overload]
