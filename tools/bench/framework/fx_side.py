"""The workloads in torch.fx and inductor's pattern matcher."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx
from torch._inductor.pattern_matcher import MULTIPLE, CallFunction, KeywordArg, PatternMatcherPass
from torch._inductor.pattern_matcher import register_graph_pattern as register
from torch.fx.passes.dialect.common.cse_pass import CSEPass

from graphpress.tools.bench.framework.workloads import (
    CONV_WEIGHT,
    EPS,
    INNER_OPS,
    NORM_CONSTANTS,
    NORM_SHAPE,
    Prepared,
    Program,
    program_of,
)

PACKAGES = ("torch",)
ATEN = torch.ops.aten
NORM_ATTRIBUTES = (False, 0.1, EPS, False)
OPS = {
    "relu": ATEN.relu.default,
    "sigmoid": ATEN.sigmoid.default,
    "tanh": ATEN.tanh.default,
    "add": ATEN.add.Tensor,
    "mul": ATEN.mul.Tensor,
    "cat": ATEN.cat.default,
    "conv": ATEN.conv2d.default,
    "norm": ATEN.batch_norm.default,
}


def build(program: Program) -> fx.GraphModule:
    """Build a program; torch.fx keeps no types."""
    graph, module = fx.Graph(), torch.nn.Module()
    values = [graph.placeholder("x")]
    for name, places in program:
        read: tuple[Any, ...] = tuple(values[place] for place in places)
        if name == "cat":
            read = (list(read),)
        elif name in ("conv", "norm"):
            shapes = [CONV_WEIGHT] if name == "conv" else [NORM_SHAPE] * len(NORM_CONSTANTS)
            read += tuple(_constant(graph, module, shape) for shape in shapes)
            read += NORM_ATTRIBUTES if name == "norm" else ()
        values.append(graph.call_function(OPS[name], read))
    graph.output(values[-1])
    return fx.GraphModule(module, graph)


def _constant(graph: fx.Graph, module: torch.nn.Module, shape: tuple[int, ...]) -> fx.Node:
    name = f"c{len(module._buffers)}"
    module.register_buffer(name, torch.ones(shape))
    return graph.create_node("get_attr", name)


def prepare(workload: str, nodes: int) -> Prepared | None:
    """Build what `workload` needs and return the call to time; None if it has no counterpart."""
    program = program_of(workload, nodes)
    if workload == "build":
        return lambda: build(program)
    module = build(program)
    graph = module.graph
    if workload == "fold":
        fold = _conv_norm()
        return lambda: _apply(fold, module)
    if workload in ("always", "kept", "never", "never50"):
        inner = {"never50": INNER_OPS * 10, "never": ("tanh",)}.get(workload, ("relu",))
        passes = _rules(inner)
        return lambda: _apply(passes, module)
    if workload in ("wide uses", "wide node"):
        source, tanh = list(graph.nodes)[:2]
        return lambda: tanh.replace_all_uses_with(source, delete_user_cb=lambda user: user is not tanh)
    merge = CSEPass()
    calls: dict[str, Prepared] = {
        "clone": lambda: copy.deepcopy(graph),
        "print": lambda: str(graph),
        "verify": graph.lint,
        "dce": graph.eliminate_dead_code,
        "cse": lambda: merge(module),
        "wide cse": lambda: merge(module),
        "ten": lambda: [(graph.eliminate_dead_code(), merge(module)) for _ in range(5)],
    }
    return calls.get(workload)


def _conv_norm() -> PatternMatcherPass:
    passes = PatternMatcherPass()
    conv = CallFunction(ATEN.conv2d.default, KeywordArg("x"), KeywordArg("weight"))
    constants = [KeywordArg(f"norm_{name}") for name in NORM_CONSTANTS]
    pattern = CallFunction(ATEN.batch_norm.default, conv, *constants, *NORM_ATTRIBUTES)

    def reads_constants(match: Any) -> bool:
        return all(node.op == "get_attr" for name, node in match.kwargs.items() if name != "x")

    @register(pattern, pass_dict=passes, extra_check=reads_constants)
    def replace(match: Any, x: Any, weight: Any, norm_bias: Any, **_: Any) -> None:
        node = match.output_node()
        with match.graph.inserting_before(node):
            made = match.graph.call_function(ATEN.conv2d.default, (x, weight, norm_bias))
        node.replace_all_uses_with(made)
        match.erase_nodes()

    return passes


def _rules(inner: tuple[str, ...]) -> PatternMatcherPass:
    passes = PatternMatcherPass()
    for name in inner:
        pattern = CallFunction(
            ATEN.relu.default, CallFunction(getattr(ATEN, name).default, KeywordArg("x"), _users=MULTIPLE)
        )

        @register(pattern, pass_dict=passes)
        def replace(match: Any, x: Any) -> None:
            node = match.output_node()
            node.replace_all_uses_with(node.args[0])
            match.graph.erase_node(node)

    return passes


def _apply(passes: PatternMatcherPass, module: fx.GraphModule) -> int:
    passes.apply(module)
    return len(module.graph.nodes)
