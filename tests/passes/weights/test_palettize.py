import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphpress.ir import reference, scales
from graphpress.passes.clustering import cluster_scalar
from graphpress.passes.config import (
    BlockSizeError,
    PalettizationSpec,
    PerChannelGranularity,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
    QuantizationSpec,
)
from graphpress.passes.weights import PalettizationError, TooSmallError, assign, palettize
from graphpress.passes.weights.tables import EntryGrid, round_up


def weight(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def error(dense, data):
    return float((dense.double() - data.double()).square().sum())


TABLES = [None, "int8", "uint8", "float8_e4m3fn", "float8_e5m2"]
COMBINATIONS = list(
    itertools.product(
        (1, 3, 4), (PerTensorGranularity(), PerGroupedChannelGranularity(group_size=4)), (1, 2), TABLES, (False, True)
    )
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_weight_has_the_entry_nearest_to_it(dtype):
    data = weight(8, 6, 3, seed=1, dtype=dtype)
    for bits, granularity, width, table, scaled in COMBINATIONS:
        spec = PalettizationSpec(
            n_bits=bits,
            granularity=granularity,
            cluster_dim=width,
            lut_qspec=None if table is None else QuantizationSpec(dtype=table),
            enable_per_channel_scale=scaled,
        )
        found = palettize(data, spec, "conv1d")
        dense = found.dense()
        assert dense.shape == data.shape
        assert dense.dtype == dtype
        assert found.shape == tuple(data.shape)
        assert int(found.indices.max()) < 2**bits
        if dtype is torch.float32:
            assert torch.equal(assign(data, found, spec, "conv1d"), found.indices)


@given(st.integers(0, 50), st.sampled_from([2, 4]), st.sampled_from(["symmetric", "asymmetric"]))
@settings(max_examples=12, deadline=None)
def test_a_chosen_grid_is_never_worse_than_the_plain_one(seed, bits, scheme):
    data = weight(4, 40, seed=seed).pow(3)
    lut_spec = QuantizationSpec(dtype="int8", qscheme=scheme)
    found = palettize(data, PalettizationSpec(n_bits=bits, lut_qspec=lut_spec))
    table = torch.from_numpy(cluster_scalar(data, 2**bits).centroids)
    low, high = table.min(), table.max()
    scale, zero_point, _ = reference.qparams_from_range(
        low, high, dtype=lut_spec.element_type, symmetric=scheme == "symmetric"
    )
    plain = reference.fake_quantize(table, scale, zero_point, dtype=lut_spec.element_type)
    nearest = (data.flatten()[:, None] - plain).abs().min(1).values
    assert error(found.dense(), data) <= float(nearest.double().square().sum()) * (1 + 1e-6)


def test_more_entries_than_centroids_on_the_grid_are_put_to_use():
    data = weight(64, 64)
    found = palettize(data, PalettizationSpec(n_bits=8, lut_qspec=QuantizationSpec(dtype="int8")))
    assert len(found.lut.unique()) == 256
    uniform = reference.fake_quantize(
        data,
        *reference.qparams_from_range(data.min(), data.max(), dtype=found.lut_type, symmetric=True),
        dtype=found.lut_type,
    )
    assert error(found.dense(), data) < error(uniform, data)


def test_scales_of_tables_and_channels_multiply_exactly():
    data = weight(8, 32)
    spec = PalettizationSpec(lut_qspec=QuantizationSpec(dtype="int8"), enable_per_channel_scale=True)
    scale = palettize(data, spec).scale
    assert scale.shape == (8, 1)
    assert torch.equal(scales.round_scale_up(scale), scale)


def test_a_scale_for_each_channel_keeps_small_channels():
    data = weight(8, 64) * torch.logspace(-3, 0, 8)[:, None]
    plain = palettize(data, PalettizationSpec(n_bits=3))
    scaled = palettize(data, PalettizationSpec(n_bits=3, enable_per_channel_scale=True))
    assert error(scaled.dense()[0], data[0]) < error(plain.dense()[0], data[0]) / 10


def test_groups_of_transposed_convolutions_are_output_channels():
    data = weight(6, 8, 2, 2) * torch.tensor([1.0, 100.0]).repeat_interleave(4)[None, :, None, None]
    spec = PalettizationSpec(n_bits=4, granularity=PerGroupedChannelGranularity(axis=0, group_size=4))
    found = palettize(data, spec, "conv_transpose2d")
    assert found.lut.shape == (1, 2, 1, 1, 16, 1)
    assert found.lut[0, 0].abs().max() < 10 < found.lut[0, 1].abs().max()


def test_vectors_lie_along_the_output_channels():
    data = weight(8, 6, 2, 2)
    spec = PalettizationSpec(n_bits=2, cluster_dim=2)
    assert palettize(data, spec, "conv2d").indices.shape == (4, 6, 2, 2)
    assert palettize(data, spec, "conv_transpose2d").indices.shape == (8, 3, 2, 2)


def test_a_quantized_table_may_have_a_scale_for_each_group():
    data = weight(8, 32) * torch.tensor([1.0, 100.0]).repeat_interleave(4)[:, None]
    spec = PalettizationSpec(
        granularity=PerGroupedChannelGranularity(group_size=4),
        lut_qspec=QuantizationSpec(dtype="int8", granularity=PerChannelGranularity(axis=0)),
    )
    found = palettize(data, spec)
    assert found.scale.shape == (8, 1)
    assert found.scale[7] > 20 * found.scale[0]


def test_importance_draws_the_table_to_what_matters():
    data = torch.linspace(0, 1, 256).reshape(1, 256)
    importance = (data > 0.9).float() + 1e-3
    spec = PalettizationSpec(n_bits=2)
    plain, weighted = palettize(data, spec), palettize(data, spec, importance=importance)
    matters = data > 0.9
    assert error(weighted.dense()[matters], data[matters]) < error(plain.dense()[matters], data[matters]) / 4


def test_vector_tables_depend_on_the_seed_alone():
    data, spec = weight(32, 64), PalettizationSpec(n_bits=4, cluster_dim=4)
    first, again, other = (palettize(data, spec, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.indices, again.indices)
    assert torch.equal(first.lut, again.lut)
    assert not torch.equal(first.lut, other.lut)


def test_stored_bits_are_those_of_indices_tables_and_scales():
    found = palettize(weight(64, 64), PalettizationSpec(n_bits=4, lut_qspec=QuantizationSpec(dtype="int8")))
    assert found.stored_bits == 64 * 64 * 4 + 16 * 8 + 32


FOURS = PerGroupedChannelGranularity(group_size=4)


@pytest.mark.parametrize(
    ("data", "spec", "kind", "said"),
    [
        (torch.tensor([[float("nan"), 1.0]]), PalettizationSpec(n_bits=1), PalettizationError, "conv.weight: 1 of 2"),
        (torch.ones(4, 4, dtype=torch.int32), PalettizationSpec(n_bits=1), PalettizationError, "torch.int32"),
        (torch.ones(3, 4), PalettizationSpec(), TooSmallError, "12 entries"),
        (torch.ones(0, 4), PalettizationSpec(), TooSmallError, "no elements"),
        (torch.ones(6, 64), PalettizationSpec(granularity=FOURS), BlockSizeError, "1, 2, 3, 6"),
        (torch.ones(6, 64), PalettizationSpec(cluster_dim=4), BlockSizeError, "cluster_dim=4"),
        (
            torch.ones(6, 64),
            PalettizationSpec(cluster_dim=2, granularity=PerGroupedChannelGranularity(group_size=3)),
            PalettizationError,
            "multiple of cluster_dim",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_palettized_is_named(data, spec, kind, said):
    with pytest.raises(kind, match=r"conv\.weight") as caught:
        palettize(data, spec, name="conv.weight")
    assert said in str(caught.value)


@given(st.floats(1e-30, 1e30), st.sampled_from([8, 16]))
def test_scales_are_rounded_up_to_few_bits(value, bits):
    scale = torch.tensor(value, dtype=torch.float32)
    rounded = round_up(scale, bits)
    assert scale <= rounded <= scale * (1 + 2.0 ** (1 - bits))
    mantissa, _ = torch.frexp(rounded)
    assert float(mantissa * 2**bits).is_integer()


def test_a_table_of_zeros_has_a_grid():
    grid = EntryGrid(QuantizationSpec(dtype="int8"), 16, torch.float32)
    tables = torch.zeros(1, 4, 1)
    assert torch.equal(grid.plain(tables).values, tables)
    assert torch.isfinite(grid.best(tables, torch.ones(1, 4)).values).all()
