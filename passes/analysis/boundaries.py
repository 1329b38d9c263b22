"""Inputs and outputs of modules, and the specs that a config sets for them.

A graph records the module of each node, not the module's call. The inputs of a module are therefore the outside values
that its nodes read, in order of the first read, and its outputs the inside values that are read outside, in order of
definition. The root module has the inputs and outputs of the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import define, field, frozen

from graphpress.ir.graph import Graph, Node, Value
from graphpress.passes.analysis.sites import stack_of
from graphpress.passes.config import ConfigResolver, Decision, ModuleScope, ModuleStack

Place = tuple[int, str, int | None]
"""Key of an operand: the node's ``id``, the operand name, the index in a list."""


@define(eq=False)
class _Module:
    stack: ModuleStack
    order: int
    inputs: dict[int, Value] = field(factory=dict)
    outputs: dict[int, Value] = field(factory=dict)
    reads: list[tuple[int, Place]] = field(factory=list)


@frozen
class Boundaries:
    """The quantization decisions at module boundaries.

    Attributes:
        entering: by operand, for values that enter a module with a spec for them.
        leaving: by ``id`` of the value, for values that leave such a module.
        names: for each module with such a spec, the names of its inputs and outputs.
    """

    entering: Mapping[Place, Decision]
    leaving: Mapping[int, Decision]
    names: Mapping[ModuleScope, tuple[tuple[str, ...], tuple[str, ...]]]


def boundaries(graph: Graph, resolver: ConfigResolver, constant: Iterable[int]) -> Boundaries:
    """Resolve the `module_input_spec` and `module_output_spec` of a config in `graph`.

    Args:
        graph: the model.
        resolver: the resolver of the config.
        constant: the ``id`` of every value that depends on constants only; these are not module inputs.
    """
    if not resolver.has_boundaries:
        return Boundaries({}, {}, {})
    modules = _modules(graph, frozenset(constant))
    entering: dict[Place, Decision] = {}
    leaving: dict[int, Decision] = {}
    names: dict[ModuleScope, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    arguments = _argument_names(graph)
    for module in sorted(modules, key=lambda module: len(module.stack)):
        is_model = not module.stack[-1].path
        inputs = list(module.inputs)
        known = [arguments.get(key, f"input_{at}") if is_model else f"input_{at}" for at, key in enumerate(inputs)]
        made = [f"output_{at}" for at in range(len(module.outputs))]
        names[module.stack[-1]] = tuple(known), tuple(made)
        for key, place in module.reads:
            at = inputs.index(key)
            _take(entering, place, resolver.explain_module_input(module.stack, at, known[at]))
        for at, key in enumerate(module.outputs):
            _take(leaving, key, resolver.explain_module_output(module.stack, at, made[at]))
    return Boundaries(entering, leaving, names)


def _take(decisions: dict, key: object, decision: Decision) -> None:  # type: ignore[type-arg]
    """Keep the more specific decision of nested modules, and among equal ones that of the inner module."""
    if decision.explicit and (key not in decisions or decision.level >= decisions[key].level):
        decisions[key] = decision


def _modules(graph: Graph, constant: frozenset[int]) -> list[_Module]:
    """Return every module with nodes, with its boundary."""
    modules: dict[str, _Module] = {}
    inside: dict[int, frozenset[str]] = {}  # node -> paths of its modules

    def paths(node: Node | None) -> frozenset[str]:
        return frozenset() if node is None else inside[id(node)]

    root = _Module((ModuleScope(""),), 0)
    for node in graph.nodes:
        stack = stack_of(node)
        for depth, scope in enumerate(stack, 1):
            if scope.path not in modules:
                modules[scope.path] = _Module(stack[:depth], len(modules))
        inside[id(node)] = frozenset(scope.path for scope in stack)
        for name, index, value in node.operand_values():
            if id(value) in constant or not is_float(value):
                continue
            for path in sorted(inside[id(node)] - paths(value.node) - {""}):
                modules[path].inputs.setdefault(id(value), value)
                modules[path].reads.append((id(value), (id(node), name, index)))
    root = modules.setdefault("", root)
    for entry in graph.inputs:
        given = entry.value
        if given is not None and is_float(given):
            root.inputs[id(given)] = given
            root.reads += [
                (id(given), (id(use.user), use.operand, use.index)) for use in given.uses if isinstance(use.user, Node)
            ]
    for node in graph.nodes:
        for result in filter(is_float, node.results):
            if id(result) in constant:
                continue
            readers = [paths(use.user) if isinstance(use.user, Node) else frozenset() for use in result.uses]
            for path in inside[id(node)] - {""}:
                if any(path not in reader for reader in readers):
                    modules[path].outputs[id(result)] = result
    for output in graph.user_outputs():
        if output.value is not None and is_float(output.value):
            root.outputs[id(output.value)] = output.value
    return list(modules.values())


def _argument_names(graph: Graph) -> dict[int, str]:
    return {id(entry.value): entry.name for entry in graph.inputs if entry.value is not None}


def is_float(value: Value) -> bool:
    """Return True for a float tensor of 16 bits or more."""
    return value.is_floating and value.tensor_type.dtype.bits >= 16
