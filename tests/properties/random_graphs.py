"""Random graphs of elementwise ops, full of what passes get wrong: shared values, equal twins, dead ends, swapped
operands, values returned from the middle."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from graphpress.ir.graph import Graph
from graphpress.passes.framework.testing import GraphBuilder

_UNARY = ["aten.relu", "aten.neg", "aten.tanh", "aten.abs"]
_BINARY = ["aten.add.Tensor", "aten.mul.Tensor", "aten.sub.Tensor", "aten.maximum"]


@st.composite
def elementwise_graphs(draw: st.DrawFn, largest: int = 12) -> Graph:
    """A valid graph of one input f32[2, 4]."""
    builder = GraphBuilder()
    values = [builder.input()]
    contents = draw(st.lists(st.sampled_from([0.0, 1.0, -2.5]), max_size=3))
    kind = draw(st.sampled_from(["literal", "parameter"]))
    values += [builder.constant(f"c{i}", torch.full((2, 4), c), kind) for i, c in enumerate(contents)]
    for _ in range(draw(st.integers(1, largest))):
        pick = st.sampled_from(values)
        if draw(st.booleans()):
            made = builder.op(draw(st.sampled_from(_UNARY)), draw(pick))
        else:
            op = draw(st.sampled_from(_BINARY))
            scale = {"alpha": draw(st.sampled_from([1, 2]))} if op in ("aten.add.Tensor", "aten.sub.Tensor") else {}
            made = builder.op(op, draw(pick), draw(pick), **scale)
        values.append(made)
    for value in draw(st.lists(st.sampled_from(values[1:]), min_size=1, max_size=3)):
        builder.graph.add_output(value)
    for constant in [c for c in builder.graph.constants.values() if not c.value.use_count]:
        builder.graph.erase_constant(constant)
    return builder.graph
