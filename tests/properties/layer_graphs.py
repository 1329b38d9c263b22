"""Random graphs of layers and batch norms, in every relation that folding must get right or leave alone."""

from __future__ import annotations

from typing import Any

import torch
from attrs import define, field
from hypothesis import strategies as st

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Value
from graphpress.ir.types import TensorType
from graphpress.passes.framework.testing import GraphBuilder, f32

STORED_FORMS = (
    "dense",
    "int8_scalar",
    "int8_per_tensor",
    "int8_per_channel",
    "int8_blocks",
    "int8_cast",
    "uint4_zero_point",
    "uint4_minval",
    "table",
    "table_per_channel",
    "int8_table",
    "int8_table_per_channel",
    "sparse",
)


@st.composite
def layer_graphs(draw: st.DrawFn, largest: int = 3, forms: tuple[str, ...] = ("dense",)) -> Graph:
    """A valid graph of one float32 input: up to `largest` layers with norms before, after, and beside them.

    Weights are stored in one of `forms`; some are shared. Some variances are zero, some norms have no parameters.
    Values are read twice, returned from the middle, or never read.
    """
    b = LayerBuilder(draw)
    values = [b.start()]
    for _ in range(draw(st.integers(1, largest))):
        source = draw(st.sampled_from(values[-2:][::-1]))
        if draw(st.integers(0, 3)) == 3:
            source = b.norm(source)
            values.append(source)
        made = b.layer(source, draw(st.sampled_from(forms)))
        values.append(made)
        for _ in range(draw(st.integers(0, 2))):  # norms in a row, or side by side
            values.append(b.norm(draw(st.sampled_from([values[-1], values[-1], made]))))
        if draw(st.booleans()):
            values.append(b.unary(values[-1]))
    returned = draw(st.lists(st.sampled_from(values[1:]), max_size=1))
    return b.graph.outputs(values[-1], *returned)


