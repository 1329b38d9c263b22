"""The stored form of a compressed weight, for all techniques."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from graphpress.ir.graph import Node, Value
from graphpress.ir.rewriter import Rewriter


class StoredWeight(ABC):
    """The tensors of a compressed weight, and the ops that compute the weight from them.

    Passes expand it in their graph. Compressors of modules expand it in a separate graph, lower that graph, and compute
    the parameter with the result, so both store the same tensors.
    """

    @abstractmethod
    def dense(self) -> Tensor:
        """The dense weight, by the formulas of `graphpress.ir.reference`."""

    @abstractmethod
    def expand(self, base: str, before: Node | None, rewriter: Rewriter, mask: Value | None = None) -> Value:
        """Add the tensors as constants, and the ops that compute the weight from them.

        Args:
            base: the name of the weight; those of the constants start with it.
            before: the node before which the ops are inserted; None means the end of the graph.
            rewriter: of the graph.
            mask: the mask constant, if the graph has it already.
        """


def node_name(base: str, suffix: str) -> str:
    """The name of a node that computes a part of the weight called `base`."""
    return f"{base}_{suffix}".replace(".", "_")
