"""Quantization points: the notes by which passes agree on quantizers before any exists."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from attrs import evolve, frozen

from graphpress.ir.annotations import annotation
from graphpress.ir.graph import Node, Value
from graphpress.passes.config import (
    Granularity,
    PerTensorGranularity,
    QATSchedule,
    QuantizationScheme,
    QuantizationSpec,
)


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


def activation_block(granularity: Granularity, shape: Sequence[Any], name: str) -> tuple[int, ...]:
    """The extents of a block, -1 for a whole axis; empty for one block. Symbolic extents are whole axes.

    Raises:
        AxisError, BlockSizeError: when the granularity does not fit the shape.
    """
    if isinstance(granularity, PerTensorGranularity):
        return ()
    extents = tuple(extent if isinstance(extent, int) else 1 for extent in shape)
    box = granularity.block_shape(extents, name)
    return tuple(-1 if size == extent else size for size, extent in zip(box, extents, strict=True))


# The range of the result; None is an end that data decides.
_RANGES: dict[str, tuple[float | None, float | None]] = {
    "relu": (0.0, None),
    "relu6": (0.0, 6.0),
    "hardsigmoid": (0.0, 1.0),
}
# Open ranges, by what the codes divide: a scale of 1/256 for 8-bit sigmoid, of 2/256 for tanh.
_OPEN_RANGES: dict[str, tuple[float, float]] = {"sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 2.0)}


def with_known_range(spec: QuantizationSpec, node: Node) -> QuantizationSpec:
    """`spec` for the output of `node`, made to fit the range the op is known to have.

    After an op that gives no negative values a symmetric scheme would waste half its codes, so it becomes asymmetric;
    ends that are known are fixed. A spec for floats, or with a range or scheme of its own that says otherwise, stays.
    """
    known = _known_range(node, spec)
    if known is None or spec.element_type.is_floating or spec.float_range != (None, None):
        return spec
    float_range = known if None not in known else (None, None)
    return evolve(spec, qscheme=QuantizationScheme.ASYMMETRIC, float_range=float_range)


def _known_range(node: Node, spec: QuantizationSpec) -> tuple[float | None, float | None] | None:
    family = node.op.family
    if family in ("hardtanh", "clamp"):
        low, high = (
            (node.attribute("min_val"), node.attribute("max_val"))
            if family == "hardtanh"
            else (node.attributes.get("min"), node.attributes.get("max"))
        )
        if not isinstance(low, int | float) or not isinstance(high, int | float):
            return None
        return (float(low), float(high)) if low <= 0 <= high and low < high else None
    if family in _OPEN_RANGES:
        low, width = _OPEN_RANGES[family]
        steps = int(spec.quant_max) - int(spec.quant_min) if not spec.element_type.is_floating else 255
        return low, low + width * steps / (steps + 1)
    return _RANGES.get(family)
