"""Quantization points: the notes by which passes agree on quantizers before any exists.

A point says that one value, where a node reads it or makes it, goes through a quantizer. Points with quantizers of
the same name share one set of parameters.
"""

from __future__ import annotations

from enum import StrEnum

from attrs import evolve, frozen

from graphpress.ir.annotations import annotation
from graphpress.ir.graph import Node, Value
from graphpress.passes.configs import QATSchedule
from graphpress.passes.specs import QuantizationSpec


@frozen
class Quantizer:
    """One quantizer.

    Attributes:
        name: unique in its graph.
        spec: how it quantizes.
        wanted: the spec the config gave, where a known range changed it; else None.
        block_size: the extent of a block along each axis, empty for one block.
        is_state: True for a weight or other tensor of the model's own.
        source: the place in the config that asked for it.
        rank: how specific that place is; where two want one value, the higher wins.
        schedule: when it observes and quantizes in training; None is from the first step to the last.
    """

    name: str
    spec: QuantizationSpec
    wanted: QuantizationSpec | None = None
    block_size: tuple[int, ...] = ()
    is_state: bool = False
    source: str = ""
    rank: int = 0
    schedule: QATSchedule | None = None

    @property
    def asked(self) -> QuantizationSpec:
        """The spec the config gave."""
        return self.wanted or self.spec


class Side(StrEnum):
    """Which side of a node a point is on."""

    INPUT = "input"
    OUTPUT = "output"


@frozen
class Point:
    """One point of a node: an operand (`operand`, and `index` inside a list) or a result (`index`).

    A passive point belongs to an op that only moves values: it follows its neighbours, and goes when none of them is
    quantized.
    """

    side: Side
    quantizer: Quantizer
    operand: str = ""
    index: int | None = None
    is_passive: bool = False

    def value(self, node: Node) -> Value:
        """The value of `node` that the point is about."""
        if self.side is Side.OUTPUT:
            return node.results[self.index or 0]
        operand = node.operands[self.operand]
        value: Value = operand if self.index is None else operand[self.index]
        return value

    def with_quantizer(self, quantizer: Quantizer) -> Point:
        """The same point with another quantizer."""
        return evolve(self, quantizer=quantizer)


@annotation("points")
@frozen
class QuantizationPoints:
    """The points of a node, inputs first."""

    points: tuple[Point, ...] = ()


@annotation("quantizer")
@frozen
class QuantizerNote:
    """On a ``quant.fake_quantize`` node: the quantizer it belongs to."""

    quantizer: Quantizer
