"""Compress the weights of a program by passes over what is imported of it, and find what they made of each constant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen

from graphpress.ir.graph import Graph, Node, Value
from graphpress.passes.config import SkippedWeight, warn_of_skipped
from graphpress.passes.framework import Pipeline, Runner


@frozen(eq=False)
class StoredWeight:
    """A constant of a program that passes replaced.

    Attributes:
        origin: the constant, as the program has it.
        value: what the readers of the constant read now: `quant` ops over constants, or another constant.
    """

    origin: Any
    value: Value

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The ops that expand it, each after what it reads."""
        found: dict[int, Node] = {}
        _collect(self.value, found)
        return tuple(found.values())


def compress(graph: Graph, origins: Mapping[Value, Any], pipeline: Pipeline) -> list[StoredWeight]:
    """Run `pipeline` over `graph`, which is changed, and tell what became of the constants of the program.

    Args:
        graph: what was imported of a function. It may be one that can only be looked at: see `Reader.declared`.
        origins: the constants of the graph, with what they are in the program.
        pipeline: passes that replace weights and leave their readers in place.
    """
    watched = [each for value, origin in origins.items() if (each := _Watched.of(value, origin)) is not None]
    result = Runner(verify=False).run(graph, pipeline, in_place=True)
    warn_of_skipped(result.remarks(SkippedWeight), stacklevel=4)
    return [StoredWeight(each.origin, now) for each in watched if (now := each.replacement()) is not None]


@frozen(eq=False)
class _Watched:
    """A constant before the passes, and one place where it is read."""

    origin: Any
    before: torch.Tensor
    node: Node
    operand: str
    index: int | None

    @classmethod
    def of(cls, value: Value, origin: Any) -> _Watched | None:
        """The first place where a node reads a constant; None where there is none."""
        for use in value.uses:
            if isinstance(use.user, Node) and value.constant is not None:
                return cls(origin, value.constant.tensor, use.user, use.operand, use.index)
        return None

    def replacement(self) -> Value | None:
        """What is read there now; None where it is what it was."""
        operand: Any = self.node.operands[self.operand]
        now: Value = operand if self.index is None else operand[self.index]
        return None if now.constant is not None and now.constant.tensor is self.before else now


def _collect(value: Value, found: dict[int, Node]) -> None:
    if value.node is None or id(value.node) in found:
        return
    for _, _, operand in value.node.operand_values():
        _collect(operand, found)
    found[id(value.node)] = value.node
