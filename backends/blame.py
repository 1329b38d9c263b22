"""The first operator of a model whose output differs in a saved file.

The file is run with its intermediate values as outputs. The exported program of the model is then evaluated operator by
operator on the *file's* values: each operator gets the inputs that it has in the file, so that a difference arises in
the operator itself and is not inherited. What rounding explains of it is measured (see `rounding`).
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from torch import fx
from torch.export import ExportedProgram

from graphpress.backends import exporting
from graphpress.backends.comparison import FLOAT_TOLERANCE, BlameReport, OperatorCheck, OutputCheck, compare_outputs
from graphpress.backends.evaluation import Arguments, Evaluation, Quantize, Tensors, draws
from graphpress.backends.rounding import allowance_of


def origins(exported: ExportedProgram, decomposed: ExportedProgram) -> dict[tuple[str, int], str]:
    """Return the operator of `exported` that each value of its decomposition is the result of.

    A node that torch derives from another records its source: the name in that graph, and the source of that, back to
    graphs that are older than the exported one and name their nodes otherwise.

    Returns:
        The names, by the name of a decomposed node and the index of its result.
    """
    nodes = {node.name: node for node in exported.graph.nodes}
    last: dict[str, tuple[str, int]] = {}
    for node in decomposed.graph.nodes:
        place = (node.args[0].name, node.args[1]) if node.target is operator.getitem else (node.name, 0)
        for source in _sources(node, exported):
            parts = [each for each in nodes[source].users if each.target is operator.getitem]
            if not parts:
                last[source] = place
            elif node.target is operator.getitem:
                last |= {each.name: place for each in parts if each.args[1] == node.args[1]}
    return {place: origin for origin, place in last.items()}


def _sources(node: fx.Node, exported: ExportedProgram) -> list[str]:
    """Return the names of the nodes of `exported` that a node of its decomposition comes from."""
    found = list[str]()
    pending = list(node.meta.get("from_node") or ()) if node.op == "call_function" else []
    while pending:
        source = pending.pop()
        if source.graph_id == id(exported.graph):
            found.append(source.name)
        else:
            pending.extend(source.from_node)
    return found


def compare(
    path: Path,
    exported: ExportedProgram,
    arguments: Arguments,
    stored: Tensors,
    outputs: Sequence[torch.Tensor],
    quantize: Quantize | None = None,
) -> BlameReport:
    """Compare the values of a file with those of the program it was made from.

    Args:
        path: the file.
        exported: the program, before decomposition.
        arguments: positional and named inputs.
        stored: the values of the file, by the name of the node of `exported`.
        outputs: the outputs of the file.
        quantize: computes quantizers as specified; None for torch's own kernel.
    """
    module = exported.module()
    returned = _returned(exported)
    if len(returned) == len(outputs):
        given = dict(zip(returned, outputs, strict=True))
        nodes = (node for node in exported.graph.nodes if node.name in given)
        stored = {**stored, **{node.name: _as_truth(given[node.name], node) for node in nodes}}
    found = _operators(module, arguments, stored, quantize)
    reused = _reused(module, arguments, stored, found, quantize) if not all(each.ok for each in found) else set()
    if reused:
        stored = {name: value for name, value in stored.items() if name not in reused}
        found = _operators(module, arguments, stored, quantize)
    return BlameReport(path, tuple(found), tuple(returned))


def _as_truth(value: torch.Tensor, node: fx.Node) -> torch.Tensor:
    """Return an output as truth values where the program has them: packages return zeros and ones."""
    is_truth = node.meta["val"].dtype is torch.bool and bool(((value == 0) | (value == 1)).all())
    return value.to(torch.bool) if is_truth else value


def _returned(exported: ExportedProgram) -> list[str]:
    """Return the names of the operators whose tensors a program returns; "" for one that no operator computes."""
    nodes = {node.name: node for node in exported.graph.nodes}
    names = [name for name in exported.graph_signature.user_outputs if isinstance(name, str)]
    names = [name for name in names if isinstance(nodes[name].meta.get("val"), torch.Tensor)]
    return [name if nodes[name].op == "call_function" else "" for name in names]


def _operators(
    module: fx.GraphModule, arguments: Arguments, stored: Tensors, quantize: Quantize | None
) -> list[OperatorCheck]:
    """Compare each operator that has a value in the file, evaluated on the file's values."""
    plain, local = Evaluation(module, {}, quantize), Evaluation(module, stored, quantize)
    plain.evaluate(arguments)
    local.evaluate(arguments)
    compared: list[tuple[fx.Node, OutputCheck]] = []
    for node in module.graph.nodes:
        check = _compared(node.name, stored, local.computed.get(node.name))
        if check is not None:
            compared.append((node, _of_selected(node, stored[node.name], local) or check))
    differing = [node for node, check in compared if check.max_error > FLOAT_TOLERANCE]
    spread: dict[str, list[OutputCheck]] = {node.name: [] for node in differing}
    for draw in draws(module, arguments, stored, local, quantize) if differing else ():
        for node in differing:
            value = draw[node.name]
            deviation = _of_selected(node, value, local) or compare_outputs("", value, local.computed[node.name])
            spread[node.name].append(deviation)
    found = []
    for node, check in compared:
        output = evolve(check, allowed=allowance_of(spread[node.name])) if node.name in spread else check
        inputs = [_compared(each.name, stored, plain.computed.get(each.name)) for each in node.all_input_nodes]
        read = tuple(each for each in inputs if each is not None)
        found.append(OperatorCheck(str(node.target), node.name, exporting.place(node), output, read))
    return found


