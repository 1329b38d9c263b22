"""The workloads in onnx-ir and the rewriter of onnxscript."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import onnx_ir as ir
from onnx_ir.passes import PassManager, common
from onnxscript.rewriter import pattern

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

PACKAGES = ("onnx", "onnx-ir", "onnxscript")
OPS = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "add": "Add",
    "mul": "Mul",
    "cat": "Concat",
    "conv": "Conv",
    "norm": "BatchNormalization",
}
ATTRIBUTES = {"cat": {"axis": 0}, "norm": {"epsilon": EPS}}
FLOAT = ir.TensorType(ir.DataType.FLOAT)


def build(program: Program) -> Any:
    """Build a program; types are passed, because onnx-ir infers none while it builds."""
    shape = IMAGES if reads_images(program) else MATRIX
    source = ir.val("x", dtype=ir.DataType.FLOAT, shape=shape)
    graph = ir.Graph([source], [], nodes=[], opset_imports={"": 20}, name="main")
    values = [source]
    for index, (name, places) in enumerate(program):
        dims = (shape[0] * len(places), *shape[1:]) if name == "cat" else shape
        value = ir.Value(name=f"v{index}", type=FLOAT, shape=ir.Shape(dims))
        read = [*(values[place] for place in places), *_constants(graph, name)]
        graph.append(ir.node(OPS[name], read, ATTRIBUTES.get(name), outputs=[value]))
        values.append(value)
    graph.outputs.append(values[-1])
    return ir.Model(graph, ir_version=10)


def _constants(graph: Any, name: str) -> list[Any]:
    data = {"conv": [_WEIGHT], "norm": [_PER_CHANNEL for _ in NORM_CONSTANTS]}.get(name, [])
    made = [ir.val(f"c{len(graph.initializers) + place}", const_value=tensor) for place, tensor in enumerate(data)]
    for value in made:
        graph.register_initializer(value)
    return made


_WEIGHT, _PER_CHANNEL = (ir.tensor(np.ones(shape, np.float32)) for shape in (CONV_WEIGHT, NORM_SHAPE))


def prepare(workload: str, nodes: int) -> Prepared | None:
    """Build what `workload` needs and return the call to time; None if it has no counterpart."""
    program = program_of(workload, nodes)
    if workload == "build":
        return lambda: build(program)
    model = build(program)
    if workload in ("always", "kept"):
        return lambda: _apply([_relu_of("Relu", keep=workload == "kept")], model)
    if workload == "fold":
        return lambda: _apply([_conv_norm()], model)
    if workload == "never":
        return lambda: _apply([_relu_of("Tanh")], model)
    if workload == "never50":
        rules = [_relu_of(INNER_OPS[number % 5].capitalize()) for number in range(50)]
        return lambda: _apply(rules, model)
    if workload == "commutative4":  # with commute, a set holds each order as a rule: 256 of them at depth 8
        return lambda: _apply([_sum_of(4)], model, commute=True)
    if workload in ("wide uses", "wide node"):
        tanh, source = model.graph.node(0).outputs[0], model.graph.inputs[0]
        return lambda: ir.convenience.replace_all_uses_with(tanh, source)
    if workload.startswith("parse"):
        text = ir.to_onnx_text(model)
        return lambda: ir.from_onnx_text(text) if workload == "parse" else onnx.parser.parse_model(text)
    unused, equal = common.RemoveUnusedNodesPass(), common.CommonSubexpressionEliminationPass()
    calls: dict[str, Prepared] = {
        "clone": model.clone,
        "print": lambda: ir.to_onnx_text(model),
        "verify": lambda: common.CheckerPass()(model),
        "dce": lambda: len(unused(model).model.graph),
        "cse": lambda: len(equal(model).model.graph),
        "wide cse": lambda: len(equal(model).model.graph),
        "ten": lambda: len(PassManager([unused, equal] * 5)(model).model.graph),
    }
    return calls.get(workload)


def _relu_of(inner: str, *, keep: bool = False) -> Any:
    if inner == "Relu":
        return pattern.RewriteRule(lambda op, x: op.Relu(op.Relu(x)), lambda op, x: op.Relu(x), remove_nodes=not keep)
    return pattern.RewriteRule(lambda op, x: op.Relu(getattr(op, inner)(x)), lambda op, x: getattr(op, inner)(x))


def _conv_norm() -> Any:
    """A rule that replaces a norm of a convolution by a convolution with the bias of the norm.

    As nodes are removed, a match requires that nothing else reads the convolution.
    """

    def check(context: Any, weight: Any, scale: Any, bias: Any, mean: Any, var: Any, **_: Any) -> bool:
        constants = (weight, scale, bias, mean, var)
        return all(value.is_initializer() and value.const_value is not None for value in constants)

    return pattern.RewriteRule(
        lambda op, x, weight, scale, bias, mean, var: op.BatchNormalization(op.Conv(x, weight), scale, bias, mean, var),
        lambda op, x, weight, bias, **_: op.Conv(x, weight, bias),
        check,
    )


def _sum_of(depth: int) -> Any:
    names = [f"y{level}" for level in range(depth)]
    source = f"lambda op, x, {', '.join(names)}: " + "op.Add(" * depth + "op.Tanh(x)"
    source += "".join(f", {name})" for name in names)
    target = f"lambda op, x, {', '.join(names)}: op.Tanh(x)"
    return pattern.RewriteRule(eval(source), eval(target))


def _apply(rules: list[Any], model: Any, *, commute: bool = False) -> int:
    pattern.RewriteRuleSet(rules, commute=commute).apply_to_model(model)
    return len(model.graph)
