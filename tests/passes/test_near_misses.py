"""Each constraint of each built-in rule has a reason when it fails, and the compiled matcher rejects what has one."""

from __future__ import annotations

import pytest

from graphpress.ir.graph import Graph, Node
from graphpress.ir.text.parser import parse_graph
from graphpress.passes.framework import Match, Miss, explain
from graphpress.passes.framework.rewrite_pass import registered_rules

X, Z = "input %x: f32[2, 4]", "input %z: f32[2, 4]"
IMAGE, KERNEL = "input %x: f32[1, 2, 8, 8]", "input %w: f32[2, 2, 3, 3]"
STATISTICS = "input %m: f32[2]"
NATIVE = "aten.native_batch_norm(input=%x, weight=%m, bias=%m, running_mean=%m, running_var=%m)"
PARTS = "(f32[1, 2, 8, 8], f32[2], f32[2])"
DROPOUT = "%d: f32[2, 4] = aten.dropout(input=%x) {p=0.5, train=false}"
NORM = (
    "%y: f32[2, 4] = aten.batch_norm(input=%d, weight=none, bias=none, running_mean=none, running_var=none) "
    "{training=true, momentum=0.1, eps=1e-05, cudnn_enabled=false}"
)
LINEAR = ("input %b: f32[3]", "input %x: f32[2, 4]", "input %w: f32[3, 4]", "%t: f32[4, 3] = aten.t(self=%w)")
ADDMM = "%y: f32[2, 3] = aten.addmm(self=%b, mat1=%x, mat2=%t)"


def _convolution(shape: str) -> tuple[str, ...]:
    options = "{stride=[1], padding=[0], dilation=[1], transposed=false, output_padding=[0], groups=1}"
    return (
        f"input %x: f32[{shape}]",
        "input %w: f32[1]",
        f"%y: f32[1] = aten.convolution(input=%x, weight=%w, bias=none) {options}",
    )


def _padded(padding: str, kernel: int) -> tuple[str, ...]:
    weight = f"input %w: f32[2, 2, {kernel}, {kernel}]"
    return IMAGE, weight, f'%y: f32[1] = aten.conv2d.padding(input=%x, weight=%w) {{padding="{padding}"}}'


def _product(factor: str, kind: str = "f32", result: str = "f32", op: str = "mul", more: str = "") -> tuple[str, ...]:
    return f"input %x: {kind}[2, 4]", f"%y: {result}[2, 4] = aten.{op}(self=%x, other={factor}){more}"


SIGMOID = "%s: f32[2, 4] = aten.sigmoid(self=%x)"
SILU = "%y: f32[2, 4] = aten.mul.Tensor(self=%x, other=%s)"
RELU = "%y: f32[2, 4] = aten.relu(self=%d)"
Lines = tuple[str, ...]

