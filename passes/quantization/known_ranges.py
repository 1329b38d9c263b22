"""Ops whose output range is known before any data: their quantizers need no or less calibration."""

from __future__ import annotations

from attrs import evolve

from graphpress.ir.graph import Node
from graphpress.passes.specs import QuantizationScheme, QuantizationSpec

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
