"""Fusion groups: ops that a backend executes as one, described by extensible patterns."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from attrs import field, frozen

from graphpress.ir.annotations import annotation
from graphpress.ir.aten_traits import families_with
from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.ir.ops import Trait


class Role(StrEnum):
    """The position of a node in its group."""

    ANCHOR = "anchor"
    """The first op, whose config decides for the group."""
    MEMBER = "member"
    TAIL = "tail"
    """The last op, whose result is that of the group."""
    WHOLE = "whole"
    """A group of one op."""


@annotation("fusion")
@frozen
class FusionGroup:
    """Membership of a node in a fused group, within which nothing is quantized."""

    anchor: str
    pattern: str
    role: Role


class FusionPatternError(GraphpressError, ValueError):
    """A fusion pattern that cannot be registered or found."""


def _families(names: str | Iterable[str]) -> frozenset[str]:
    return frozenset(names.split() if isinstance(names, str) else names)


def _chain(steps: Iterable[str | Iterable[str]]) -> tuple[frozenset[str], ...]:
    return tuple(_families(step) for step in steps)


@frozen
class FusionPattern:
    """A chain of ops in which each op is the only user of the previous one.

    Attributes:
        name: unique.
        chain: the op types allowed at each position, as in a config (``conv2d``, ``add``, ``relu``), each a string with
            spaces or an iterable.
    """

    name: str
    chain: tuple[frozenset[str], ...] = field(converter=_chain)

    @chain.validator
    def _check(self, attribute: object, chain: tuple[frozenset[str], ...]) -> None:
        if not chain or not all(chain):
            raise FusionPatternError(f"fusion pattern {self.name!r} needs at least one op type at every place")


_CONVOLUTION = _families("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
LAYERS = _CONVOLUTION | {"linear"}
_BINARY = _families("add mul sub div")
PRODUCTS = _families("matmul bmm einsum baddbmm addmm mm bilinear")
_NORM = _families("layer_norm group_norm instance_norm rms_norm batch_norm")
CLAMPS = _families("clamp clamp_min clamp_max")
COMPUTED_IN_FLOATS = CLAMPS | (_NORM - {"batch_norm"}) | {"softmax", "div"}
"""Ops that no backend computes on codes: their operands have no grid of their own."""
OPERANDS_IN_FLOATS = COMPUTED_IN_FLOATS - CLAMPS
"""Ops that read floats where their operands are no codes yet."""
RESULTS_IN_FLOATS = OPERANDS_IN_FLOATS | {"embedding", "embedding_bag"}
"""Ops whose results are floats: codes of them only serve readers that compute on codes."""
_ACTIVATION = families_with(Trait.ACTIVATION)
_ALONE = (
    _ACTIVATION
    | _NORM
    | PRODUCTS
    | _BINARY
    | _families("embedding embedding_bag softmax scaled_dot_product_attention upsample_bilinear2d upsample_bicubic2d")
)

_PATTERNS: dict[str, FusionPattern] = {
    pattern.name: pattern
    for pattern in (
        FusionPattern("layer-norm-activation", (LAYERS, {"batch_norm"}, _ACTIVATION)),
        FusionPattern("layer-norm", (LAYERS, {"batch_norm"})),
        FusionPattern("layer-activation", (LAYERS, _ACTIVATION)),
        FusionPattern("layer-softmax", (LAYERS, {"softmax"})),
        FusionPattern("layer", (LAYERS,)),
        FusionPattern("product-activation", (PRODUCTS, _ACTIVATION)),
        FusionPattern("binary-activation", (_BINARY, _ACTIVATION)),
        FusionPattern("norm-activation", (_NORM, _ACTIVATION)),
        FusionPattern("alone", (_ALONE,)),
    )
}


def register_fusion_pattern(pattern: FusionPattern) -> FusionPattern:
    """Register a chain for `annotate-fusion`.

    Longer chains are tried first; among equals, the newest.

    Raises:
        FusionPatternError: if the name is taken.
    """
    if pattern.name in _PATTERNS:
        raise FusionPatternError(f"fusion pattern {pattern.name!r} is already registered; unregister it first")
    _PATTERNS[pattern.name] = pattern
    return pattern


def unregister_fusion_pattern(name: str) -> None:
    """Unregister a pattern.

    Raises:
        FusionPatternError: if there is no pattern of that name.
    """
    if name not in _PATTERNS:
        raise FusionPatternError(f"no fusion pattern {name!r}{suggestion(name, _PATTERNS)}")
    del _PATTERNS[name]


def fusion_patterns() -> tuple[FusionPattern, ...]:
    """Return all patterns, including those of installed packages, in matching order."""
    from graphpress.passes.framework.registry import load_plugins

    load_plugins()
    newest_first = list(_PATTERNS.values())[::-1]
    return tuple(sorted(newest_first, key=lambda pattern: -len(pattern.chain)))
