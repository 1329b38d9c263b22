"""The workloads in graphpress."""

from __future__ import annotations

from typing import Any

import torch

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Value
from graphpress.ir.ops import lookup_op
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.text.parser import parse_graph
from graphpress.ir.types import TensorType
from graphpress.ir.verifier import verify
from graphpress.passes.framework import PassContext, Pipeline, Rule, Runner, apply_rules, rule
from graphpress.passes.framework.patterns import Any as Anything
from graphpress.passes.framework.patterns import Constant, Op
from graphpress.tools.bench.framework.workloads import (
    CONV_WEIGHT,
    EPS,
    IMAGES,
    INNER_OPS,
    MATRIX,
    NORM_CONSTANTS,
    NORM_SHAPE,
    Prepared,
    Program,
    program_of,
    reads_images,
)

PACKAGES = ("torch",)
NORM_ATTRIBUTES = {"training": False, "momentum": 0.1, "eps": EPS, "cudnn_enabled": False}
OPS = {name: f"aten.{name}" for name in ("relu", "sigmoid", "tanh", "cat")} | {
    "add": "aten.add.Tensor",
    "mul": "aten.mul.Tensor",
    "conv": "aten.conv2d",
    "norm": "aten.batch_norm",
}


def build(program: Program) -> Graph:
    """Build a program through the rewriter, which infers the types."""
    graph = Graph()
    shape = IMAGES if reads_images(program) else MATRIX
    source = graph.add_input("x", TensorType(DType.FLOAT32, shape)).value
    assert source is not None
    rewriter, values = Rewriter(graph), [source]
    ops = {name: lookup_op(full) for name, full in OPS.items()}
    for name, places in program:
        operands: dict[str, Any]
        if name == "cat":
            operands = {"tensors": [values[place] for place in places]}
        elif name in ("conv", "norm"):
            operands = {"input": values[places[0]]} | _constants(graph, name)
        else:
            operands = {key: values[place] for key, place in zip(("self", "other"), places, strict=False)}
        attributes = NORM_ATTRIBUTES if name == "norm" else None
        values.append(rewriter.insert_before(None, ops[name], operands, attributes).result)
    graph.add_output(values[-1])
    return graph


def _constants(graph: Graph, name: str) -> dict[str, Value]:
    if name == "conv":
        return {"weight": graph.add_constant(f"c{len(graph.constants)}", _WEIGHT).value}
    at = len(graph.constants)
    return {
        key: graph.add_constant(f"c{at + place}", _PER_CHANNEL, "buffer").value
        for place, key in enumerate(NORM_CONSTANTS)
    }


_WEIGHT, _PER_CHANNEL = torch.ones(CONV_WEIGHT), torch.ones(NORM_SHAPE)


def prepare(workload: str, nodes: int) -> Prepared:
    """Build what `workload` needs and return the call to time."""
    program = program_of(workload, nodes)
    if workload == "build":
        return lambda: build(program)
    graph = build(program)
    if workload in ("always", "kept"):
        return lambda: _apply([_relu_of("aten.relu")], graph)
    if workload == "fold":
        return lambda: _apply([_conv_norm], graph)
    if workload == "never":
        return lambda: _apply([_relu_of("aten.tanh")], graph)
    if workload == "never50":
        rules = [_relu_of(f"aten.{INNER_OPS[number % 5]}", number) for number in range(50)]
        return lambda: _apply(rules, graph)
    if workload.startswith("commutative"):
        rules = [_sum_of(int(workload[-1]))]
        return lambda: _apply(rules, graph)
    if workload in ("wide uses", "wide node"):
        tanh = graph.nodes[0].result
        return lambda: graph.replace_uses(tanh, graph.inputs[0].value)  # type: ignore[arg-type]
    if workload.startswith("parse"):
        text = str(graph)
        return lambda: parse_graph(text)
    calls: dict[str, Prepared] = {
        "clone": graph.clone,
        "print": lambda: str(graph),
        "verify": lambda: verify(graph),
        "dce": lambda: _run("dce", graph, verified=False),
        "cse": lambda: _run("cse", graph, verified=False),
        "wide cse": lambda: _run("cse", graph, verified=False),
        "ten": lambda: _run(",".join(["dce,cse"] * 5), graph, verified=True),
    }
    return calls[workload]


def _relu_of(inner: str, number: int = 0) -> Rule:
    @rule(Op("aten.relu", Op(inner, Anything("x"), name="inner")), name=f"relu-of-{number}")
    def relu(match: Any, rewriter: Rewriter) -> Any:
        return match["inner"]

    return relu


@rule(
    Op(
        "aten.batch_norm",
        Op("aten.conv2d", Anything("x"), Constant("weight"), single_use=True),
        Constant(),
        Constant("bias"),
        Constant(),
        Constant(),
        training=False,
    )
)
def _conv_norm(match: Any, rewriter: Rewriter) -> Any:
    operands = {"input": match["x"], "weight": match["weight"], "bias": match["bias"]}
    return rewriter.insert_before(match.root, "aten.conv2d", operands)


def _sum_of(depth: int) -> Rule:
    pattern: Any = Op("aten.tanh", Anything("x"), name="leaf")
    for level in range(depth):
        pattern = Op("aten.add.Tensor", pattern, Anything(f"y{level}"))

    @rule(pattern, name="sum")
    def sums(match: Any, rewriter: Rewriter) -> Any:
        return match["leaf"]

    return sums


def _apply(rules: list[Rule], graph: Graph) -> int:
    apply_rules(rules, graph, Rewriter(graph), PassContext("bench#1"))
    return len(graph.nodes)


def _run(pipeline: str, graph: Graph, *, verified: bool) -> int:
    return len(Runner(verify=verified).run(graph, Pipeline.parse(pipeline), in_place=True).graph.nodes)
