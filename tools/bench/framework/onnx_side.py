"""The workloads in onnx-ir and the rewriter of onnxscript."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx_ir.passes import PassManager, common
from onnxscript.rewriter import pattern

from graphpress.tools.bench.framework.workloads import INNER_OPS, Prepared, Program, program_of

PACKAGES = ("onnx", "onnx-ir", "onnxscript")
OPS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "add": "Add", "mul": "Mul", "cat": "Concat"}
FLOAT = ir.TensorType(ir.DataType.FLOAT)


def build(program: Program) -> Any:
    """Build a program; types are passed, because onnx-ir infers none while it builds."""
    source = ir.val("x", dtype=ir.DataType.FLOAT, shape=[8, 16])
    graph = ir.Graph([source], [], nodes=[], opset_imports={"": 20}, name="main")
    values = [source]
    for index, (name, places) in enumerate(program):
        rows = 8 * len(places) if name == "cat" else 8
        value = ir.Value(name=f"v{index}", type=FLOAT, shape=ir.Shape([rows, 16]))
        attributes = {"axis": 0} if name == "cat" else None
        graph.append(ir.node(OPS[name], [values[place] for place in places], attributes, outputs=[value]))
        values.append(value)
    graph.outputs.append(values[-1])
    return ir.Model(graph, ir_version=10)


def prepare(workload: str, nodes: int) -> Prepared | None:
    """Build what `workload` needs and return the call to time; None if it has no counterpart."""
    program = program_of(workload, nodes)
    if workload == "build":
        return lambda: build(program)
    model = build(program)
    if workload in ("always", "kept"):
        return lambda: _apply([_relu_of("Relu", keep=workload == "kept")], model)
    if workload == "never":
        return lambda: _apply([_relu_of("Tanh")], model)
    if workload == "never50":
        rules = [_relu_of(INNER_OPS[number % 5].capitalize()) for number in range(50)]
        return lambda: _apply(rules, model)
    if workload == "commutative4":  # with commute, a set holds each order as a rule: 256 of them at depth 8
        return lambda: _apply([_sum_of(4)], model, commute=True)
    if workload.startswith("wide"):
        tanh, source = model.graph.node(0).outputs[0], model.graph.inputs[0]
        return lambda: ir.convenience.replace_all_uses_with(tanh, source)
    if workload == "parse":
        text = ir.to_onnx_text(model)
        return lambda: ir.from_onnx_text(text)
    unused, equal = common.RemoveUnusedNodesPass(), common.CommonSubexpressionEliminationPass()
    calls: dict[str, Prepared] = {
        "clone": model.clone,
        "print": lambda: ir.to_onnx_text(model),
        "verify": lambda: common.CheckerPass()(model),
        "dce": lambda: len(unused(model).model.graph),
        "cse": lambda: len(equal(model).model.graph),
        "ten": lambda: len(PassManager([unused, equal] * 5)(model).model.graph),
    }
    return calls.get(workload)


def _relu_of(inner: str, *, keep: bool = False) -> Any:
    if inner == "Relu":
        return pattern.RewriteRule(lambda op, x: op.Relu(op.Relu(x)), lambda op, x: op.Relu(x), remove_nodes=not keep)
    return pattern.RewriteRule(lambda op, x: op.Relu(getattr(op, inner)(x)), lambda op, x: getattr(op, inner)(x))


def _sum_of(depth: int) -> Any:
    names = [f"y{level}" for level in range(depth)]
    source = f"lambda op, x, {', '.join(names)}: " + "op.Add(" * depth + "op.Tanh(x)"
    source += "".join(f", {name})" for name in names)
    target = f"lambda op, x, {', '.join(names)}: op.Tanh(x)"
    return pattern.RewriteRule(eval(source), eval(target))


def _apply(rules: list[Any], model: Any, *, commute: bool = False) -> int:
    pattern.RewriteRuleSet(rules, commute=commute).apply_to_model(model)
    return len(model.graph)
