"""Stepwise execution of a prepared model over many batches, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from attrs import define, field
from torch import fx
from torch.utils import _pytree as pytree

from graphpress.quantization.expressions import ConstantExpression

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Environment = dict[fx.Node, Any]


@define(eq=False)
class _Batch:
    """The values of one batch up to a node; without an environment they are recomputed on demand."""

    inputs: Inputs
    environment: Environment | None = field(factory=dict)
    place: int = 0


@define(eq=False)
class StepwiseRun:
    """Runs a module over all batches, node by node.

    Only values that later nodes read are kept. If they exceed `memory` bytes, some batches keep none and are recomputed
    from their inputs each time.

    Values that depend on parameters alone are computed on each read, so that changes of weights take effect.

    Attributes:
        module: the module, which must not write to its buffers before the last requested node.
        batches: the arguments of each run.
        memory: maximum bytes of values to keep between nodes.
        mode: a context in which nodes are run.
    """

    module: fx.GraphModule
    batches: Sequence[Inputs]
    memory: int
    mode: Callable[[], AbstractContextManager[Any]]
    _nodes: list[fx.Node] = field(init=False)
    _places: dict[fx.Node, int] = field(init=False)
    _last_use: dict[fx.Node, list[fx.Node]] = field(init=False)
    _states: list[_Batch] = field(init=False)
    _constant: set[fx.Node] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._nodes = list(self.module.graph.nodes)
        self._places = {node: place for place, node in enumerate(self._nodes)}
        self._constant = {node for node in self._nodes if is_constant_node(self.module, node)}
        self._last_use = {}
        for node in self._nodes:
            if node.users and node not in self._constant:
                last = max(node.users, key=self._places.__getitem__)
                self._last_use.setdefault(last, []).append(node)
        self._states = [_Batch(inputs) for inputs in self.batches]

    def advance_to(self, node: fx.Node) -> None:
        """Run every batch up to but excluding `node`; nodes must be requested in execution order."""
        with self.mode(), torch.no_grad():
            for state in self._states:
                if state.environment is not None:
                    self._run(state.inputs, state.environment, state.place, self._places[node])
                    state.place = self._places[node]
        self._stay_within_memory()

    def operand(self, node: fx.Node, read: fx.Node) -> Iterator[Any]:
        """Yield the value of `read`, an operand of `node`, for each batch; call `advance_to` first."""
        for environment in self._environments(node):
            yield environment[read]

    def results(self, node: fx.Node) -> Iterator[Any]:
        """Yield the result of `node` for each batch, without keeping it; call `advance_to` first."""
        for environment in self._environments(node):
            with self.mode(), torch.no_grad():
                result = self._evaluate(node, environment)
            yield result

    def outputs_from(self, node: fx.Node) -> Iterator[Any]:
        """Yield the outputs of the module for each batch, run from `node` on; call `advance_to` first.

        Values that the run keeps are not changed, so that outputs can be computed again after a change of `node` or
        of later nodes.
        """
        last = self._nodes[-1]
        for state, environment in zip(self._states, self._environments(node), strict=True):
            rest = dict(environment)
            with self.mode(), torch.no_grad():
                self._run(state.inputs, rest, self._places[node], self._places[last])
                outputs = self._map(last.args[0], rest)
            yield outputs

    def _map(self, argument: Any, environment: Environment) -> Any:
        """Replace the nodes in an argument of a node by their values."""
        return fx.map_arg(argument, lambda node: self._read(node, environment))

    def _read(self, node: fx.Node, environment: Environment) -> Any:
        return self._evaluate(node, {}) if node in self._constant else environment[node]

    def _environments(self, node: fx.Node) -> Iterator[Environment]:
        for state in self._states:
            environment = state.environment
            if environment is None:
                environment = {}
                with self.mode(), torch.no_grad():
                    self._run(state.inputs, environment, 0, self._places[node])
            yield environment

    def _run(self, inputs: Inputs, environment: Environment, start: int, end: int) -> None:
        if start == 0 and end > 0:
            placeholders = [node for node in self._nodes if node.op == "placeholder"]
            environment.update(zip(placeholders, flat_inputs(self.module, inputs), strict=True))
        for node in self._nodes[start:end]:
            if node.op != "placeholder" and node not in self._constant:
                environment[node] = self._evaluate(node, environment)
            if not node.users:
                environment.pop(node, None)
            for finished in self._last_use.get(node, ()):
                del environment[finished]

    def _evaluate(self, node: fx.Node, environment: Environment) -> Any:
        args, kwargs = self._map(node.args, environment), self._map(node.kwargs, environment)
        if node.op == "call_function":
            assert callable(node.target)
            return node.target(*args, **kwargs)
        assert isinstance(node.target, str)
        if node.op == "call_module":
            return self.module.get_submodule(node.target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        owner, _, name = node.target.rpartition(".")
        return getattr(self.module.get_submodule(owner), name)

    def _stay_within_memory(self) -> None:
        total = 0
        for state in self._states:
            if state.environment is not None:
                total += _bytes(state.environment)
                if total > self.memory:
                    state.environment = None


def flat_inputs(module: fx.GraphModule, inputs: Inputs) -> list[Any]:
    """Return the values of the placeholders of `module` for the arguments of a call."""
    if isinstance(module.graph._codegen, fx.graph._PyTreeCodeGen):
        return pytree.tree_leaves(inputs)
    return list(inputs[0])


def is_constant_node(module: fx.GraphModule, node: fx.Node) -> bool:
    """Return True for a parameter, a buffer, or a constant expression."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), ConstantExpression)
    return node.op == "get_attr"


def _bytes(environment: Environment) -> int:
    leaves = [leaf for value in environment.values() for leaf in pytree.tree_leaves(value)]
    storages = {
        leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes()
        for leaf in leaves
        if isinstance(leaf, torch.Tensor)
    }
    return sum(storages.values())
