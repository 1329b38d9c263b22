"""Slabs of large tensors: every element once, blocks never cut, and the same codes as in one piece."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.ir import reference, slabs
from graphpress.ir.dtypes import DType


@pytest.fixture
def small_slabs(monkeypatch):
    monkeypatch.setattr(slabs, "ELEMENTS", 24)


def test_slabs_are_consecutive_and_each_has_the_parameters_of_its_blocks(small_slabs):
    data, scale = torch.arange(10 * 6.0).reshape(10, 6), torch.arange(5.0).reshape(5, 1)
    whole, single = torch.ones(1, 3), torch.tensor(2.0)
    found = list(slabs.slabs(data, scale, None, whole, single))
    assert len(found) == 3  # of 4, 4 and 2 rows
    assert torch.equal(torch.cat([slab for slab, _ in found]), data)
    for slab, (part, absent, same, also) in found:
        assert absent is None
        assert same is whole
        assert also is single
        assert torch.equal(part, slab[::2, :1] // 12)


@pytest.mark.parametrize(("blocks", "block_rows", "rows"), [(5, 1, 4), (1, 5, 5), (2, 1, 5), (5, 5, 10), (10, 1, 4)])
def test_blocks_are_not_cut(small_slabs, blocks, block_rows, rows):
    found = list(slabs.slabs(torch.zeros(10, 6), torch.zeros(blocks, 1), block_rows=block_rows))
    assert found[0][0].shape[0] == rows


@pytest.mark.parametrize("data", [torch.zeros(7, 6), torch.zeros(()), torch.zeros(100, 6, device="meta")])
def test_tensors_that_are_small_scalar_or_on_a_device_are_one_slab(small_slabs, data):
    ((slab, parameters),) = slabs.slabs(data, None)
    assert slab is data
    assert parameters == [None]


def test_a_program_that_quantizes_has_one_quantization_however_large_its_tensors(small_slabs):
    class Quantizing(nn.Module):
        def forward(self, x):
            return reference.quantize(x, torch.tensor(0.5), dtype=DType.INT8)

    exported = torch.export.export(Quantizing(), (torch.ones(100, 6),))
    assert sum("round" in str(node.target) for node in exported.graph.nodes) == 1


@pytest.mark.parametrize("dtype", [DType.INT4, DType.UINT8, DType.FLOAT8_E4M3FN, DType.FLOAT4_E2M1FN])
@pytest.mark.parametrize("block_size", [(2, 3), (-1, 1), (1, -1), (10, 6), ()])
def test_codes_and_ranges_of_slabs_are_those_of_the_whole(monkeypatch, dtype, block_size):
    data = torch.randn(10, 6, generator=torch.Generator().manual_seed(0)).half()
    offset = torch.zeros(10, 6, dtype=torch.int8)
    offset[3:7] = 1

    def results():
        low, high = reference.block_range(data, block_size)
        scale, zero_point, minval = reference.qparams_from_range(low, high, dtype=dtype, symmetric=dtype.is_floating)
        codes = [reference.quantize(data, scale, zero_point, minval, o, dtype=dtype) for o in (None, offset)]
        return [low, high, *(each.view(torch.uint8) for each in codes)]

    whole = results()
    monkeypatch.setattr(slabs, "ELEMENTS", 12)
    for piecewise, expected in zip(results(), whole, strict=True):
        assert torch.equal(piecewise, expected)
        assert piecewise.dtype is expected.dtype