@define(eq=False)
class LayerBuilder:
    """Adds layers and norms with drawn properties."""

    draw: st.DrawFn
    graph: GraphBuilder = field(factory=GraphBuilder)
    weights: dict[Any, Value] = field(factory=dict)

    def start(self) -> Value:
        spatial = self.draw(st.sampled_from([2, 1, 3, 0]))
        return self.graph.input("x", f32[2, self.draw(st.sampled_from([4, 2])), *[4] * spatial])

    def layer(self, x: Value, form: str) -> Value:
        """A convolution of any kind; linear layers for values without spatial axes, and sometimes for others."""
        spatial = x.tensor_type.rank - 2
        bias = self.draw(st.booleans())
        if spatial == 0 or (spatial == 1 and self.draw(st.integers(0, 2)) == 2):
            outputs = self.draw(st.sampled_from([2, 4]))
            weight = self.weight((outputs, _shape(x)[-1]), 0, form)
            return self.graph.aten.linear(x, weight, *self._bias(outputs, bias))
        channels = _shape(x)[1]
        groups = self.draw(st.sampled_from([1, 2])) if channels % 2 == 0 else 1
        kernel = self.draw(st.sampled_from([1, 3, 2])) if min(_shape(x)[2:]) >= 3 else 1
        outputs = groups * self.draw(st.sampled_from([1, 2]))
        common = {"stride": [self.draw(st.sampled_from([1, 2]))] * spatial, "groups": groups}
        common["padding"] = [self.draw(st.integers(0, kernel // 2))] * spatial
        if self.draw(st.integers(0, 3)) == 3:
            weight = self.weight((channels, outputs // groups, *[kernel] * spatial), 1, form)
            op = f"aten.conv_transpose{spatial}d" + (".input" if spatial > 1 else "")
        else:
            weight = self.weight((outputs, channels // groups, *[kernel] * spatial), 0, form)
            op = f"aten.conv{spatial}d"
        return self.graph.op(op, x, weight, *self._bias(outputs, bias), **common)

    def _bias(self, outputs: int, present: bool) -> list[Value]:
        return [self.graph.constant("bias", self._random(outputs))] if present else []

    def norm(self, x: Value) -> Value:
        channels = _shape(x)[1]
        variance = torch.rand(channels, generator=self._generator()) + 0.1
        variance[0] *= self.draw(st.sampled_from([1.0, 0.0]))
        gain = self._random(channels)
        gain[-1] *= self.draw(st.sampled_from([1.0, 0.0]))
        affine = self.draw(st.booleans())
        parameters = {
            "weight": self.graph.constant("gamma", gain) if affine else None,
            "bias": self.graph.constant("beta", self._random(channels)) if affine else None,
            "running_mean": self.graph.constant("mean", self._random(channels), "buffer"),
            "running_var": self.graph.constant("var", variance, "buffer"),
        }
        eps = self.draw(st.sampled_from([1e-3, 1e-2]))
        return batch_norm(self.graph, x, eps=eps, **parameters)

    def unary(self, x: Value) -> Value:
        return self.graph.op(self.draw(st.sampled_from(["aten.relu", "aten.neg"])), x)

    def weight(self, shape: tuple[int, ...], out_axis: int, form: str) -> Value:
        key = (shape, out_axis, form)
        if key not in self.weights or not self.draw(st.booleans()):
            fan_in = max(1, torch.Size(shape[1:]).numel())
            self.weights[key] = stored_weight(self.graph, self._random(*shape) / fan_in**0.5, out_axis, form)
        return self.weights[key]

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator())

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.draw(st.integers(0, 99)))


def batch_norm(
    b: GraphBuilder,
    x: Value,
    *,
    weight: Value | None = None,
    bias: Value | None = None,
    running_mean: Value | None = None,
    running_var: Value | None = None,
    training: bool = False,
    eps: float = 1e-3,
) -> Value:
    """A batch norm of `x`, without the parameters that are None."""
    return b.aten.batch_norm(x, weight, bias, running_mean, running_var, training, 0.1, eps, True)


def stored_weight(b: GraphBuilder, dense: torch.Tensor, out_axis: int, form: str) -> Value:
    """`dense`, or something like it, as the result of the ops that its stored `form` needs."""
    if form == "dense":
        return b.constant("weight", dense)
    if form == "sparse":
        mask = dense > 0
        mask.view(-1)[0] = True
        stored = [b.constant("values", dense[mask], "buffer"), b.constant("mask", mask, "buffer")]
        return b.quant.sparse_to_dense(*stored)
    if "table" in form:
        return _table(b, dense, out_axis, form)
    return _codes(b, dense, out_axis, form)


def _codes(b: GraphBuilder, dense: torch.Tensor, out_axis: int, form: str) -> Value:
    rank = dense.ndim
    shape = [1] * rank
    if form in ("int8_per_channel", "uint4_minval", "int8_blocks"):
        shape[out_axis] = dense.shape[out_axis]
    if form == "int8_blocks" and dense.shape[1 - out_axis] % 2 == 0:
        shape[1 - out_axis] = 2
    scale = (torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape) / 64).float()
    if form == "int8_scalar":
        scale = scale.reshape(())
    dtype = DType.UINT4 if form.startswith("uint4") else DType.INT8
    largest = 15 if dtype is DType.UINT4 else 127
    codes = (dense * 20).round().clamp(0 if dtype is DType.UINT4 else -128, largest)
    zero_point = minval = None
    if form == "uint4_zero_point":
        zero_point = b.constant("zero_point", torch.full(shape, 7.0), "buffer")
    if form == "uint4_minval":
        minval = b.constant("minval", -scale * 8, "buffer")
    stored = [codes_constant(b, "codes", codes, dtype), b.constant("scale", scale, "buffer")]
    expanded = DType.FLOAT64 if form == "int8_cast" else DType.FLOAT32
    made = b.quant.blockwise_shift_scale(*stored, zero_point, minval, dtype=dtype, output_dtype=expanded)
    return made if expanded is DType.FLOAT32 else b.aten.to.dtype(made, dtype=DType.FLOAT32)


def _table(b: GraphBuilder, dense: torch.Tensor, out_axis: int, form: str) -> Value:
    shape = [1] * dense.ndim
    if form.endswith("per_channel"):
        shape[out_axis] = dense.shape[out_axis]
    indices = (dense.abs() * 40).round().to(torch.uint8) % 4
    lut = torch.tensor([-0.75, -0.25, 0.125, 0.5]).reshape(4, 1).expand(*shape, 4, 1)
    lut = lut * torch.arange(1, 1 + torch.Size(shape).numel()).reshape(*shape, 1, 1)
    stored = codes_constant(b, "indices", indices, DType.UINT2)
    if not form.startswith("int8"):
        return b.quant.lut_to_dense(stored, b.constant("lut", lut.contiguous(), "buffer"))
    table = codes_constant(b, "lut", (lut * 16).round(), DType.INT8)
    dense_codes = b.quant.lut_to_dense(stored, table)
    scale = b.constant("scale", torch.full([1] * dense.ndim, 1 / 16), "buffer")
    return b.quant.blockwise_shift_scale(dense_codes, scale, dtype=DType.INT8)


def codes_constant(b: GraphBuilder, name: str, codes: torch.Tensor, dtype: DType) -> Value:
    """A buffer of codes of element type `dtype`, in the container torch has for it."""
    held = codes.to(dtype.torch_dtype)
    return b.constant(name, held, "buffer", type=TensorType(dtype, held.shape))


def _shape(value: Value) -> tuple[int, ...]:
    return value.tensor_type.shape  # type: ignore[return-value]


def with_own_names(graph: Graph) -> Graph:
    """`graph`, its constants renamed so that none has a qualified name of another."""
    for constant in graph.constants.values():
        constant.names = tuple(f"{constant.name}.{i}" for i, _ in enumerate(constant.names))
    return graph
