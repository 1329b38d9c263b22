"""Tables as training moves them: they start where clustering ended, and are stored as every table is."""

from __future__ import annotations

import itertools

import pytest
import torch
from attrs import evolve

from graphpress.passes.config import (
    PalettizationSpec,
    PerChannelGranularity,
    PerGroupedChannelGranularity,
    QuantizationSpec,
)
from graphpress.passes.weights import LearnedTables, layout_of, palettize

GROUPED = [PerGroupedChannelGranularity(axis=axis, group_size=4) for axis in (0, 1)]
PER_TABLE = PerChannelGranularity(axis=0)
ENTRIES = {
    "plain": None,
    "int8": QuantizationSpec(dtype="int8"),
    "uint8": QuantizationSpec(dtype="uint8", qscheme="asymmetric"),
    "minval": QuantizationSpec(dtype="int8", qscheme="asymmetric", qformulation="minval"),
    "a scale for each table": QuantizationSpec(dtype="int8", qscheme="asymmetric", granularity=PER_TABLE),
    "float8": QuantizationSpec(dtype="float8_e4m3fn"),
    "powers of two": QuantizationSpec(dtype="float8_e5m2", scale_dtype="float8_e8m0fnu"),
}
CUTS = {
    "one table": {},
    "groups of outputs": {"granularity": GROUPED[0]},
    "groups of inputs": {"granularity": GROUPED[1]},
    "pairs": {"cluster_dim": 2},
    "pairs in groups": {"granularity": GROUPED[0], "cluster_dim": 2},
}
WAYS = [
    pytest.param(cut, entries, scaled, id=f"{cut}, {entries}{', scaled' if scaled else ''}")
    for cut, entries, scaled in itertools.product(CUTS, ENTRIES, (False, True))
]


def palettized(cut, entries, scaled=False, dtype=torch.float32, op_type="conv2d", **more):
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(8, 8, 3, 3, generator=generator).mul(torch.logspace(-1, 0, 8)[:, None, None, None]).to(dtype)
    spec = PalettizationSpec(
        n_bits=2, lut_qspec=ENTRIES[entries], enable_per_channel_scale=scaled, **{**CUTS[cut], **more}
    )
    weight = palettize(tensor, spec, op_type)
    return tensor, spec, weight, LearnedTables.of(weight, tensor, spec, op_type), op_type


def stored(learned, tensor, spec, weight, op_type="conv2d"):
    layout = layout_of(tuple(tensor.shape), spec, op_type, "weight")
    return learned.stored(weight.indices, spec, layout, weight.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("cut", "entries", "scaled"), WAYS)
def test_training_starts_from_what_clustering_stored_bit_for_bit(cut, entries, scaled, dtype):
    for op_type in ("conv2d", "conv_transpose2d"):
        tensor, spec, weight, learned, _ = palettized(cut, entries, scaled, dtype, op_type)
        again = stored(learned, tensor, spec, weight, op_type)
        for part in ("indices", "lut", "scale", "zero_point", "minval"):
            before, after = getattr(weight, part), getattr(again, part)
            assert (before is None) == (after is None), part
            if before is None:
                continue
            assert before.dtype is after.dtype
            if part == "minval" and scaled:  # a product that rounds, and so its quotient
                torch.testing.assert_close(after, before, rtol=3e-7, atol=0)
            else:
                assert torch.equal(before.view(torch.uint8), after.view(torch.uint8)), part


@pytest.mark.parametrize("entries", [name for name, spec in ENTRIES.items() if spec is not None])
def test_the_grid_grows_to_reach_entries_that_leave_it_and_only_then(entries):
    tensor, spec, weight, learned, _ = palettized("groups of outputs", entries)
    inside = evolve(learned, entries=learned.entries * 0.9)
    assert torch.equal(stored(inside, tensor, spec, weight).scale, weight.scale)
    beyond = evolve(learned, entries=learned.entries * 3)
    found = stored(beyond, tensor, spec, weight)
    assert (found.scale >= weight.scale).all()
    assert (found.scale > weight.scale).any()
    error, wanted = (found.dense() - 3 * weight.dense()).abs(), 3 * weight.dense().abs()
    step = wanted / 8 if found.lut_type.is_floating else found.scale
    assert (error <= step + 1e-6).all()


def test_a_range_that_the_spec_fixes_stays():
    fixed = QuantizationSpec(dtype="int8", float_range=(-0.5, 0.5))
    tensor = torch.randn(8, 8) / 4
    spec = PalettizationSpec(n_bits=2, lut_qspec=fixed)
    weight = palettize(tensor, spec)
    learned = LearnedTables.of(weight, tensor, spec, "linear")
    found = evolve(learned, entries=learned.entries * 5).stored(
        weight.indices, spec, layout_of((8, 8), spec, "linear", "weight"), torch.float32
    )
    assert torch.equal(found.scale, weight.scale)
    assert float(found.dense().abs().max()) <= 0.51


def test_entries_beyond_a_fixed_range_only_take_gradients_that_bring_them_back():
    fixed = QuantizationSpec(dtype="int8", float_range=(-0.5, 0.5))
    tensor = torch.randn(8, 8) / 4
    spec = PalettizationSpec(n_bits=1, lut_qspec=fixed)
    weight = palettize(tensor, spec)
    layout = layout_of((8, 8), spec, "linear", "weight")
    learned = LearnedTables.of(weight, tensor, spec, "linear")
    far = evolve(learned, entries=torch.tensor([-2.0, 2.0]).reshape(learned.entries.shape))
    for sign in (1.0, -1.0):
        gradient = far.entry_gradient(torch.full((8, 8), sign), weight.indices, spec, layout, torch.float32).flatten()
        assert (gradient != 0).tolist() == [sign < 0, sign > 0]  # descent goes against the gradient
