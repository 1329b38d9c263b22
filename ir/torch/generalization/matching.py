"""Matching of recorded calls with the nodes of a graph.

Both come from one model, so the lists are mostly equal. Calls that the graph dropped (dead code, copies) are skipped; a
later call that reads their results then has no value for them and matches nothing. A match of all nodes and of the
results thus proves that the graph computes what the model computes at the other batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import define, field

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.ops import OpDef, op_of_target
from graphpress.ir.tensors import tensor_identity
from graphpress.ir.torch.functionalization import functional_form
from graphpress.ir.torch.generalization.affine import Affine, NotProven, Samples
from graphpress.ir.torch.generalization.tracing import Call, Trace
from graphpress.ir.types import TensorType

# Identity calls, which graphs may omit.
_COPIES = frozenset({"aten.detach", "aten.detach_", "aten.alias", "aten.lift_fresh"})
# Parameters that choose a kernel; torch.export sets them differently.
_ABOUT_KERNELS = frozenset({"cudnn_enable", "cudnn_enabled"})


@define(eq=False)
class Match:
    """The batch-dependent parts of a graph.

    Attributes:
        shapes: the shapes of the values that depend on the batch.
        arguments: the node arguments that do, by name, with an `Affine` for every batch-dependent number.
    """

    shapes: dict[Value, tuple[int | Affine, ...]] = field(factory=dict)
    arguments: dict[Node, dict[str, Any]] = field(factory=dict)


def match(graph: Graph, trace: Trace) -> Match:
    """Match the recorded run with `graph`, and express its shapes and arguments over the batch.

    Raises:
        NotProven: if the run differs from the graph.
    """
    return _Matcher(graph, trace).run()


@define(eq=False)
class _Matcher:
    graph: Graph
    trace: Trace
    found: Match = field(factory=Match)
    _values: dict[int, Any] = field(factory=dict)  # tensor of the run -> value, or the constant tensor it copies
    _sharing: dict[int, list[int]] = field(factory=dict)  # storage -> tensors of the run
    _forms: dict[tuple[int, int], Affine] = field(factory=dict)

    @property
    def samples(self) -> Samples:
        return self.trace.samples

    def run(self) -> Match:
        for graph_input, leaf in zip(self.graph.inputs, self.trace.leaves, strict=True):
            if isinstance(leaf, torch.Tensor) and graph_input.value is not None:
                self._bind(leaf, graph_input.value)
        waiting = list(reversed(self.graph.nodes))
        for call in self.trace.calls:
            if waiting and self._matches(call, waiting[-1]):
                waiting.pop()
            elif call.op.name in _COPIES:
                self._follow(call)
            else:
                self._pass_over(call)
        if waiting:
            self._fail(f"no call at another batch size matches node {waiting[-1].name}, from {waiting[-1].location}")
        outputs = self.graph.user_outputs()
        for output, result in zip(outputs, self.trace.results, strict=len(outputs) == len(self.trace.results)):
            same = output.literal == result if output.value is None else self._is(result, output.value)
            if not same:
                self._fail("the model has other results at another batch size")
        return self.found

    def _matches(self, call: Call, node: Node) -> bool:
        """Match one call with one node, and bind its results on success."""
        op = _as_in_graphs(call)
        if op is not node.op or len(call.results) != len(node.results):
            return False
        arguments = {}
        for parameter in op.parameters:
            name = parameter.name
            if name in _ABOUT_KERNELS:
                continue
            ours = node.operands[name] if name in node.operands else node.attributes.get(name, parameter.default)
            theirs = call.bound.get(name, parameter.default)
            same, argument = self._compare(theirs, ours)
            if not same:
                return False
            if argument is not ours:
                arguments[name] = argument
        for result, tensor in zip(node.results, call.results, strict=True):
            if not self._has_type(tensor, result):
                return False
        if arguments:
            self.found.arguments[node] = arguments
        if call.written:
            self._forget_sharing(call.written)
            self._bind(call.written[0], node.results[0])
        for result, tensor in zip(node.results, call.results, strict=True):
            self._bind(tensor, result)
        return True

    def _compare(self, theirs: Any, ours: Any) -> tuple[bool, Any]:
        """Compare an argument of a call with that of a node, and return the latter for every batch size."""
        if isinstance(ours, Value):
            return isinstance(theirs, torch.Tensor) and self._is(theirs, ours), ours
        if isinstance(theirs, torch.Tensor):
            return False, ours
        if isinstance(ours, tuple):
            if not isinstance(theirs, list | tuple) or len(theirs) != len(ours):
                return False, ours
            compared = [self._compare(item, our) for item, our in zip(theirs, ours, strict=True)]
            changed = any(new is not our for (_, new), our in zip(compared, ours, strict=True))
            return all(same for same, _ in compared), tuple(new for _, new in compared) if changed else ours
        if isinstance(theirs, torch.dtype):
            theirs = DType.of(theirs)
        if type(theirs) is type(ours) and theirs == ours:
            return True, ours
        if type(ours) is not int or type(theirs) is not int:
            return False, ours
        form = self._form(ours, theirs)
        return form is not None, form

    def _has_type(self, tensor: torch.Tensor, value: Value) -> bool:
        type = value.type
        if not isinstance(type, TensorType) or DType.of(tensor.dtype) is not type.dtype or tensor.ndim != type.rank:
            return False
        shape = [self._form(ours, theirs) for ours, theirs in zip(type.shape, tensor.shape, strict=True)]
        if any(size is None for size in shape):
            return False
        if any(isinstance(size, Affine) for size in shape):
            self.found.shapes[value] = tuple(shape)  # type: ignore[arg-type]
        return True

    def _form(self, ours: Any, theirs: int) -> int | Affine | None:
        """Return the number that is `ours` in the example and `theirs` in the run, or None if it is not affine."""
        if ours == theirs:
            return theirs
        form = self.samples.read(theirs)
        return form if form is not None and form.at(self.samples.example) == ours else None

    def _follow(self, call: Call) -> None:
        source, copy = call.bound["self"], call.results[0]
        known = self._values.get(id(source), None if _is_fake(source) else source)
        if known is not None:
            self._bind(copy, known)

    def _pass_over(self, call: Call) -> None:
        written = call.written
        if any(not _is_fake(tensor) for tensor in written):
            self._fail(f"{call.op.name} writes to a tensor of the model")
        self._forget_sharing(written)

    def _bind(self, tensor: torch.Tensor, value: Any) -> None:
        self._values[id(tensor)] = value
        self._sharing.setdefault(_storage(tensor), []).append(id(tensor))

    def _forget_sharing(self, written: Sequence[torch.Tensor]) -> None:
        """Drop the bindings of tensors that share memory with the written one."""
        for tensor in written:
            for other in self._sharing.pop(_storage(tensor), ()):
                self._values.pop(other, None)

    def _is(self, tensor: Any, value: Value) -> bool:
        if not isinstance(tensor, torch.Tensor):
            return False
        known = self._values.get(id(tensor), None if _is_fake(tensor) else tensor)
        if known is value or not isinstance(known, torch.Tensor) or value.constant is None:
            return known is value
        constant = value.constant.tensor
        if constant is known or tensor_identity(constant) == tensor_identity(known):
            return True
        return constant.dtype is known.dtype and constant.shape == known.shape and bool(torch.equal(constant, known))

    def _fail(self, message: str) -> None:
        raise NotProven(message, reads_batch=self.trace.reads_batch)


def _as_in_graphs(call: Call) -> OpDef:
    """Return the op that graphs use for this call: functional, and with explicit copies of new tensors."""
    target = call.op.target
    if call.op.name == "aten.lift_fresh":
        return op_of_target(torch.ops.aten.lift_fresh_copy.default)
    if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
        functional = functional_form(target)
        if functional is not None and len(call.written) == 1 and _is_fake(call.written[0]):
            return op_of_target(functional)
    return call.op


def _is_fake(tensor: Any) -> bool:
    return isinstance(tensor, torch._subclasses.FakeTensor)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
