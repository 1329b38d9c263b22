"""Reference interpreter: executes a graph node by node.

ATen ops run through torch, other ops through their `evaluate`. Tensors of the graph are never modified; writes to
buffers and inputs are returned beside the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import define, frozen

from graphpress.ir.calling import call_arguments, call_results
from graphpress.ir.graph import Constant, Graph, GraphError, Input, Node, Output, Value
from graphpress.ir.operand_checks import operand_check
from graphpress.ir.ops import Trait
from graphpress.ir.types import TensorType

Observer = Callable[[Node, Sequence[Any]], None]


class InterpreterError(GraphError):
    """Inputs that do not fit the graph, or a failing node (named with its module and source line)."""


def run(graph: Graph, inputs: Sequence[Any]) -> list[Any]:
    """Run `graph` on flat inputs and return its flat outputs.

    Flat inputs and outputs are the pytree leaves of the user's arguments and results.

    Raises:
        InterpreterError: if the inputs do not fit or a node fails.
    """
    return Interpreter(graph).run(inputs)


def evaluate_node(node: Node, read: Callable[[Value], Any]) -> list[Any]:
    """Compute the results of one node; `read` returns the value of each operand."""
    values = {id(value): read(value) for _, _, value in node.operand_values()}
    with torch.no_grad():
        return list(_runner(node)(values))


@frozen
class Execution:
    """The result of one run: flat user outputs, and mutations by constant or input name."""

    outputs: list[Any]
    mutations: dict[str, torch.Tensor]


@define(eq=False, init=False)
class Interpreter:
    """Executes one graph any number of times; the graph must not be edited in between.

    `observe(node, results)` is called after every node, with its results in order. Values are freed after their last
    use.
    """

    graph: Graph
    observe: Observer | None
    _steps: list[tuple[Node, Callable[[dict[int, Any]], Any], tuple[int, ...]]]
    _fixed: dict[int, Any]
    _writes: bool

    def __init__(self, graph: Graph, observe: Observer | None = None):
        self.graph = graph
        self.observe = observe
        last_use = _last_uses(graph)
        self._steps = [(node, _runner(node), last_use.get(id(node), ())) for node in graph.nodes]
        self._writes = any(node.op.has(Trait.IN_PLACE) for node in graph.nodes)
        self._fixed = {id(c.value): _module_data(c) for c in graph.constants.values() if c.value.use_count}

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Return the flat user outputs for the flat user inputs."""
        return self.execute(inputs).outputs

    def execute(self, inputs: Sequence[Any]) -> Execution:
        """Return outputs and mutations for the flat user inputs.

        Inputs that are Python constants may be omitted, all or none of them.
        """
        values = dict(self._fixed)
        values.update(self._bind(inputs))
        if self._writes:  # remaining in-place ops write to copies
            values = {key: v.clone() if isinstance(v, torch.Tensor) else v for key, v in values.items()}
        with torch.no_grad():
            for node, step, finished in self._steps:
                try:
                    results = step(values)
                except Exception as error:
                    raise _failure(node, str(error)) from error
                if len(results) != len(node.results):
                    raise _failure(node, f"{len(results)} results, expected {len(node.results)}; do the inputs fit?")
                for result, got in zip(node.results, results, strict=True):
                    values[id(result)] = got
                if self.observe is not None:
                    self.observe(node, results)
                for key in finished:
                    del values[key]
        outputs = [_returned(output, values) for output in self.graph.user_outputs()]
        mutations = {
            output.target.name: _returned(output, values) for output in self.graph.outputs if output.target is not None
        }
        return Execution(outputs, mutations)

    def _bind(self, inputs: Sequence[Any]) -> dict[int, Any]:
        expected = self.graph.inputs
        if len(inputs) != len(expected):
            expected = [graph_input for graph_input in expected if graph_input.value is not None]
        if len(inputs) != len(expected):
            names = ", ".join(graph_input.name for graph_input in expected)
            raise InterpreterError(
                f"graph {self.graph.name!r} takes {len(expected)} inputs ({names}), got {len(inputs)}"
            )
        return {
            id(graph_input.value): _checked(graph_input, given)
            for graph_input, given in zip(expected, inputs, strict=True)
            if graph_input.value is not None
        }


