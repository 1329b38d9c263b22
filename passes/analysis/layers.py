"""Linear layers with a weight operand, in either weight layout."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from graphpress.ir.graph import Node

_CONVOLUTIONS = {f"conv{d}d": d for d in (1, 2, 3)}
_TRANSPOSED = {f"conv_transpose{d}d": d for d in (1, 2, 3)}


@frozen
class Layer:
    """A convolution, transposed convolution or linear node.

    Attributes:
        node: the node, with operands `input`, `weight` and optionally `bias`.
        spatial: the number of spatial axes; 0 for linear.
        is_transposed: True if axis 0 of the weight is the input channels.
    """

    node: Node
    spatial: int
    is_transposed: bool = False

    @property
    def groups(self) -> int:
        """The number of channel groups."""
        return int(self.node.attribute("groups")) if self.spatial else 1

    @property
    def out_axis(self) -> int:
        """The weight axis of the output channels (of one group, for transposed convolutions)."""
        return 1 if self.is_transposed else 0

    @property
    def has_padding(self) -> bool:
        """True if the input is padded with zeros."""
        if not self.spatial or self.is_transposed:
            return False
        padding: Any = self.node.attribute("padding")
        return padding != "valid" and any(p != 0 for p in (padding if isinstance(padding, tuple) else [padding]))

    def out_features_axis(self, rank: int) -> int:
        """Return the output axis of the output channels, counted from the front, for an output of `rank` axes."""
        return rank - 1 if not self.spatial else rank - 1 - self.spatial

    def in_features_axis(self, rank: int) -> int:
        """Return the input axis that the layer sums over, counted from the front."""
        return self.out_features_axis(rank)


def layer_of(node: Node) -> Layer | None:
    """Return `node` as a layer, or None if it is not one or its weight is not an operand."""
    if node.op.dialect != "aten" or node.operand("weight") is None:
        return None
    name = node.op.short_name
    if name == "linear":
        return Layer(node, 0)
    if name in _CONVOLUTIONS:
        return Layer(node, _CONVOLUTIONS[name])
    if name in _TRANSPOSED:
        return Layer(node, _TRANSPOSED[name], is_transposed=True)
    return None
