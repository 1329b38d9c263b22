"""Where the nodes of each op stand, so that who looks for some ops visits no others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain

from attrs import frozen

from graphpress.ir.ops import OpDef
from graphpress.ir.values import Node


@frozen(eq=False)
class OpIndex:
    """The nodes of a graph as it was, and the places of each op among them."""

    nodes: tuple[Node, ...]
    places: Mapping[OpDef, list[int]]

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> OpIndex:
        """Index `nodes`, given in execution order, in one walk."""
        nodes, places = tuple(nodes), dict[OpDef, list[int]]()
        for place, node in enumerate(nodes):
            places.setdefault(node.op, []).append(place)
        return cls(nodes, places)

    def select(self, wanted: Callable[[OpDef], object]) -> list[Node]:
        """The nodes whose op is `wanted`, in execution order; each op of the graph is asked about once."""
        found = [places for op, places in self.places.items() if wanted(op)]
        places = found[0] if len(found) == 1 else sorted(chain.from_iterable(found))
        return [self.nodes[place] for place in places]