_UNORDERED = (torch.ops.aten.topk.default, torch.ops.aten.sort.default)


def _of_selected(node: fx.Node, indices: torch.Tensor, local: Evaluation) -> OutputCheck | None:
    """Compare the elements that the indices of a top-k or a sort select; None for other nodes.

    The order of equal elements is unspecified, so that the indices themselves may differ.
    """
    source = node.args[0] if node.target is operator.getitem and node.args[1] == 1 else None
    if not isinstance(source, fx.Node) or source.target not in _UNORDERED:
        return None
    scores, (found, expected) = local.read[source.name], (indices.long(), local.computed[node.name])
    at = 2 if source.target is torch.ops.aten.topk.default else 1
    dim: Any = source.args[at] if len(source.args) > at else -1
    ordered = found.sort(dim).values
    repeated = ordered.diff(dim=dim) == 0 if found.dim() else torch.zeros(())
    if bool(repeated.any()) or bool((found < 0).any()) or bool((found >= scores.shape[dim]).any()):
        return OutputCheck(node.name, tuple(expected.shape), math.inf, math.inf, 1.0, math.inf, math.inf)
    return compare_outputs(node.name, scores.gather(dim, found), scores.gather(dim, expected))


def _reused(
    module: fx.GraphModule,
    arguments: Arguments,
    stored: Tensors,
    found: list[OperatorCheck],
    quantize: Quantize | None,
) -> set[str]:
    """Return the names under which the file has another value than the operator's, such as its transpose.

    A converter that moves a transpose behind an operator keeps the operator's name for the value before it. Such a
    value differs from the operator's, but the operators that read it give the file's results when they are evaluated on
    torch's value, and do not on the file's. If the two are equal up to the order of their dims, the latter is enough.
    """
    checks = {each.name: each for each in found}
    torchs = _Differences(module, stored, checks, quantize)
    torchs.evaluate(arguments)
    reused = set[str]()
    for node in reversed(module.graph.nodes):
        if node.name in torchs.differing and _is_unread(node, reused, torchs.differing, checks):
            reused.add(node.name)
    return reused


def _is_unread(
    node: fx.Node, reused: set[str], differing: Mapping[str, bool], checks: Mapping[str, OperatorCheck]
) -> bool:
    """Return True if the operators after `node` show that the file computes with another value than the one it names.

    Args:
        node: an operator whose value differs.
        reused: the later operators of which that is so; what reads their values is asked in their place.
        differing: for each value that differs, whether it is equal up to the order of dims.
        checks: the operators, evaluated on the file's values.
    """
    pending, seen, contradicted = list(node.users), set[fx.Node](), False
    while pending:
        user = pending.pop()
        if user in seen:
            continue
        seen.add(user)
        if user.op == "output":
            return False
        if user.name not in checks or user.name in reused:
            pending.extend(user.users)
        elif user.name in differing and not differing[node.name]:
            return False
        else:
            contradicted = contradicted or not checks[user.name].ok
    return contradicted


def _compared(name: str, stored: Tensors, expected: torch.Tensor | None) -> OutputCheck | None:
    """Compare a value of the file with torch's; None if the file has none, or another one by that name.

    A truth value where torch has a number, or a number where it has a truth value, differs without limit.
    """
    value = stored.get(name)
    if value is None or expected is None or value.shape != expected.shape:
        return None
    if (value.dtype is torch.bool) != (expected.dtype is torch.bool):
        return OutputCheck(name, tuple(expected.shape), math.inf, math.inf, 1.0, math.inf, math.inf)
    return compare_outputs(name, value, expected)


class _Differences(Evaluation):
    """Evaluates a program with the values of a file, except for those that differ from torch's.

    Attributes:
        differing: for each value that differs, True if it is equal up to the order of dims.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        given: Tensors,
        checks: Mapping[str, OperatorCheck],
        quantize: Quantize | None,
    ) -> None:
        super().__init__(module, given, quantize)
        self._checks = checks
        self.differing: dict[str, bool] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; return what the file has instead if they are equal up to rounding."""
        given = super().run_node(n)
        if n.name not in self._checks:
            return given
        computed = self.computed[n.name]
        if self._agrees(n.name, self.given[n.name], computed):
            return given
        self.differing[n.name] = any(
            self._agrees(n.name, self.given[n.name].permute(order), computed)
            for order in itertools.permutations(range(computed.dim()))
        )
        return computed

    def _agrees(self, name: str, value: torch.Tensor, computed: torch.Tensor) -> bool:
        check = _compared(name, {name: value}, computed)
        return check is not None and evolve(check, allowed=self._checks[name].output.allowed).within(None)
