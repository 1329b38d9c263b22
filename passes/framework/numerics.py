"""Hook that checks passes against their effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import define, field

from graphpress.ir.graph import Graph
from graphpress.passes.framework.effects import Drift, Effect
from graphpress.passes.framework.errors import NumericDrift
from graphpress.passes.framework.records import StepRecord
from graphpress.passes.framework.standard_hooks import Hook
from graphpress.passes.framework.steps import Step

if TYPE_CHECKING:
    from graphpress.ir.interpreter import Execution


@define(eq=False)
class Numerics(Hook):
    """Run the graph on `inputs` before and after every step, and check the effect of its pass.

    The change of each output is recorded as `drift`. Random ops have the same seed in both runs.

    Attributes:
        inputs: the flat inputs of the graph.
        seed: the seed of random ops.
    """

    inputs: Sequence[Any]
    seed: int = 0
    _known: tuple[Graph, Execution] | None = field(default=None, init=False)

    def before(self, step: Step, graph: Graph) -> None:
        """Run `graph`, unless the previous step just did."""
        if self._known is None or self._known[0] is not graph:
            self._known = graph, execute(graph, self.inputs, self.seed)

    def after(self, step: Step, graph: Graph, record: StepRecord) -> None:
        """Run `graph` again and compare.

        Raises:
            NumericDrift: naming the step, the output, the error and the allowed error.
        """
        assert self._known is not None
        before = self._known[1]
        after = execute(graph, self.inputs, self.seed) if record.edits else before
        self._known = None if step.index == step.total - 1 else (graph, after)
        record.drift = compare(before, after, step.pass_.effect)
        for drift in record.drift:
            if not drift.is_held:
                raise NumericDrift(_complaint(step, graph, drift), drift.error)

    def failed(self, step: Step, graph: Graph, error: BaseException) -> None:
        """Drop the recorded run."""
        self._known = None


def execute(graph: Graph, inputs: Sequence[Any], seed: int = 0) -> Execution:
    """Run `graph` with a fixed seed, without changing the caller's random state."""
    from graphpress.ir.interpreter import Interpreter

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Interpreter(graph).execute(inputs)


def compare(before: Execution, after: Execution, effect: Effect) -> tuple[Drift, ...]:
    """Compare all outputs and mutations; the error of an added or removed one is infinite."""
    old, new = _by_name(before), _by_name(after)
    return tuple(_drift(name, old.get(name, _MISSING), new.get(name, _MISSING), effect) for name in old | new)


_MISSING = object()


def _by_name(execution: Execution) -> dict[int | str, Any]:
    named: dict[int | str, Any] = dict(enumerate(execution.outputs))
    for name, tensor in execution.mutations.items():
        named[name] = tensor
    return named


def _drift(output: int | str, before: Any, after: Any, effect: Effect) -> Drift:
    if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        return Drift(output, *effect.measure(before, after))
    is_same = type(before) is type(after) and before == after
    return Drift(output, 0.0 if is_same else float("inf"), 0.0)


def _complaint(step: Step, graph: Graph, drift: Drift) -> str:
    where = ""
    if isinstance(drift.output, int) and drift.output < len(graph.user_outputs()):
        value = graph.user_outputs()[drift.output].value
        if value is not None and value.node is not None:
            where = f"\n  computed by {value.node.name} ({value.node.op.name}), {value.node.location}"
    what = f"output {drift.output}" if isinstance(drift.output, int) else f"what is written to {drift.output!r}"
    return (
        f"step {step.label!r} is {step.pass_.effect}, but moved {what} by {drift.error:.6g}, "
        f"{drift.allowed:.6g} being allowed{where}"
    )
