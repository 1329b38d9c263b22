"""The first operator of a model whose output differs in a saved file.

The file is run with its intermediate values as outputs. The exported program of the model is then evaluated operator by
operator on the *file's* values: each operator gets the inputs that it has in the file, so that a difference arises in
the operator itself and is not inherited. What rounding explains of it is measured as for whole models (see `rounding`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen
from torch import fx
from torch.export import ExportedProgram
from torch.utils._python_dispatch import TorchDispatchMode

from graphpress.backends import exporting
from graphpress.backends.comparison import FLOAT_TOLERANCE, OutputCheck, compare_outputs
from graphpress.backends.rounding import DRAWS, PerturbedRounding, allowance_of


@frozen
class OperatorCheck:
    """The difference of one operator's output in the file from torch's.

    Attributes:
        operator: the ATen operator.
        name: its name in the exported program.
        place: its module path and the user's source line.
        output: the difference of its output from torch's on the file's inputs, with what rounding explains.
        inputs: the difference of each of its inputs in the file from the model's, by the name of their operator.
    """

    operator: str
    name: str
    place: str
    output: OutputCheck
    inputs: tuple[OutputCheck, ...]

    @property
    def ok(self) -> bool:
        """True if rounding explains the difference."""
        return self.output.within(None)

    def __str__(self) -> str:
        lines = [f"{self.operator} ({self.name}) {self.place}", f"  its output: {_units(self.output)}"]
        if self.output.allowed is not None:
            lines[-1] += f"; rounding explains {self.output.allowed.max_error:.2g} of the range"
        return "\n".join([*lines, *(f"  its input {each.name}: {_units(each)}" for each in self.inputs)])


@frozen
class BlameReport:
    """The operators that were compared, in order; `str` of it tells the first that differs.

    Attributes:
        path: the saved model.
        operators: one entry for each operator whose value the file has.
    """

    path: Path
    operators: tuple[OperatorCheck, ...]

    @property
    def first(self) -> OperatorCheck | None:
        """The first operator whose output differs by more than rounding explains; None if there is none."""
        return next((each for each in self.operators if not each.ok), None)

    def data(self) -> dict[str, Any]:
        """Return the first operator that differs as plain data, with errors in units of the value's range."""
        first = self.first
        if first is None:
            return {"compared": len(self.operators), "first": None}
        what = {"operator": first.operator, "name": first.name, "place": first.place}
        errors = {"max_error": first.output.max_error, "rms_error": first.output.rms_error, "steps": first.output.steps}
        inputs = {each.name: each.max_error for each in first.inputs}
        return {"compared": len(self.operators), "first": what | errors | {"inputs": inputs}}

    def __str__(self) -> str:
        first = self.first
        compared = f"{len(self.operators)} operators compared"
        if first is None:
            return f"{self.path}: no operator differs by more than rounding explains ({compared})"
        return f"{self.path}: the first operator that differs ({compared}):\n{first}"


def _units(check: OutputCheck) -> str:
    return (
        f"max error {check.max_error:.2g} of the range, {check.decibels:.1f} dB, {check.steps:.3g} steps of the dtype"
    )


def origins(exported: ExportedProgram, decomposed: ExportedProgram) -> dict[str, str]:
    """Return the operator of `exported` that each node of its decomposition ends, by the names of both.

    A node that torch derives from another records its source: the name in that graph, and the source of the source, back
    to graphs that are older than the exported one and name their nodes otherwise.
    """
    last: dict[str, str] = {}
    for node in decomposed.graph.nodes:
        pending = list(node.meta.get("from_node") or ()) if node.op == "call_function" else []
        while pending:
            source = pending.pop()
            if source.graph_id == id(exported.graph):
                last[source.name] = node.name
            else:
                pending.extend(source.from_node)
    return {node: origin for origin, node in last.items()}


def compare(
    path: Path,
    exported: ExportedProgram,
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
    stored: Mapping[str, torch.Tensor],
    kernels: type[TorchDispatchMode] | None = None,
) -> BlameReport:
    """Compare the values of a file with those of the program it was made from.

    Args:
        path: the file.
        exported: the program, before decomposition.
        arguments: positional and named inputs.
        stored: the values of the file, by the name of the node of `exported`.
        kernels: the mode that computes operators for which torch has no kernel, such as those on 4-bit codes.
    """
    module = exported.module()
    found = _operators(module, arguments, stored, kernels)
    reused = _reused(module, arguments, stored, found, kernels) if not all(each.ok for each in found) else set()
    if reused:
        kept = {name: value for name, value in stored.items() if name not in reused}
        found = _operators(module, arguments, kept, kernels)
    return BlameReport(path, tuple(found))


