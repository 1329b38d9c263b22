"""A compressed weight as it is stored, whichever technique made it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from graphpress.ir.graph import Node, Value
from graphpress.ir.rewriter import Rewriter


class StoredWeight(ABC):
    """Tensors that take less space than the weight, and the ops that make the weight of them.

    Passes expand it in their graph; compressors of modules expand it in a graph of its own, lower that, and compute the
    parameter by what came out. So both store the same.
    """

    @abstractmethod
    def dense(self) -> Tensor:
        """The weight that is stored, by the formulas of `graphpress.ir.reference`."""

    @abstractmethod
    def expand(self, base: str, before: Node | None, rewriter: Rewriter, mask: Value | None = None) -> Value:
        """Add the tensors as constants and the ops that make the weight of them.

        Args:
            base: the name of the weight; those of the constants start with it.
            before: the node in front of which the ops go; None is the end of the graph.
            rewriter: of the graph.
            mask: the constant of kept elements, where the graph has it already.
        """


def node_name(base: str, suffix: str) -> str:
    """The name of a node that makes a part of the weight called `base`."""
    return f"{base}_{suffix}".replace(".", "_")
