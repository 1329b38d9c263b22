"""The workloads in torch.fx and inductor's pattern matcher."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx
from torch._inductor.pattern_matcher import MULTIPLE, CallFunction, KeywordArg, PatternMatcherPass
from torch._inductor.pattern_matcher import register_graph_pattern as register
from torch.fx.passes.dialect.common.cse_pass import CSEPass

from graphpress.tools.bench.framework.workloads import INNER_OPS, Prepared, Program, program_of

PACKAGES = ("torch",)
ATEN = torch.ops.aten
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
    graph = fx.Graph()
    values = [graph.placeholder("x")]
    for name, places in program:
        read = tuple(values[place] for place in places)
        values.append(graph.call_function(OPS[name], (list(read),) if name == "cat" else read))
    graph.output(values[-1])
    return fx.GraphModule(torch.nn.Module(), graph)


def prepare(workload: str, nodes: int) -> Prepared | None:
    """Build what `workload` needs and return the call to time; None if it has no counterpart."""
    if workload == "wide node":
        return None  # did not end in a run of four minutes at 20,000 uses
    program = program_of(workload, nodes)
    if workload == "build":
        return lambda: build(program)
    module = build(program)
    graph = module.graph
    if workload in ("always", "kept", "never", "never50"):
        inner = {"never50": INNER_OPS * 10, "never": ("tanh",)}.get(workload, ("relu",))
        passes = _rules(inner)
        return lambda: _apply(passes, module)
    if workload.startswith("wide"):
        source, tanh = list(graph.nodes)[:2]
        return lambda: tanh.replace_all_uses_with(source, delete_user_cb=lambda user: user is not tanh)
    merge = CSEPass()
    calls: dict[str, Prepared] = {
        "clone": lambda: copy.deepcopy(graph),
        "print": lambda: str(graph),
        "verify": graph.lint,
        "dce": graph.eliminate_dead_code,
        "cse": lambda: merge(module),
        "ten": lambda: [(graph.eliminate_dead_code(), merge(module)) for _ in range(5)],
    }
    return calls.get(workload)


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
