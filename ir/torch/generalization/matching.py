"""Matching of recorded calls with the nodes of a graph.

Both come from one model, so the lists are mostly equal. Calls that the graph dropped (dead code, copies) are skipped; a
later call that reads their results then has no value for them and matches nothing. A match of all nodes and of the
results thus proves that the graph computes what the model computes at the other batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from attrs import define, field

from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.ops import OpDef, op_of_target
from graphpress.ir.tensors import tensor_identity
from graphpress.ir.torch.functionalization import SCATTERS, functional_form, needs_own_memory
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
    _views: dict[int, tuple[torch.Tensor, Node]] = field(factory=dict)  # part of a tensor -> that tensor, its node
    _waiting: list[Node] = field(factory=list)  # nodes without a call, the next one last

    @property
    def samples(self) -> Samples:
        return self.trace.samples

    def run(self) -> Match:
        for graph_input, leaf in zip(self.graph.inputs, self.trace.leaves, strict=True):
            if isinstance(leaf, torch.Tensor) and graph_input.value is not None:
                self._bind(leaf, graph_input.value)
        self._waiting = list(reversed(self.graph.nodes))
        for call in self.trace.calls:
            if call.op.name == "aten.copy_":
                self._copy(call)
            elif self._waiting and self._matches(call, self._waiting[-1]):
                continue
            elif call.op.name in _COPIES:
                self._follow(call)
            else:
                self._pass_over(call)
        if self._waiting:
            node = self._waiting[-1]
            self._fail(f"no call at another batch size matches node {node.name}, from {node.location}")
        outputs = self.graph.user_outputs()
        for output, result in zip(outputs, self.trace.results, strict=len(outputs) == len(self.trace.results)):
            same = output.literal == result if output.value is None else self._is(result, output.value)
            if not same:
                self._fail("the model has other results at another batch size")
        return self.found

    def _matches(self, call: Call, node: Node) -> bool:
        """Match one call with the next node, which is consumed on success."""
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
            if not self._has_type(tensor.dtype, tensor.shape, result):
                return False
        if arguments:
            self.found.arguments[node] = arguments
        self._waiting.pop()
        if call.written:
            self._write_through(call, node.results[0])
        for result, tensor in zip(node.results, call.results, strict=True):
            self._bind(tensor, result)
        if call.op.target in SCATTERS and not arguments:
            self._views[id(call.results[0])] = call.bound["self"], node
        return True

    def _copy(self, call: Call) -> None:
        """Match a `copy_` with the nodes that convert its source to dtype, shape and layout of its target."""
        target, source = call.bound["self"], call.bound["src"]
        value = self._values.get(id(source))
        if not _is_fake(target) or not isinstance(value, Value):
            self._pass_over(call)
            return
        shape = source.shape
        if source.dtype is not target.dtype:
            value = self._converted("aten.to.dtype", value, target.dtype, shape)
        if source.shape != target.shape:
            shape = target.shape
            value = self._converted("aten.expand", value, target.dtype, shape)
            assert isinstance(value.producer, Node)
            if value in self.found.shapes:
                self.found.arguments[value.producer] = {"size": self.found.shapes[value]}
        if needs_own_memory(source, target) or self._is_copied_at_one(value):
            value = self._converted("aten.clone", value, target.dtype, shape)
        self._write_through(call, value)

    def _is_copied_at_one(self, value: Value) -> bool:
        """Return True if the next node gives a copied value its own memory, because a batch of one has its layout."""
        node = self._waiting[-1] if self._waiting else None
        return (
            node is not None
            and 1 in self.samples.example.values()
            and node.op.name == "aten.clone"
            and node.operands == {"self": value}
            and node.attributes.get("memory_format") is torch.contiguous_format
        )

    def _converted(self, op: str, value: Value, dtype: torch.dtype, shape: Sequence[int]) -> Value:
        """Consume the node that converts the source of a copy, and return its result."""
        node = self._waiting[-1] if self._waiting else None
        if node is None or node.op.name != op or node.operands != {"self": value}:
            self._fail("the model copies in another way at another batch size")
        if not self._has_type(dtype, shape, node.result):
            self._fail("the model copies another shape at another batch size")
        return self._waiting.pop().result

    def _write_through(self, call: Call, value: Value) -> None:
        """Bind a written tensor, and those of which it is a part, which a scatter of the graph replaces."""
        tensor = call.written[0]
        before = {}
        part = tensor
        while id(part) in self._views:
            part = self._views[id(part)][0]
            before[id(part)] = self._values.get(id(part))
        self._forget_sharing(call.written)
        self._bind(tensor, value)
        while id(tensor) in self._views:
            whole, taken = self._views[id(tensor)]
            node = self._waiting[-1] if self._waiting else None
            if node is None or node.op is not op_of_target(SCATTERS[taken.op.target]):
                return
            if node.operands != {"self": before[id(whole)], "src": value} or node.attributes != taken.attributes:
                return
            if not self._has_type(whole.dtype, whole.shape, node.result):
                return
            tensor, value = whole, self._waiting.pop().result
            self._bind(tensor, value)

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

    def _has_type(self, dtype: torch.dtype, shape: Sequence[int], value: Value) -> bool:
        """Compare a type of the run with that of a value, and note the shape of the latter at every batch size."""
        type = value.type
        if not isinstance(type, TensorType) or DType.of(dtype) is not type.dtype or len(shape) != type.rank:
            return False
        sizes = [self._form(ours, theirs) for ours, theirs in zip(type.shape, shape, strict=True)]
        if any(size is None for size in sizes):
            return False
        if any(isinstance(size, Affine) for size in sizes):
            self.found.shapes[value] = tuple(sizes)  # type: ignore[arg-type]
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

    def _fail(self, message: str) -> NoReturn:
        at_one = 1 in self.samples.example.values()
        raise NotProven(message, reads_batch=self.trace.reads_batch, at_one=at_one)


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
