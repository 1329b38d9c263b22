"""Which node has which op, side by side, so that who looks for some ops touches no other nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from graphpress.ir.ops import OpDef
from graphpress.ir.values import Node


@frozen(eq=False)
class OpIndex:
    """The nodes of a graph as it was, in execution order, and the number of each one's op among the `ops` there are."""

    nodes: tuple[Node, ...]
    ops: tuple[OpDef, ...]
    numbers: NDArray[np.int32]

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> OpIndex:
        """Index `nodes` in one walk."""
        nodes, known = tuple(nodes), dict[OpDef, int]()
        numbers = [known.setdefault(node.op, len(known)) for node in nodes]
        return cls(nodes, tuple(known), np.array(numbers, np.int32))

    def select(self, wanted: Callable[[OpDef], object]) -> list[Node]:
        """The nodes whose op is `wanted`, in execution order; each op is asked about once."""
        is_wanted = np.array([bool(wanted(op)) for op in self.ops], np.bool_)
        return [self.nodes[place] for place in np.flatnonzero(is_wanted[self.numbers]).tolist()]
