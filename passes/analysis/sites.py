"""Nodes as configs see them: name, op type, the modules they run in, and the weights they read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache

from attrs import frozen

from graphpress.ir.graph import Node, Output, Value
from graphpress.ir.location import ModuleScope as LocationScope
from graphpress.ir.types import TensorType
from graphpress.passes.analysis.constants import root_constant
from graphpress.passes.analysis.value_preserving import preserves_values
from graphpress.passes.analysis.weights import is_weight, sparse_parts
from graphpress.passes.config import ModuleScope, ModuleStack, Obstacle, OpSite, SkipReason, WeightSite


def site_of(node: Node, constant: Collection[int]) -> OpSite:
    """Return the config address of `node`; `constant` has the ``id`` of every value that depends on constants only."""
    states: list[str] = []
    for name, _, value in node.operand_values():
        if id(value) in constant:
            states += [name, *parameter_names(value)]
            states += ["weight"] if is_weight(node, name, value) else []
    return OpSite(
        node.name,
        node.op.family,
        stack_of(node),
        tuple(name for name, _, _ in tensor_operands(node)),
        _result_names(len(node.results)),
        tuple(dict.fromkeys(states)),
    )


@frozen(eq=False)
class WeightReading:
    """A weight as one node reads it.

    Attributes:
        node, operand, index: where it is read.
        value: what is read.
        origin: the same value outside of the subgraph that reads it; else `value` itself.
        stored: the constant, or the expansion of a pruned one, that `origin` has the elements of; None where it is
            computed from constants.
        is_moved: True where `origin` has the elements of `stored` in another arrangement.
        site: the weight as configs address it.
    """

    node: Node
    operand: str
    index: int | None
    value: Value
    origin: Value
    stored: Value | None
    is_moved: bool
    site: WeightSite

    @property
    def name(self) -> str:
        """The qualified name of the weight."""
        if self.stored is None:
            path = self.node.location.module_path
            return f"{path}.{self.operand}" if path else self.operand
        root = root_constant(self.stored)
        return self.value.name if root is None else parameter_name(root.name)


def weights_read(node: Node, site: OpSite, constant: Collection[int]) -> Iterator[WeightReading]:
    """The weights that `node`, at `site`, reads: floating constants of two axes or more that it multiplies its input
    with or picks rows from, and those that it would if the graph did not write to them.
    """
    for operand, index, value in node.operand_values():
        if is_weight(node, operand, value) and (id(value) in constant or _written_parameter(value)):
            yield weight_read(node, operand, index, value, site)


def weight_read(
    node: Node, operand: str, index: int | None, value: Value, site: OpSite, passed: Value | None = None
) -> WeightReading:
    """The weight that `node`, at `site`, reads as `value`; in a subgraph `passed` is the weight outside of it."""
    origin = value if passed is None else passed
    stored, is_moved = behind_views(origin)
    obstacle = None
    if _written_parameter(origin):
        obstacle = Obstacle(SkipReason.CHANGED_BY_FORWARD, "the model changes it as it runs, as max_norm does")
    described = WeightSite(
        site, parameter_names(origin), value.tensor_type.rank, operand, True, obstacle, node.location
    )
    return WeightReading(node, operand, index, value, origin, stored, is_moved, described)


def behind_views(value: Value) -> tuple[Value | None, bool]:
    """What is stored that `value` has the elements of, None where that is computed; and whether they are arranged in
    another way.
    """
    is_moved = False
    while value.node is not None:
        if (parts := sparse_parts(value)) is not None:
            return (value if all(part.constant is not None for part in parts) else None), is_moved
        operands = [operand for _, _, operand in value.node.operand_values()]
        if len(operands) != 1 or not preserves_values(value.node):
            return None, is_moved
        value, is_moved = operands[0], True
    return (None if value.constant is None else value), is_moved


def parameter_names(value: Value) -> tuple[str, ...]:
    """The names, within their modules, of the parameter that `value` is made from."""
    root = root_constant(value)
    return () if root is None else tuple(parameter_name(name).rpartition(".")[2] for name in root.names)


def parameter_name(constant: str) -> str:
    """The qualified name of the parameter that passes made the constant of this name from."""
    return constant.removesuffix("_folded").removesuffix("_nonzero_data")


def _written_parameter(value: Value) -> bool:
    """True for a parameter that the graph writes to, and for what it writes."""
    targets = [use.user.target for use in value.uses if isinstance(use.user, Output)]
    written = [value] if value.constant is not None and value.constant.is_mutated else targets
    return any(each is not None and each.constant is not None and each.constant.kind == "parameter" for each in written)


def stack_of(node: Node) -> ModuleStack:
    """Return the modules that `node` runs in, the root first."""
    return _stack(node.location.scopes)


def tensor_operands(node: Node) -> list[tuple[str, int | None, Value]]:
    """Return the tensor operands of `node` in parameter order, which is the input order of configs."""
    order = {parameter.name: place for place, parameter in enumerate(node.op.parameters)}
    operands = [item for item in node.operand_values() if isinstance(item[2].type, TensorType)]
    return sorted(operands, key=lambda item: (order.get(item[0], 0), item[1] or 0))


@lru_cache(maxsize=64)
def _result_names(count: int) -> tuple[str, ...]:
    return ("output",) if count == 1 else tuple(f"output_{index}" for index in range(count))


@lru_cache(maxsize=4096)
def _stack(scopes: tuple[LocationScope, ...]) -> ModuleStack:
    return tuple(ModuleScope(scope.path, (scope.type_name,)) for scope in scopes) or (ModuleScope(""),)
