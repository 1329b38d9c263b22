"""Which ops a backend runs as one: patterns that users extend, and the note that marks a group."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from attrs import field, frozen

from graphpress.ir.annotations import annotation
from graphpress.ir.aten_traits import families_with
from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.ir.ops import Trait


class Role(StrEnum):
    """What a node is to its group."""

    ANCHOR = "anchor"
    """The first op; its config decides for the group."""
    MEMBER = "member"
    TAIL = "tail"
    """The last op; its result is the result of the group."""
    WHOLE = "whole"
    """Anchor and tail at once: a group of one."""


@annotation("fusion")
@frozen
class FusionGroup:
    """A node's place in a group that a backend runs as one op, so that nothing between its members is quantized."""

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
    """A chain of ops, each reading the one before it and nothing else reading that.

    Attributes:
        name: unique.
        chain: for each place the op types allowed there, as in a config (``conv2d``, ``add``, ``relu``), given as a
            string with spaces between them or as an iterable.
    """

    name: str
    chain: tuple[frozenset[str], ...] = field(converter=_chain)

    @chain.validator
    def _check(self, attribute: object, chain: tuple[frozenset[str], ...]) -> None:
        if not chain or not all(chain):
            raise FusionPatternError(f"fusion pattern {self.name!r} needs at least one op type at every place")


_CONVOLUTION = _families("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
_LAYER = _CONVOLUTION | {"linear"}
_BINARY = _families("add mul sub div")
_PRODUCT = _families("matmul bmm einsum baddbmm addmm mm bilinear")
_NORM = _families("layer_norm group_norm instance_norm rms_norm batch_norm")
_ACTIVATION = families_with(Trait.ACTIVATION)
_ALONE = (
    _ACTIVATION
    | _NORM
    | _PRODUCT
    | _BINARY
    | _families("embedding embedding_bag softmax scaled_dot_product_attention upsample_bilinear2d upsample_bicubic2d")
)

_PATTERNS: dict[str, FusionPattern] = {
    pattern.name: pattern
    for pattern in (
        FusionPattern("layer-norm-activation", (_LAYER, {"batch_norm"}, _ACTIVATION)),
        FusionPattern("layer-norm", (_LAYER, {"batch_norm"})),
        FusionPattern("layer-activation", (_LAYER, _ACTIVATION)),
        FusionPattern("layer", (_LAYER,)),
        FusionPattern("product-activation", (_PRODUCT, _ACTIVATION)),
        FusionPattern("binary-activation", (_BINARY, _ACTIVATION)),
        FusionPattern("norm-activation", (_NORM, _ACTIVATION)),
        FusionPattern("alone", (_ALONE,)),
    )
}


def register_fusion_pattern(pattern: FusionPattern) -> FusionPattern:
    """Let `annotate-fusion` know one more chain. A longer chain is tried first; among equals, the newest.

    Raises:
        FusionPatternError: when the name is taken.
    """
    if pattern.name in _PATTERNS:
        raise FusionPatternError(f"there is a fusion pattern {pattern.name!r} already; unregister it first")
    _PATTERNS[pattern.name] = pattern
    return pattern


def unregister_fusion_pattern(name: str) -> None:
    """Forget a pattern.

    Raises:
        FusionPatternError: when there is none of that name.
    """
    if name not in _PATTERNS:
        raise FusionPatternError(f"no fusion pattern {name!r}{suggestion(name, _PATTERNS)}")
    del _PATTERNS[name]


def fusion_patterns() -> tuple[FusionPattern, ...]:
    """Every pattern, those of installed packages among them, in the order in which they are tried."""
    from graphpress.passes.framework.registry import load_plugins

    load_plugins()
    newest_first = list(_PATTERNS.values())[::-1]
    return tuple(sorted(newest_first, key=lambda pattern: -len(pattern.chain)))
