"""The workloads in graphpress."""

from __future__ import annotations

from typing import Any

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph
from graphpress.ir.ops import lookup_op
from graphpress.ir.rewriter import Rewriter
from graphpress.ir.text.parser import parse_graph
from graphpress.ir.types import TensorType
from graphpress.ir.verifier import verify
from graphpress.passes.framework import PassContext, Pipeline, Rule, Runner, apply_rules, rule
from graphpress.passes.framework.patterns import Any as Anything
from graphpress.passes.framework.patterns import Op
from graphpress.tools.bench.framework.workloads import INNER_OPS, Prepared, Program, program_of

PACKAGES = ("torch",)
TYPE = TensorType(DType.FLOAT32, (8, 16))
OPS = {name: f"aten.{name}" for name in ("relu", "sigmoid", "tanh", "cat")} | {
    "add": "aten.add.Tensor",
    "mul": "aten.mul.Tensor",
}


def build(program: Program) -> Graph:
    """Build a program through the rewriter, which infers the types."""
    graph = Graph()
    source = graph.add_input("x", TYPE).value
    assert source is not None
    rewriter, values = Rewriter(graph), [source]
    ops = {name: lookup_op(full) for name, full in OPS.items()}
    for name, places in program:
        operands: dict[str, Any]
        if name == "cat":
            operands = {"tensors": [values[place] for place in places]}
        else:
            operands = {key: values[place] for key, place in zip(("self", "other"), places, strict=False)}
        values.append(rewriter.insert_before(None, ops[name], operands).result)
    graph.add_output(values[-1])
    return graph


def prepare(workload: str, nodes: int) -> Prepared:
    """Build what `workload` needs and return the call to time."""
    program = program_of(workload, nodes)
    if workload == "build":
        return lambda: build(program)
    graph = build(program)
    if workload in ("always", "kept"):
        return lambda: _apply([_relu_of("aten.relu")], graph)
    if workload == "never":
        return lambda: _apply([_relu_of("aten.tanh")], graph)
    if workload == "never50":
        rules = [_relu_of(f"aten.{INNER_OPS[number % 5]}", number) for number in range(50)]
        return lambda: _apply(rules, graph)
    if workload.startswith("commutative"):
        rules = [_sum_of(int(workload[-1]))]
        return lambda: _apply(rules, graph)
    if workload.startswith("wide"):
        tanh = graph.nodes[0].result
        return lambda: graph.replace_uses(tanh, graph.inputs[0].value)  # type: ignore[arg-type]
    if workload == "parse":
        text = str(graph)
        return lambda: parse_graph(text)
    calls: dict[str, Prepared] = {
        "clone": graph.clone,
        "print": lambda: str(graph),
        "verify": lambda: verify(graph),
        "dce": lambda: _run("dce", graph, verified=False),
        "cse": lambda: _run("cse", graph, verified=False),
        "ten": lambda: _run(",".join(["dce,cse"] * 5), graph, verified=True),
    }
    return calls[workload]


def _relu_of(inner: str, number: int = 0) -> Rule:
    @rule(Op("aten.relu", Op(inner, Anything("x"), name="inner")), name=f"relu-of-{number}")
    def relu(match: Any, rewriter: Rewriter) -> Any:
        return match["inner"]

    return relu


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
