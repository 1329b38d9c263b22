"""Granularities cut tensors into equal boxes, along the axis that the op makes sensible."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.ir.errors import GraphpressError
from graphpress.passes.config import (
    ArgumentError,
    AxisError,
    BlockSizeError,
    PerBlockGranularity,
    PerChannelGranularity,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
    SpecError,
    weight_axis,
    weight_block_shape,
    with_default_axis,
)

CONV = (64, 32, 3, 3)


@pytest.mark.parametrize(
    ("granularity", "shape", "op_type", "block"),
    [
        (PerTensorGranularity(), CONV, "conv2d", CONV),
        (PerChannelGranularity(), CONV, "conv2d", (1, 32, 3, 3)),
        (PerChannelGranularity(), (32, 64, 3, 3), "conv_transpose2d", (32, 1, 3, 3)),
        (PerChannelGranularity(axis=-1), (8, 6), "linear", (8, 1)),
        (PerBlockGranularity(block_size=16), CONV, "conv2d", (1, 16, 3, 3)),
        (PerBlockGranularity(block_size=16), (32, 64, 3, 3), "conv_transpose2d", (16, 1, 3, 3)),
        (PerBlockGranularity(block_size=16), (100, 32), "embedding", (1, 16)),
        (PerBlockGranularity(block_size=-1), (100, 32), "aten.linear.default", (1, 32)),
        (PerBlockGranularity(axis=0, block_size=16), CONV, "conv2d", (16, 1, 3, 3)),
        (PerBlockGranularity(axis=2, block_size=4), (2, 7, 8), "matmul", (1, 1, 4)),
        (PerBlockGranularity(block_size=(4, 16, 3, -1)), CONV, "conv2d", (4, 16, 3, 3)),
        (PerGroupedChannelGranularity(group_size=16), CONV, "conv2d", (16, 32, 3, 3)),
        (PerGroupedChannelGranularity(axis=1, group_size=16), CONV, "conv2d", (64, 16, 3, 3)),
    ],
)
def test_a_box_is_what_shares_one_scale_or_table(granularity, shape, op_type, block):
    assert weight_block_shape(granularity, shape, op_type) == block


@pytest.mark.parametrize("axis", [None, 0])
def test_groups_of_output_channels_follow_the_op_that_stores_them_second(axis):
    granularity = PerGroupedChannelGranularity(axis=axis, group_size=8)
    assert weight_block_shape(granularity, (32, 64, 3, 3), "conv_transpose2d") == (32, 8, 3, 3)
    assert weight_axis(PerGroupedChannelGranularity(axis=1, group_size=8), "conv_transpose2d") == 0


def test_an_unknown_op_type_needs_an_explicit_axis():
    with pytest.raises(AxisError, match=r"'matmul' has no default axis.*linear, embedding"):
        with_default_axis(PerChannelGranularity(), "matmul")
    assert with_default_axis(PerChannelGranularity(axis=1), "matmul").axis == 1
    assert weight_axis(PerGroupedChannelGranularity(axis=0, group_size=2), "matmul") == 0


def test_an_axis_that_was_never_resolved_is_an_error_naming_the_tensor():
    with pytest.raises(AxisError, match=r"fc\.weight has no axis"):
        PerChannelGranularity().block_shape((4, 4), "fc.weight")


def test_an_axis_out_of_range_is_an_error():
    with pytest.raises(AxisError, match="out of range"):
        PerChannelGranularity(axis=2).block_shape((4, 4))


@pytest.mark.parametrize(
    "granularity",
    [PerBlockGranularity(axis=1, block_size=32), PerGroupedChannelGranularity(axis=1, group_size=32)],
)
def test_a_size_that_does_not_divide_names_parameter_shape_and_sizes_that_do(granularity):
    with pytest.raises(BlockSizeError) as caught:
        granularity.block_shape((64, 48, 3, 3), "conv1.weight")
    assert caught.value.working_sizes == (1, 2, 3, 4, 6, 8, 12, 16, 24, 48)
    assert "conv1.weight of shape (64, 48, 3, 3)" in str(caught.value)
    assert "_size=32" in str(caught.value)
    assert "16, 24, 48" in str(caught.value)
    assert isinstance(caught.value, GraphpressError)


@pytest.mark.parametrize("block_size", [0, -2, 1.5, True, (), (4, 0), "32"])
def test_block_sizes_are_positive_or_minus_one(block_size):
    with pytest.raises(SpecError, match="block_size"):
        PerBlockGranularity(block_size=block_size)


def test_an_axis_beside_a_tuple_of_sizes_has_no_meaning():
    for axis in (None, 0, 5):
        assert PerBlockGranularity(axis=axis, block_size=(1, 2)).block_shape((4, 8)) == (1, 2)


def test_a_tuple_needs_one_size_for_each_axis():
    with pytest.raises(AxisError, match="needs 4 block sizes"):
        PerBlockGranularity(block_size=(1, 2)).block_shape(CONV)


def test_a_missing_size_is_an_error_of_ours():
    with pytest.raises(ArgumentError, match="needs block_size"):
        PerBlockGranularity(axis=1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(0, 1))
def test_boxes_times_scales_make_the_tensor(size, count, other, axis):
    shape = (size * count, other) if axis == 0 else (other, size * count)
    for granularity in (
        PerTensorGranularity(),
        PerChannelGranularity(axis=axis),
        PerGroupedChannelGranularity(axis=axis, group_size=size),
        PerBlockGranularity(axis=axis, block_size=size),
    ):
        block, scale = granularity.block_shape(shape), granularity.scale_shape(shape)
        assert tuple(b * s for b, s in zip(block, scale, strict=True)) == shape