# For each rule: a graph that it matches at %y, and for each constraint one that lacks it, with the reason.
CASES: dict[str, tuple[Lines, dict[str, Lines]]] = {
    "view-to-reshape": ((X, "%y: f32[8] = aten.view(self=%x) {size=[8]}"), {}),
    "drop-reshape": (
        (X, "%y: f32[2, 4] = aten.reshape(self=%x) {shape=[2, 4]}"),
        {
            "reshape: expected one result of the type of `self`, found f32[8] made of f32[2, 4]": (
                X,
                "%y: f32[8] = aten.reshape(self=%x) {shape=[8]}",
            )
        },
    ),
    "drop-slice": (
        (X, "%y: f32[2, 4] = aten.slice.Tensor(self=%x)"),
        {
            "slice.step: expected 1, found 2": (X, "%y: f32[1, 4] = aten.slice.Tensor(self=%x) {step=2}"),
            "slice: expected start 0": (X, "%y: f32[2, 4] = aten.slice.Tensor(self=%x) {start=1}"),
            "slice: expected one result of the type of `self`": (
                X,
                "%y: f32[1, 4] = aten.slice.Tensor(self=%x) {end=1}",
            ),
        },
    ),
    "drop-copy": (
        (X, "%y: f32[2, 4] = aten.clone(self=%x)"),
        {
            "_to_copy: expected one result of the type of `self`, found f16[2, 4] made of f32[2, 4]": (
                X,
                "%y: f16[2, 4] = aten._to_copy(self=%x) {dtype=f16}",
            ),
            "clone: expected a graph where no op reads strides, found v (aten.view_as_real)": (
                X,
                "input %c: c64[2]",
                "%v: f32[2, 2] = aten.view_as_real(self=%c)",
                "%y: f32[2, 4] = aten.clone(self=%x)",
            ),
        },
    ),
    "drop-split": (
        (X, "%y: (f32[2, 4]) = aten.split.Tensor(self=%x) {split_size=2}"),
        {
            "split: expected one result of the type of `self`, found f32[1, 4], f32[1, 4] made of f32[2, 4]": (
                X,
                "%y: (f32[1, 4], f32[1, 4]) = aten.split.Tensor(self=%x) {split_size=1}",
            )
        },
    ),
    "drop-multiplication-by-one": (
        _product("1", op="mul.Tensor"),
        {
            "mul.other: expected 1, found 2": _product("2", op="mul.Tensor"),
            "mul: expected one result of the type of `self`": _product("1", "i64", op="mul.Tensor"),
        },
    ),
    "drop-division-by-one": (
        _product("1", op="div.Tensor"),
        {
            "div.other: expected 1, found 2": _product("2", op="div.Tensor"),
            "div: expected one result of the type of `self`": _product("1", "i64", op="div.Tensor"),
            "div: expected a division that does not round, found rounding_mode='floor'": _product(
                "1", op="div.Tensor_mode", more=' {rounding_mode="floor"}'
            ),
        },
    ),
    "fuse-silu": (
        (X, SIGMOID, SILU),
        {
            "mul.other: expected aten.sigmoid, found aten.tanh": (X, "%s: f32[2, 4] = aten.tanh(self=%x)", SILU),
            "mul.other.self: expected input x: f32[2, 4], already captured as 'x', found input z: f32[2, 4]": (
                X,
                Z,
                SIGMOID.replace("%x", "%z"),
                SILU,
            ),
            "mul.other: expected": (X, SIGMOID, SILU, "%more: f32[2, 4] = aten.relu(self=%s)"),
            "mul: expected factors of its own type": (X.replace("f32", "i64"), SIGMOID, SILU),
        },
    ),
    "drop-dropout": (
        (X, DROPOUT.replace("%d", "%y")),
        {"dropout.train: expected False": (X, DROPOUT.replace("%d", "%y").replace("false", "true"))},
    ),
    "drop-dropout-before-norm": (
        (X, DROPOUT.replace("%d", "%y"), NORM.replace("%y", "%n").replace("%d", "%y")),
        {
            "dropout.train: expected False": (X, DROPOUT.replace("%d", "%y").replace("false", "true")),
            "dropout: expected to be read by a batch norm alone, found r (aten.relu)": (
                X,
                DROPOUT.replace("%d", "%y"),
                "%r: f32[2, 4] = aten.relu(self=%y)",
            ),
        },
    ),
    "move-dropout-behind-relu": (
        (X, DROPOUT, RELU),
        {
            "relu.self: expected aten.dropout or aten.feature_dropout, found aten.tanh": (
                X,
                "%d: f32[2, 4] = aten.tanh(self=%x)",
                RELU,
            ),
            "relu.self.train: expected False": (X, DROPOUT.replace("false", "true"), RELU),
            "relu.self: expected": (X, DROPOUT, RELU, "%more: f32[2, 4] = aten.tanh(self=%d)"),
        },
    ),
    "native-norm-to-batch-norm": (
        (IMAGE, STATISTICS, f"%y: {PARTS} = {NATIVE} {{training=false, momentum=0.1, eps=1e-05}}"),
        {
            "native_batch_norm: expected a norm in evaluation, found training=True": (
                IMAGE,
                STATISTICS,
                f"%y: {PARTS} = {NATIVE} {{training=true, momentum=0.1, eps=1e-05}}",
            ),
            "native_batch_norm: expected statistics that nothing reads, found y": (
                IMAGE,
                STATISTICS,
                f"%y: {PARTS} = {NATIVE} {{training=false, momentum=0.1, eps=1e-05}}",
                "%r: f32[2] = aten.relu(self=%y#1)",
            ),
        },
    ),
    "addmm-to-linear": (
        (*LINEAR, ADDMM),
        {
            "addmm.self: expected": (LINEAR[0].replace("[3]", "[2, 3]"), *LINEAR[1:], ADDMM),
            "addmm.mat2: expected aten.t or aten.transpose.int or aten.permute, found input": (
                *LINEAR[:2],
                "input %t: f32[4, 3]",
                ADDMM,
            ),
            "addmm.mat2.self: expected": (*LINEAR[:2], "input %w: f32[12]", LINEAR[3], ADDMM),
            "addmm.beta: expected 1, found 2": (*LINEAR, f"{ADDMM} {{beta=2}}"),
            "addmm.alpha: expected 1, found 2": (*LINEAR, f"{ADDMM} {{alpha=2}}"),
            "addmm.mat2: expected the two axes to be exchanged, found axes (0, 1)": (
                *LINEAR[:3],
                "%t: f32[3, 4] = aten.permute(self=%w) {dims=[0, 1]}",
                ADDMM,
            ),
        },
    ),
    "convolution-by-rank": (
        _convolution("1, 2, 8, 8"),
        {
            "convolution.input: expected 1, 2 or 3 spatial axes, found an operand of 6 axes": _convolution(
                "1, 2, 1, 1, 1, 1"
            )
        },
    ),
    "padding-in-numbers": (
        _padded("same", 3),
        {"conv2d: expected the same padding on both sides, found [1, 1] elements": _padded("same", 2)},
    ),
}


def _graph(lines: Lines) -> Graph:
    return parse_graph("graph @main {\n" + "\n".join(lines) + "\nreturn none\n}")


def _root(graph: Graph) -> Node:
    return graph.node("y")


RULES = {name.partition("/")[2]: rule for name, rule in registered_rules().items() if name.startswith("canonicalize/")}


def test_every_built_in_rule_has_its_near_misses_here():
    assert CASES.keys() == RULES.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_graph_that_lacks_one_constraint_of_a_rule_is_told_which(name):
    rule, (hit, misses) = RULES[name], CASES[name]
    graph = _graph(hit)
    assert isinstance(rule.match(_root(graph)), Match)
    assert rule.find(_root(graph), {}) is not None
    assert [match.root.name for match in explain(rule, graph).matches] == ["y"]
    for reason, lines in misses.items():
        graph = _graph(lines)
        found = rule.match(_root(graph))
        assert isinstance(found, Miss), reason
        assert rule.find(_root(graph), {}) is None
        assert str(found).startswith(reason)
        assert found.node is not None
        assert str(found) in str(explain(rule, graph, _root(graph)))
