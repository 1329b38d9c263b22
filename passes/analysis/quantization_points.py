"""Quantization points: annotations by which passes place quantizers before inserting them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, TypeGuard

from attrs import evolve, frozen

from graphpress.ir.annotations import annotation
from graphpress.ir.graph import Node, Value
from graphpress.passes.analysis.fusion import LAYERS
from graphpress.passes.analysis.value_preserving import only_moves_values
from graphpress.passes.config import (
    Granularity,
    PerTensorGranularity,
    QATSchedule,
    QuantizationScheme,
    QuantizationSpec,
)


@frozen
class Quantizer:
    """A quantizer.

    Attributes:
        name: unique in its graph.
        spec: the quantization spec.
        wanted: the spec in the config, if a known range changed it; else None.
        block_size: the block size per axis, empty for one block.
        is_state: True for a weight or other tensor of the model.
        source: the config path of the spec.
        rank: the specificity of that path; the higher one wins for a shared value.
        schedule: the training steps in which it observes and quantizes; None for all.
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
        """Return the spec in the config."""
        return self.wanted or self.spec


class Side(StrEnum):
    """The side of a node: inputs or outputs."""

    INPUT = "input"
    OUTPUT = "output"


@frozen
class Point:
    """A point of a node: an operand (`operand`, and `index` inside a list) or a result (`index`).

    A passive point belongs to an op that only moves values: it follows its neighbours, and is removed if none of them
    is quantized. A point in floats belongs to an op that is computed in floats: it takes part in decisions, but no
    quantizer is inserted there. A result is quantized where ops that compute on codes read it.
    """

    side: Side
    quantizer: Quantizer
    operand: str = ""
    index: int | None = None
    is_passive: bool = False
    in_floats: bool = False

    def value(self, node: Node) -> Value:
        """Return the value of `node` at this point."""
        if self.side is Side.OUTPUT:
            return node.results[self.index or 0]
        operand = node.operands[self.operand]
        value: Value = operand if self.index is None else operand[self.index]
        return value

    def with_quantizer(self, quantizer: Quantizer) -> Point:
        """Return the point with another quantizer."""
        return evolve(self, quantizer=quantizer)


@annotation("points")
@frozen
class QuantizationPoints:
    """The points of a node, inputs first."""

    points: tuple[Point, ...] = ()


@annotation("quantizer")
@frozen
class QuantizerNote:
    """Annotation of a ``quant.fake_quantize`` node: its quantizer."""

    quantizer: Quantizer


def activation_block(granularity: Granularity, shape: Sequence[Any], name: str) -> tuple[int, ...]:
    """Return the block size per axis, -1 for a whole or symbolic axis; empty for one block.

    Raises:
        AxisError, BlockSizeError: if the granularity does not fit the shape.
    """
    if isinstance(granularity, PerTensorGranularity):
        return ()
    dims = tuple(dim if isinstance(dim, int) else 1 for dim in shape)
    box = granularity.block_shape(dims, name)
    return tuple(-1 if size == dim else size for size, dim in zip(box, dims, strict=True))


_BOUNDED_BELOW = frozenset(
    ["relu", "relu6", "hardsigmoid", "softmax", "softplus", "gelu", "silu", "hardswish", "mish", "elu", "celu", "selu"]
)
_GATES = frozenset({"sigmoid", "hardsigmoid", "softmax"})
# The lowest result, and the numerator of the scale: 1/256 for an 8-bit sigmoid, 2/256 for tanh.
_OPEN_RANGES: dict[str, tuple[float, float]] = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 2.0)}


def with_known_range(spec: QuantizationSpec, node: Node) -> QuantizationSpec:
    """Adapt `spec` to what is known of the results of `node`.

    A symmetric scheme would waste half of the codes on an output without negative values, and nearly half on one that
    ends little below zero, such as that of a GELU or of a batch norm behind a relu, so it becomes asymmetric, as it
    does where both ends are known. Ends are observed, since data may stay far from the bounds of the op. The range of a
    sigmoid is fixed, and that of a tanh behind a layer: any other often caps values softly, far from its bounds. Float
    specs, and specs with an explicit range or scheme, are returned unchanged.
    """
    if spec.element_type.is_floating or spec.float_range != (None, None):
        return spec
    if _has_fixed_range(node):
        low, width = _OPEN_RANGES[node.op.family]
        steps = int(spec.quant_max) - int(spec.quant_min)
        fixed = low, low + width * steps / (steps + 1)
        return evolve(spec, qscheme=QuantizationScheme.ASYMMETRIC, float_range=fixed)
    return evolve(spec, qscheme=QuantizationScheme.ASYMMETRIC) if _has_known_bounds(node) else spec


def _has_fixed_range(node: Node) -> bool:
    if node.op.family != "tanh":
        return node.op.family in _OPEN_RANGES
    source = node.operands["self"].node
    return source is not None and source.op.family in LAYERS | {"batch_norm"}


def _has_known_bounds(node: Node) -> bool:
    """Return True if the results end at zero or little below it, or both ends are known."""
    match node.op.family:
        case "hardtanh":
            low, high = node.attribute("min_val"), node.attribute("max_val")
        case "clamp" | "clamp_min":
            low, high = node.attributes.get("min"), node.attributes.get("max")
        case "mul":
            return _is_gated(node)
        case "batch_norm":
            maker = _maker(node.operands["input"])
            return maker is not None and _has_known_bounds(maker) and _has_positive_gain(node)
        case family:
            return family in _BOUNDED_BELOW
    return _is_bound(low) and (low >= 0 or (_is_bound(high) and high >= 0))


def _is_gated(node: Node) -> bool:
    """Return True for a gate between 0 and 1 times results that end near zero, as in a squeeze-and-excitation block."""
    makers = [maker for _, _, value in node.operand_values() if (maker := _maker(value)) is not None]
    if len(makers) != 2:
        return False
    return any(
        gate.op.family in _GATES and (gated.op.family in _GATES or _has_known_bounds(gated))
        for gate, gated in (makers, makers[::-1])
    )


def _has_positive_gain(norm: Node) -> bool:
    """Return True for a norm in evaluation mode that turns no channel upside down."""
    weight = norm.operand("weight")
    if norm.attribute("training"):
        return False
    if weight is None:
        return True
    constant = weight.constant
    return constant is not None and constant.has_data and bool((constant.tensor > 0).all())


def _maker(value: Value) -> Node | None:
    """The node that computes `value`, apart from ops with one operand that only move values."""
    node = value.node
    while node is not None and only_moves_values(node):
        values = [each for _, _, each in node.operand_values() if each.is_floating]
        node = values[0].node if len(values) == 1 else None
    return node


def _is_bound(given: object) -> TypeGuard[float]:
    """Return True for a finite number: clamping at infinity is not clamping."""
    return isinstance(given, int | float) and math.isfinite(given)
