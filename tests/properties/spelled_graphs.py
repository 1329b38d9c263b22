"""Random chains of ops in the many spellings that torch has for one thing, and of ops that do nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st

from graphpress.ir.graph import Graph, Value
from graphpress.passes.framework.testing import GraphBuilder, f32


@st.composite
def spelled_graphs(draw: st.DrawFn, largest: int = 6) -> Graph:
    """A graph of one input f32[2, 4, 5, 5]: a chain of spellings; some values are read twice, one is returned early."""
    b = GraphBuilder()
    values = [b.input("x", f32[2, 4, 5, 5])]
    for _ in range(draw(st.integers(1, largest))):
        source = draw(st.sampled_from(values[-2:][::-1]))
        spelling = draw(st.sampled_from(SPELLINGS))
        made = spelling(draw, b, source)
        if made is not None:
            values.append(made)
    for value in draw(st.lists(st.sampled_from(values[1:] or values), max_size=1)):
        b.graph.add_output(value)
    return b.outputs(values[-1])


def _random(draw: st.DrawFn, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 20)))) / 3


def _dropout(draw: st.DrawFn, b: GraphBuilder, x: Value) -> Value:
    """In training everything is dropped, so that leaving it out shows."""
    op = draw(st.sampled_from(["aten.dropout", "aten.feature_dropout"]))
    return b.op(op, x, 1.0, draw(st.booleans()))


def _identity(draw: st.DrawFn, b: GraphBuilder, x: Value) -> Value | None:
    shape = tuple(x.tensor_type.shape)
    options: list[tuple[object, ...]] = [
        ("aten.reshape", x, shape),
        ("aten.expand", x, shape),
        ("aten.alias", x),
        ("aten.contiguous", b.aten.transpose.int(x, 0, -1)),
        ("aten.clone", x),
        ("aten.contiguous", x),
        ("aten.mul.Tensor", x, draw(st.sampled_from([1, 1.0, 2, -1.0]))),
        ("aten.div.Tensor", x, draw(st.sampled_from([1, 3.0]))),
        ("aten.add.Tensor", x, draw(st.sampled_from([0, 0.0, -0.0, 1]))),
        (
            "aten.slice.Tensor",
            x,
            x.tensor_type.rank - 1,
            draw(st.sampled_from([0, 1])),
            2**63 - 1,
            draw(st.sampled_from([1, 2])),
        ),
        ("aten.slice.Tensor", x, 0, draw(st.sampled_from([0, -1, -2])), draw(st.sampled_from([1, 2, 2**63 - 1]))),
        ("aten.squeeze.dim", x, x.tensor_type.rank - 1),
        ("aten.flatten.using_ints", x, -1),
        ("aten.transpose.int", x, 0, draw(st.sampled_from([0, 1]))),
    ]
    op, *arguments = draw(st.sampled_from(options))
    return b.op(str(op), *arguments)


def _view(draw: st.DrawFn, b: GraphBuilder, x: Value) -> Value:
    """A view of a copy: without the copy, only a reshape works."""
    turned = b.aten.clone(b.aten.transpose.int(x, 0, -1), memory_format=torch.contiguous_format)
    return b.aten.view(turned, (-1, turned.tensor_type.shape[-1]))


def _rounding(draw: st.DrawFn, b: GraphBuilder, x: Value) -> Value:
    return b.aten.div.Tensor_mode(x, 1, rounding_mode=draw(st.sampled_from([None, "floor", "trunc"])))


def _split(draw: st.DrawFn, b: GraphBuilder, x: Value) -> Value | None:
    axis = draw(st.sampled_from([0, 1]))
    extent = x.tensor_type.shape[axis]
    return b.node("aten.split.Tensor", x, draw(st.sampled_from([extent, 1])), axis).results[0]


def _convolution(draw: st.DrawFn, b: GraphBuilder, x: Value) -> Value | None:
    if x.tensor_type.rank != 4 or min(x.tensor_type.shape[2:]) < 3:  # type: ignore[type-var]
        return None
    channels = x.tensor_type.shape[1]
    groups = draw(st.sampled_from([1, channels]))
    weight = b.constant("weight", _random(draw, channels, channels // groups, 3, 3))
    bias = b.constant("bias", _random(draw, channels)) if draw(st.booleans()) else None
    kind = draw(st.sampled_from(["same", "valid", "general", "transposed"]))
    if kind in ("same", "valid"):
        return b.aten.conv2d.padding(x, weight, bias, (1, 1), kind, (1, 1), groups)
    transposed = kind == "transposed"
    stride = draw(st.sampled_from([1, 2]))
    more = stride - 1 if transposed else 0
    settings = [(stride, stride), (1, 1), (1, 1), transposed, (more, more), groups]
    return b.aten.convolution(x, weight, bias, *settings)


def _batch_norm(draw: st.DrawFn, b: GraphBuilder, x: Value) -> Value | None:
    if x.tensor_type.rank < 2:
        return None
    channels = x.tensor_type.shape[1]
    parameters = [b.constant(name, _random(draw, channels), "buffer") for name in ("gamma", "beta", "mean")]
    parameters.append(b.constant("var", _random(draw, channels).abs() + 0.2, "buffer"))
    eps = draw(st.sampled_from([1e-5, 1e-2]))
    op, extra = draw(
        st.sampled_from(
            [
                ("aten._native_batch_norm_legit_no_training", [0.1, eps]),
                ("aten.native_batch_norm", [False, 0.1, eps]),
            ]
        )
    )
    return b.node(op, x, *parameters, *extra).results[0]


def _addmm(draw: st.DrawFn, b: GraphBuilder, x: Value) -> Value | None:
    rows = b.aten.reshape(x, (-1, x.tensor_type.shape[-1]))
    columns = rows.tensor_type.shape[-1]
    turned = draw(st.sampled_from(["t", "transpose", "permute", "whole"]))
    weight = b.constant("matrix", _random(draw, *((columns, 3) if turned == "whole" else (3, columns))))
    bias = b.constant("bias", _random(draw, 3))
    if turned == "whole":
        other = weight
    elif turned == "t":
        other = b.aten.t(weight)
    elif turned == "permute":
        other = b.aten.permute(weight, (1, 0))
    else:
        other = b.aten.transpose.int(weight, 0, 1)
    scales = {"beta": draw(st.sampled_from([1, 2])), "alpha": draw(st.sampled_from([1, 0.5]))}
    return b.aten.addmm(bias, rows, other, **scales)


SPELLINGS: tuple[Callable[[st.DrawFn, GraphBuilder, Value], Value | None], ...] = (
    _identity,
    _dropout,
    _rounding,
    _view,
    _split,
    _convolution,
    _batch_norm,
    _addmm,
)
