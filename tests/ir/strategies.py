"""Random graphs of real ATen ops for property tests.

`graphs()` builds valid graphs that the interpreter can run; the knobs turn features on and off. Values stay of
moderate size, so that outputs can be compared with tight tolerances. `random_inputs` feeds them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import define, field
from hypothesis import strategies as st

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.location import Location, ModuleScope, Origin
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.types import ScalarType, SymDim, TensorType, evaluate_dim

HOSTILE_NAMES = st.one_of(
    st.sampled_from(
        ["", " ", "#0", "a#1", 'quo"te', "back\\slash", "new\nline", "%x", "@", "//", "none", "loc(0)", "é"]
    ),
    st.text(st.characters(codec=None), max_size=6),
)
PLAIN_NAMES = st.sampled_from(["x", "conv", "body.0", "relu_1", "layers.3.weight", "add"])


def graphs(
    max_nodes: int = 12,
    *,
    ranks: tuple[int, ...] = (4, 4, 3, 5, 2),
    with_convolutions: bool = True,
    with_transposed: bool = True,
    with_batch_norm: bool = True,
    with_branches: bool = True,
    with_shared_weights: bool = True,
    with_dead_nodes: bool = True,
    with_literals: bool = True,
    with_hostile_names: bool = True,
    only: tuple[str, ...] = (),
) -> st.SearchStrategy[Graph]:
    """Valid graphs of float32 tensors.

    Args:
        max_nodes: how many ops at most.
        ranks: what to draw the rank of the inputs from; convolutions need 3, 4 or 5.
        with_convolutions: convolutions, grouped and dilated ones included.
        with_transposed: transposed convolutions, where there are convolutions.
        with_batch_norm: batch norm in evaluation mode.
        with_branches: ops that read two values or have two results (add, mul, cat, split, max).
        with_shared_weights: let several nodes read one constant, some under several names.
        with_dead_nodes: leave some results unread.
        with_literals: inputs and outputs that are plain Python values.
        with_hostile_names: names with quotes, line breaks, marks of the text form, and none at all.
        only: names of the entries of `OPS` to choose from; empty for all.
    """
    left_out = set()
    left_out |= set() if with_convolutions else {"convolution", "grouped_convolution", "transposed_convolution"}
    left_out |= set() if with_transposed else {"transposed_convolution"}
    left_out |= set() if with_batch_norm else {"batch_norm"}
    left_out |= set() if with_branches else {"add", "mul", "cat", "split", "max"}
    table = {name: op for name, op in OPS.items() if name not in left_out and (not only or name in only)}
    names = st.one_of(PLAIN_NAMES, HOSTILE_NAMES) if with_hostile_names else PLAIN_NAMES

    @st.composite
    def build(draw: st.DrawFn) -> Graph:
        builder = _Builder(draw, names, with_shared_weights)
        builder.add_inputs(draw(st.sampled_from(ranks)), with_literals)
        for _ in range(draw(st.integers(1, max_nodes))):
            builder.add_node(table)
        builder.add_outputs(with_dead_nodes, with_literals)
        return builder.graph

    return build()


def random_inputs(graph: Graph, seed: int = 0) -> list[Any]:
    """One argument per graph input: tensors of standard normal numbers (small integers, random bools), symbols at
    their example values, literals as they are."""
    generator = torch.Generator().manual_seed(seed)
    hints = {name: symbol.hint for name, symbol in graph.symbols.items()}
    return [_argument(i.value, i.literal, hints, generator) for i in graph.inputs]


def _argument(value: Value | None, literal: Any, hints: dict[str, int], generator: torch.Generator) -> Any:
    if value is None:
        return literal
    if isinstance(value.type, ScalarType):
        number = value.type.value
        return 1 if number is None else evaluate_dim(number, hints)
    shape = [evaluate_dim(dim, hints) for dim in value.tensor_type.shape]
    dtype = value.tensor_type.dtype
    if dtype.is_floating:
        return torch.randn(shape, generator=generator).to(dtype.torch_dtype)
    return torch.randint(0, 2 if dtype is DType.BOOL else 4, shape, generator=generator).to(dtype.torch_dtype)


# building


@define
class _Builder:
    """A graph in the making, and the float values that the next op may read."""

    draw: st.DrawFn
    names: st.SearchStrategy[str]
    share: bool
    graph: Graph = field(factory=Graph)
    values: list[Value] = field(factory=list)
    degrees: dict[int, int] = field(factory=dict)  # by id of a value: how fast it grows with the inputs
    weights: dict[tuple[int, ...], Value] = field(factory=dict)
    rewriter: Rewriter = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rewriter = Rewriter(self.graph)
        self.graph.name = self.draw(self.names)

    def add_inputs(self, rank: int, with_literals: bool) -> None:
        extents = [self.draw(st.integers(1, 2)), self.draw(st.sampled_from([2, 4, 3, 1]))]
        extents += [self.draw(st.integers(3, 6)) for _ in range(rank - 2)]
        for _ in range(self.draw(st.integers(1, 2))):
            if with_literals and self.draw(st.booleans()):
                self.graph.add_input(self.draw(self.names), literal=self.draw(LITERALS))
            value = self.graph.add_input(self.draw(self.names), TensorType(DType.FLOAT32, extents)).value
            assert value is not None
            self.keep(value, 1)

    def add_node(self, table: dict[str, Callable[[_Builder, Value], None]]) -> None:
        """One op of `table` on a recent value; nothing when none of three draws fits it."""
        before = len(self.graph.nodes)
        for _ in range(3):
            value = self.draw(st.sampled_from(self.values[-4:][::-1]))
            table[self.draw(st.sampled_from(list(table)))](self, value)
            if len(self.graph.nodes) > before:
                return

    def add_outputs(self, with_dead_nodes: bool, with_literals: bool) -> None:
        unread = [v for v in self.values if v.node is not None and not v.uses] or self.values[-1:]
        returned = unread
        if with_dead_nodes:
            returned = self.draw(st.lists(st.sampled_from(self.values[::-1]), min_size=1, max_size=3))
        for value in returned:
            self.graph.add_output(value)
            if with_literals and self.draw(st.integers(0, 4)) == 4:
                self.graph.add_output(None, literal=self.draw(LITERALS))

    # for the ops

    def keep(self, value: Value, degree: int) -> None:
        self.values.append(value)
        self.degrees[id(value)] = degree

    def apply(self, op: str, operands: dict[str, Any], degree: int, keep: int = 99, **attributes: Any) -> Node:
        """Add `op`; its first `keep` results can be read from now on."""
        location = self.draw(LOCATIONS)
        attributes |= {name: None for name, value in operands.items() if value is None}  # some have no default
        node = self.rewriter.insert_before(
            None, op, operands, attributes, name=self.draw(self.names), location=location
        )
        for result in node.results[:keep]:
            if 0 not in result.tensor_type.shape:
                self.keep(result, degree)
        return node

    def weight(self, *shape: int) -> Value:
        """A parameter whose products keep the size of what it multiplies."""
        if self.share and shape in self.weights and self.draw(st.booleans()):
            return self.weights[shape]
        fan_in = max(1, torch.Size(shape[1:]).numel())
        self.weights[shape] = self._constant(torch.randn(shape, generator=self._generator()) / fan_in**0.5)
        return self.weights[shape]

    def buffer(self, tensor: torch.Tensor) -> Value:
        return self._constant(tensor, "buffer")

    def vector(self, size: int, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(size, generator=self._generator())

    def partner(self, value: Value) -> Value:
        """A value of the same type, perhaps the same."""
        return self.draw(st.sampled_from([v for v in self.values if v.type == value.type][::-1]))

    def degree(self, value: Value) -> int:
        return self.degrees[id(value)]

    def _constant(self, tensor: torch.Tensor, kind: str = "parameter") -> Value:
        name = self.draw(self.names)
        others = [self.draw(self.names)] if self.share and self.draw(st.integers(0, 4)) == 4 else []
        persistent = self.draw(st.integers(0, 4)) < 4
        taken = {name for constant in self.graph.constants.values() for name in constant.names}
        constant = self.graph.add_constant(name, tensor, kind, persistent=persistent)
        names = dict.fromkeys((constant.name, *others))
        constant.names = tuple(name for name in names if name not in taken)  # a name has one owner
        return constant.value

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.draw(st.integers(0, 1000)))


LITERALS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(codec=None), max_size=5)
)
_SCOPES = st.lists(st.builds(ModuleScope, PLAIN_NAMES, HOSTILE_NAMES), max_size=3).map(tuple)
_ORIGINS = st.builds(Origin, _SCOPES, HOSTILE_NAMES, st.integers(0, 99))
LOCATIONS = st.one_of(
    st.just(Location()),
    st.just(Location((Origin((ModuleScope("", "Model"), ModuleScope("body.0", "torch.nn.Conv2d")), "model.py", 7),))),
    st.lists(_ORIGINS, max_size=2, unique=True).map(lambda origins: Location(tuple(origins))),
)


# ops: each takes a value and adds what fits it, or nothing


def _convolution(b: _Builder, x: Value) -> None:
    _convolve(b, x, groups=1)


def _grouped_convolution(b: _Builder, x: Value) -> None:
    if len(_shape(x)) >= 3:
        channels = _shape(x)[1]
        _convolve(b, x, groups=b.draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0][::-1])))


def _convolve(b: _Builder, x: Value, groups: int) -> None:
    shape, spatial = _shape(x), len(_shape(x)) - 2
    if spatial not in (1, 2, 3):
        return
    kernel = b.draw(st.integers(1, min(3, *shape[2:])))
    outputs = groups * b.draw(st.integers(1, 3))
    weight = b.weight(outputs, shape[1] // groups, *[kernel] * spatial)
    operands = {"input": x, "weight": weight, "bias": _maybe_bias(b, outputs)}
    if b.draw(st.integers(0, 4)) == 4:
        b.apply(f"aten.conv{spatial}d.padding", operands, b.degree(x), padding="same", groups=groups)
        return
    dilation = b.draw(st.integers(1, 2)) if kernel > 1 else 1
    padding = b.draw(st.integers(0, 1)) + (dilation - 1) * kernel
    b.apply(
        f"aten.conv{spatial}d",
        operands,
        b.degree(x),
        stride=[b.draw(st.integers(1, 2))] * spatial,
        padding=[padding] * spatial,
        dilation=[dilation] * spatial,
        groups=groups,
    )


def _transposed_convolution(b: _Builder, x: Value) -> None:
    shape, spatial = _shape(x), len(_shape(x)) - 2
    if spatial not in (1, 2, 3) or max(shape[2:]) > 8:
        return
    groups = b.draw(st.sampled_from([g for g in (1, 2) if shape[1] % g == 0]))
    outputs = b.draw(st.integers(1, 2))
    kernel = b.draw(st.integers(2, 3))
    weight = b.weight(shape[1], outputs, *[kernel] * spatial)
    operands = {"input": x, "weight": weight, "bias": _maybe_bias(b, outputs * groups)}
    stride = [b.draw(st.integers(1, 2))] * spatial
    name = "aten.conv_transpose1d" if spatial == 1 else f"aten.conv_transpose{spatial}d.input"
    b.apply(name, operands, b.degree(x), stride=stride, padding=[kernel - 2] * spatial, groups=groups)


def _linear(b: _Builder, x: Value) -> None:
    outputs = b.draw(st.integers(1, 4))
    b.apply(
        "aten.linear",
        {"input": x, "weight": b.weight(outputs, _shape(x)[-1]), "bias": _maybe_bias(b, outputs)},
        b.degree(x),
    )


def _batch_norm(b: _Builder, x: Value) -> None:
    channels = _shape(x)[1]
    affine = b.draw(st.booleans())
    operands = {
        "input": x,
        "weight": b.buffer(b.vector(channels, -2, 2)) if affine else None,
        "bias": b.buffer(b.vector(channels, -1, 1)) if affine else None,
        "running_mean": b.buffer(b.vector(channels, -1, 1)),
        "running_var": b.buffer(b.vector(channels, 0.1, 3)),
    }
    settings = {"training": False, "momentum": 0.1, "eps": b.draw(st.sampled_from([1e-5, 1e-3])), "cudnn_enabled": True}
    b.apply("aten.batch_norm", operands, b.degree(x), **settings)


def _activation(b: _Builder, x: Value) -> None:
    names = ["relu", "sigmoid", "tanh", "gelu", "silu", "hardswish", "leaky_relu", "relu6", "abs", "neg"]
    name = b.draw(st.sampled_from(names))
    b.apply(f"aten.{name}", {"self": x}, b.degree(x))


def _clamp(b: _Builder, x: Value) -> None:
    b.apply("aten.clamp", {"self": x}, 0, min=-1.0, max=b.draw(st.sampled_from([0.5, 6.0])))


def _add(b: _Builder, x: Value) -> None:
    if b.draw(st.booleans()):
        y = b.partner(x)
        b.apply("aten.add.Tensor", {"self": x, "other": y}, max(b.degree(x), b.degree(y)))
    else:
        b.apply("aten.add.Tensor", {"self": x}, b.degree(x), other=b.draw(st.sampled_from([1, -0.5, 0])))


def _mul(b: _Builder, x: Value) -> None:
    y = b.partner(x)
    if b.degree(x) + b.degree(y) <= 3:
        b.apply("aten.mul.Tensor", {"self": x, "other": y}, b.degree(x) + b.degree(y))
    else:
        b.apply("aten.mul.Tensor", {"self": x}, b.degree(x), other=b.draw(st.sampled_from([0.5, -1.0, 1])))


def _cat(b: _Builder, x: Value) -> None:
    if _shape(x)[1] <= 12:
        y = b.partner(x)
        b.apply("aten.cat", {"tensors": [x, y]}, max(b.degree(x), b.degree(y)), dim=1)


def _split(b: _Builder, x: Value) -> None:
    if _shape(x)[1] > 1:
        size = b.draw(st.integers(1, _shape(x)[1] - 1))
        b.apply("aten.split.Tensor", {"self": x}, b.degree(x), split_size=size, dim=1)


def _max(b: _Builder, x: Value) -> None:
    b.apply("aten.max.dim", {"self": x}, b.degree(x), keep=1, dim=-1, keepdim=True)


def _mean(b: _Builder, x: Value) -> None:
    b.apply("aten.mean.dim", {"self": x}, b.degree(x), dim=[-1], keepdim=True)


def _reshape(b: _Builder, x: Value) -> None:
    shape = _shape(x)
    if len(shape) > 2 and b.draw(st.booleans()):
        b.apply("aten.flatten.using_ints", {"self": x}, b.degree(x), start_dim=1)
    elif shape[1] % 2 == 0 and len(shape) < 5:
        op = b.draw(st.sampled_from(["aten.view", "aten.reshape"])) if x.node is None else "aten.reshape"
        b.apply(op, {"self": x}, b.degree(x), **{_shape_name(op): [shape[0], shape[1] // 2, 2, *shape[2:]]})


def _shape_name(op: str) -> str:
    return "size" if op == "aten.view" else "shape"


def _transpose(b: _Builder, x: Value) -> None:
    b.apply("aten.transpose.int", {"self": x}, b.degree(x), dim0=1, dim1=-1)


def _pool(b: _Builder, x: Value) -> None:
    spatial = len(_shape(x)) - 2
    if spatial in (1, 2, 3) and min(_shape(x)[2:]) >= 2:
        name = b.draw(st.sampled_from([f"aten.max_pool{spatial}d", f"aten.avg_pool{spatial}d"]))
        b.apply(name, {"self": x}, b.degree(x), kernel_size=[2] * spatial, stride=[1] * spatial)


def _softmax(b: _Builder, x: Value) -> None:
    b.apply("aten.softmax.int", {"self": x}, 0, dim=-1)


OPS: dict[str, Callable[[_Builder, Value], None]] = {  # simple ones first: examples shrink towards them
    "activation": _activation,
    "convolution": _convolution,
    "batch_norm": _batch_norm,
    "linear": _linear,
    "add": _add,
    "mul": _mul,
    "cat": _cat,
    "split": _split,
    "grouped_convolution": _grouped_convolution,
    "transposed_convolution": _transposed_convolution,
    "clamp": _clamp,
    "max": _max,
    "mean": _mean,
    "pool": _pool,
    "reshape": _reshape,
    "softmax": _softmax,
    "transpose": _transpose,
}


def _shape(value: Value) -> tuple[int, ...]:
    shape = value.tensor_type.shape
    assert not any(isinstance(dim, SymDim) for dim in shape)
    return shape  # type: ignore[return-value]


def _maybe_bias(b: _Builder, size: int) -> Value | None:
    return b.buffer(b.vector(size, -1, 1)) if b.draw(st.booleans()) else None