def _operators(
    module: fx.GraphModule,
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
    stored: Mapping[str, torch.Tensor],
    kernels: type[TorchDispatchMode] | None,
) -> list[OperatorCheck]:
    """Compare each operator that has a value in the file, evaluated on the file's values."""
    args, kwargs = arguments
    plain, local = _Values(module, {}, kernels), _Values(module, stored, kernels)
    with torch.no_grad():
        plain.evaluate(args, kwargs)
        local.evaluate(args, kwargs)
        draws = []
        for seed in range(DRAWS):
            again = _Values(module, stored, kernels)
            with PerturbedRounding(seed):
                again.evaluate(args, kwargs)
            draws.append(again.computed)
    found = []
    for node in module.graph.nodes:
        expected = local.computed.get(node.name)
        output = None if expected is None else _compared(node.name, stored, expected)
        if output is None or expected is None:
            continue
        if output.max_error > FLOAT_TOLERANCE:
            spread = [compare_outputs("", draw[node.name], expected) for draw in draws]
            output = evolve(output, allowed=allowance_of(spread))
        inputs = [_compared(each.name, stored, plain.computed.get(each.name)) for each in node.all_input_nodes]
        read = tuple(each for each in inputs if each is not None)
        found.append(OperatorCheck(str(node.target), node.name, exporting.place(node), output, read))
    return found


def _reused(
    module: fx.GraphModule,
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
    stored: Mapping[str, torch.Tensor],
    found: list[OperatorCheck],
    kernels: type[TorchDispatchMode] | None,
) -> set[str]:
    """Return the names under which the file has another value than the operator's, such as its transpose.

    A converter that moves a transpose behind an operator keeps the operator's name for the value before it. Such a
    value differs from the operator's, but the operators that read it give the file's results when they are evaluated on
    torch's value, and do not on the file's. If the two are equal up to the order of their dims, the latter is enough.
    """
    args, kwargs = arguments
    checks = {each.name: each for each in found}
    torchs = _Differences(module, stored, checks, kernels)
    with torch.no_grad():
        torchs.evaluate(args, kwargs)
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


def _compared(name: str, stored: Mapping[str, torch.Tensor], expected: torch.Tensor | None) -> OutputCheck | None:
    """Compare a value of the file with torch's; None if the file has none, or another one by that name.

    A truth value where torch has a number, or a number where it has a truth value, differs without limit.
    """
    value = stored.get(name)
    if value is None or expected is None or value.shape != expected.shape:
        return None
    if (value.dtype is torch.bool) != (expected.dtype is torch.bool):
        return OutputCheck(name, tuple(expected.shape), math.inf, math.inf, 1.0, math.inf, math.inf)
    return compare_outputs(name, value, expected)


class _Values(fx.Interpreter):
    """Evaluates a program with given values in place of the results of some of its operators.

    Attributes:
        computed: the tensor that each operator gave, before it was replaced, by name.
    """

    def __init__(self, module: fx.GraphModule, given: Mapping[str, torch.Tensor], kernels: Any) -> None:
        super().__init__(module)
        self.given, self._kernels = given, kernels
        self.computed: dict[str, torch.Tensor] = {}

    def evaluate(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Run the program on the user's inputs."""
        graph: Any = self.module.graph
        self.run(*graph._codegen.process_inputs(*args, **kwargs), enable_io_processing=False)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run one operator; those that torch cannot run, in the mode given for them."""
        try:
            return super().call_function(target, args, kwargs)
        except NotImplementedError:
            if self._kernels is None:
                raise
            with self._kernels():
                return super().call_function(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, note its result, and return what the file has instead."""
        result = super().run_node(n)
        if n.op != "call_function" or not isinstance(result, torch.Tensor):
            return result
        self.computed[n.name] = result.detach().clone()
        given = self.given.get(n.name)
        return result if given is None or given.shape != result.shape else given.to(result.dtype)


class _Differences(_Values):
    """Evaluates a program with the values of a file, except for those that differ from torch's.

    Attributes:
        differing: for each value that differs, True if it is equal up to the order of dims.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        given: Mapping[str, torch.Tensor],
        checks: Mapping[str, OperatorCheck],
        kernels: type[TorchDispatchMode] | None,
    ) -> None:
        super().__init__(module, given, kernels)
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