def _module_data(constant: Constant) -> torch.Tensor:
    """Return the data as a module parameter would hold it.

    torch chooses kernels, and thus the last bits of results, by whether a weight requires gradients.
    """
    tensor = constant.tensor
    if constant.is_trainable and not tensor.requires_grad and not tensor.is_inference():
        return tensor.detach().requires_grad_()
    return tensor


def _failure(node: Node, message: str) -> InterpreterError:
    return InterpreterError(f"{node.name} ({node.op.name}), from {node.location}: {message}")


def _checked(graph_input: Input, given: Any) -> Any:
    assert graph_input.value is not None
    type = graph_input.value.type
    if given is None or (isinstance(type, TensorType) and not isinstance(given, torch.Tensor)):
        raise InterpreterError(f"input {graph_input.name!r} is {type}, got {given!r}")
    return given


def _returned(output: Output, values: dict[int, Any]) -> Any:
    return output.literal if output.value is None else values[id(output.value)]


def _last_uses(graph: Graph) -> dict[int, tuple[int, ...]]:
    """Return, for each node, the values whose last use it is."""
    last: dict[int, list[int]] = {}
    seen = {id(value) for output in graph.outputs for value in (output.value, output.target) if value is not None}
    for node in reversed(graph.nodes):
        keys = [id(result) for result in node.results]
        keys += [id(value) for _, _, value in node.operand_values() if value.constant is None]
        for key in keys:
            if key not in seen:
                seen.add(key)
                last.setdefault(id(node), []).append(key)
    return {key: tuple(values) for key, values in last.items()}


def _runner(node: Node) -> Callable[[dict[int, Any]], Sequence[Any]]:
    """Return a function that runs `node` on values indexed by identity."""
    op = node.op
    if op.evaluate is not None:
        operands, attributes, evaluate = dict(node.operands), dict(node.attributes), op.evaluate

        def run_reference(values: dict[int, Any]) -> Sequence[Any]:
            bound = {name: _read(operand, values) for name, operand in operands.items()}
            return call_results(node, evaluate(**bound, **attributes))

        return run_reference
    if op.target is None:
        raise InterpreterError(f"{node.name}: {op.name} has neither a torch target nor a reference implementation")
    target, check = op.target, operand_check(op.name)
    args, kwargs = call_arguments(node, _Slot, _body)

    def run_torch(values: dict[int, Any]) -> Sequence[Any]:
        got = [_fill(argument, values) for argument in args]
        named = {name: _fill(argument, values) for name, argument in kwargs.items()}
        fault = None if check is None else check(op.bind(got, named))
        if fault is not None:
            raise InterpreterError(f"{node.name}: {op.name}: {fault}")
        return call_results(node, target(*got, **named))

    return run_torch


def _body(graph: Graph) -> torch.nn.Module:
    from graphpress.ir.torch.graph_module_writer import body_module

    return body_module(graph)


class _Slot:
    """A placeholder for a value in prepared arguments."""

    __slots__ = ("key",)

    def __init__(self, value: Value):
        self.key = id(value)


def _fill(argument: Any, values: dict[int, Any]) -> Any:
    if type(argument) is _Slot:
        return values[argument.key]
    if type(argument) is list or type(argument) is tuple:
        return type(argument)([_fill(item, values) for item in argument])
    if type(argument) is dict:
        return {key: _fill(item, values) for key, item in argument.items()}
    return argument


def _read(operand: Any, values: dict[int, Any]) -> Any:
    if isinstance(operand, Value):
        return values[id(operand)]
    return [_read(item, values) for item in operand] if isinstance(operand, tuple) else operand
