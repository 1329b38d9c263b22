"""Traits of the ATen ops.

This is the only place where such facts are kept. The sets hold op names without dialect, overload and in-place
underscore, so that one entry covers all overloads.
"""

from __future__ import annotations

from enum import Enum

import torch


class Trait(Enum):
    """A property of an op that passes rely on."""

    COMMUTATIVE = "the first two operands may be swapped, bit for bit"
    ELEMENTWISE = "each result element depends on the operand elements at its own (broadcast) position"
    VIEW = "the result is the operand's elements, rearranged or picked"
    VALUE_PRESERVING = "every result element is one of the operands' elements, or zero where padded"
    RANGE_PRESERVING = "every result element lies within the range of the operands' elements"
    COMPARISON = "tells for each pair of elements whether a relation holds"
    ACTIVATION = "a nonlinearity that backends fuse into the op before it"
    IN_PLACE = "writes to an operand"
    EFFECT = "must run even when nothing reads its results"
    RANDOM = "two runs may differ"
    SYMBOLIC = "computes with sizes, not tensors"
    OPAQUE = "carries subgraphs or objects that passes do not look into"
    ALIASING = "the result may share memory with an operand"


_FAMILIES: dict[Trait, str] = {
    Trait.COMMUTATIVE: """
        mul maximum minimum logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor eq ne
    """,
    Trait.ELEMENTWISE: """
        add sub mul div pow neg abs exp log sqrt rsqrt square sin cos erf reciprocal clamp clamp_min clamp_max
        maximum minimum where round floor ceil sign lerp addcmul addcdiv rsub remainder fmod
        relu relu6 leaky_relu prelu elu celu selu silu gelu sigmoid tanh hardtanh hardswish hardsigmoid softplus
        mish softsign logsigmoid hardshrink softshrink threshold logical_and logical_or logical_xor logical_not
        bitwise_and bitwise_or bitwise_xor bitwise_not eq ne lt le gt ge to _to_copy clone dropout alpha_dropout
        feature_dropout masked_fill isnan isinf isfinite
    """,
    Trait.COMPARISON: "eq ne lt le gt ge",
    Trait.VIEW: """
        view reshape flatten unflatten permute transpose t mT swapaxes swapdims movedim moveaxis squeeze unsqueeze
        expand expand_as view_as slice select narrow split split_with_sizes chunk unbind tensor_split numpy_T
        alias detach contiguous diagonal unfold real lift_fresh_copy
    """,
    Trait.VALUE_PRESERVING: """
        view reshape flatten unflatten permute transpose t mT swapaxes swapdims movedim moveaxis squeeze unsqueeze
        expand expand_as view_as slice select narrow split split_with_sizes chunk unbind tensor_split numpy_T
        alias detach contiguous clone diagonal unfold lift_fresh_copy
        cat concat concatenate stack hstack vstack dstack
        max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max amax
        pixel_shuffle pixel_unshuffle channel_shuffle upsample_nearest1d upsample_nearest2d upsample_nearest3d
        constant_pad_nd pad reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
        replication_pad3d roll flip repeat repeat_interleave tile index_select gather dropout alpha_dropout
        feature_dropout
    """,
    Trait.RANGE_PRESERVING: """
        avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean
    """,
    Trait.ACTIVATION: """
        relu relu6 leaky_relu prelu elu celu selu silu gelu sigmoid tanh hardtanh hardswish hardsigmoid softplus
        mish clamp clamp_min clamp_max
    """,
    Trait.ALIASING: "dropout alpha_dropout feature_dropout to contiguous reshape flatten type_as",
    Trait.EFFECT: """
        _assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size
        _print _check_tensor_metadata
    """,
}

_TRAITS: dict[str, set[Trait]] = {}
for _trait, _names in _FAMILIES.items():
    for _name in _names.split():
        _TRAITS.setdefault(_name, set()).add(_trait)


def traits_of_aten(overload: torch._ops.OpOverload) -> frozenset[Trait]:
    """Return the traits of a torch op, from its family and its schema (aliasing, mutation)."""
    schema = overload._schema
    name = schema.name.partition("::")[2]
    in_place = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
    family = name[:-1] if in_place and name.endswith("_") else name
    traits = set(_TRAITS.get(family, ())) if overload.namespace == "aten" else set()
    if in_place:
        traits.add(Trait.IN_PLACE)
    if any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
        traits.add(Trait.ALIASING)
    if torch.Tag.nondeterministic_seeded in overload.tags:
        traits.add(Trait.RANDOM)
    if family == "add" and overload._overloadname == "Tensor":
        traits.add(Trait.COMMUTATIVE)  # with alpha=1, the default, which is not stored
    if not schema.returns:
        traits.add(Trait.EFFECT)
    return frozenset(traits)


def families_with(trait: Trait) -> frozenset[str]:
    """Return the op families that have `trait`."""
    return frozenset(name for name, traits in _TRAITS.items() if trait in traits)
