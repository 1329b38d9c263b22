"""Every way to palettize a weight, in the Core AI runtime; and what is said of ways that there are not."""

import itertools
import math

import pytest
import torch
from torch import nn

from graphpress import GraphpressError
from graphpress.ir.dtypes import DType
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    PalettizationWarning,
)
from graphpress.palettization.spec import PerGroupedChannelGranularity, PerTensorGranularity
from graphpress.passes.config import SpecError
from graphpress.quantization import QuantizationSpec
from graphpress.quantization.spec import PerBlockGranularity, PerChannelGranularity

BITS = (1, 2, 3, 4, 6, 8)
CHOICES = {
    "n_bits": BITS,
    "granularity": (
        PerTensorGranularity(),
        PerGroupedChannelGranularity(group_size=8),
        PerGroupedChannelGranularity(axis=1, group_size=8),
    ),
    "cluster_dim": (1, 2, 4),
    "lut_qspec": (
        None,
        QuantizationSpec(dtype="int8"),
        QuantizationSpec(dtype="uint8", qscheme="asymmetric"),
        QuantizationSpec(dtype="int8", qscheme="asymmetric", qformulation="minval"),
        QuantizationSpec(dtype="int8", granularity=PerChannelGranularity(axis=0)),
        QuantizationSpec(dtype="float8_e4m3fn"),
        QuantizationSpec(dtype="float8_e5m2"),
    ),
    "enable_per_channel_scale": (False, True),
}
IMAGE = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))


def pairwise(lists):
    """A few combinations in which each choice meets each other one, found greedily."""
    everything = list(itertools.product(*lists))
    missing = {pair for each in everything for pair in itertools.combinations(enumerate(map(id, each)), 2)}
    chosen = []
    while missing:
        best = max(everything, key=lambda each: len(missing & _pairs(each)))
        chosen.append(best)
        missing -= _pairs(best)
    return chosen


def _pairs(combination):
    return set(itertools.combinations(enumerate(map(id, combination)), 2))


def specs(combinations):
    return [PalettizationSpec(**dict(zip(CHOICES, each, strict=True))) for each in combinations]


class Branches(nn.Module):
    """A convolution for each spec, plain and transposed in turn, or all of one kind."""

    def __init__(self, count, dtype, kinds=(nn.Conv2d, nn.ConvTranspose2d)):
        super().__init__()
        self.branches = nn.ModuleList(kinds[at % len(kinds)](16, 16, 3, bias=False, dtype=dtype) for at in range(count))

    def forward(self, x):
        return tuple(branch(x) for branch in self.branches)


def by_branch(specs):
    return KMeansPalettizerConfig(
        module_name_configs={
            f"branches.{at}": ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec})
            for at, spec in enumerate(specs)
        }
    )


def assert_runs_as_stored(folder, specs, dtype, tolerance, **how):
    """Convert a model with one layer for each spec, run it in the runtime beside torch, and count its bytes."""
    coreai = pytest.importorskip("graphpress.backends.coreai")
    pytest.importorskip("coreai_torch")
    torch.manual_seed(0)
    palettizer = KMeansPalettizer(Branches(len(specs), dtype, **how).eval(), by_branch(specs))
    data = IMAGE.to(dtype)
    palettizer.prepare((data,))
    model = palettizer.finalize()
    info = coreai.convert(model, folder / "m.aimodel", (data,))
    report = coreai.check(info.path, model, (data,), tolerance=tolerance)
    assert report.ok, report
    assert coreai.weight_bytes(info.path) == size_law(model, specs)


def size_law(model, specs):
    """Bytes of all tensors at the bits of their element types.

    What is one number repeated takes none, and tensors that are the same, as full tables of 8 bits are, take one's.
    """
    stored = {}
    for branch, spec in zip(model.branches, specs, strict=True):
        for name, tensor in branch.named_buffers():
            bits = spec.n_bits if name.endswith("indices") else DType.of(tensor.dtype).bits
            content = bits, tensor.dtype, tuple(tensor.shape), tensor.flatten().view(torch.uint8).numpy().tobytes()
            stored[content] = math.ceil(tensor.numel() * bits / 8) if len(tensor.float().unique()) > 1 else 0
    return sum(stored.values())


def test_each_choice_runs_beside_each_other_one(tmp_path):
    chosen = specs(pairwise(CHOICES.values()))
    assert len(chosen) < 60
    assert_runs_as_stored(tmp_path, chosen, torch.float32, 1e-5)


def test_half_precision_runs_too(tmp_path):
    chosen = specs(pairwise(CHOICES.values()))[::5]
    assert_runs_as_stored(tmp_path, chosen, torch.float16, 4e-3)


@pytest.mark.slow
@pytest.mark.parametrize("bits", BITS)
def test_every_combination_runs(tmp_path, bits):
    all_of_bits = specs(itertools.product((bits,), *list(CHOICES.values())[1:]))
    assert len(all_of_bits) == 3 * 3 * 7 * 2
    # Two of a kind in a row: with and without a scale. As there are seven kinds of tables, each meets both kinds.
    assert_runs_as_stored(tmp_path, all_of_bits, torch.float32, 1e-5, kinds=[nn.Conv2d] * 2 + [nn.ConvTranspose2d] * 2)


# What there is not


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n_bits": 5}, r"n_bits: 5 .*1, 2, 3, 4, 6, 8"),
        ({"n_bits": 0}, r"n_bits: 0 .*1, 2, 3, 4, 6, 8"),
        ({"n_bits": 16}, r"n_bits: 16 .*1, 2, 3, 4, 6, 8"),
        ({"lut_qspec": QuantizationSpec(dtype="int4")}, r"lut_qspec\.dtype: .*int8, uint8, float8_e4m3fn, float8_e5m2"),
        ({"lut_qspec": "int8"}, r"lut_qspec: .*QuantizationSpec"),
        (
            {"lut_qspec": QuantizationSpec(granularity=PerBlockGranularity(axis=0, block_size=2))},
            r"lut_qspec\.granularity: .*PerTensorGranularity.*PerChannelGranularity",
        ),
        ({"granularity": PerChannelGranularity(axis=0)}, r"granularity: .*PerTensor.*PerGroupedChannel"),
        ({"granularity": "per_channel"}, r"granularity\.type: .*per_tensor.*per_grouped_channel"),
        ({"cluster_dim": 0}, r"cluster_dim: 0 .*1"),
        ({"cluster_dim": 1.5}, r"cluster_dim: 1\.5 .*integer"),
        ({"enable_per_channel_scale": 1}, r"enable_per_channel_scale: 1 .*True.*False"),
        ({"training_strategy_spec": "fast"}, r"training_strategy_spec\.type: .*default.*straight_through.*tables"),
    ],
)
def test_values_that_no_spec_has_are_refused_with_those_that_it_has(arguments, said):
    with pytest.raises(SpecError, match=said):
        PalettizationSpec(**arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"granularity": PerGroupedChannelGranularity(group_size=5)},
            r"layer\.weight: group_size=5 does not divide axis 0 of size 16; .*1, 2, 4, 8, 16",
        ),
        (
            {"granularity": PerGroupedChannelGranularity(axis=2, group_size=2)},
            r"layer\.weight: group_size=2 does not divide axis 2 of size 3; these do: 1, 3",
        ),
        ({"cluster_dim": 3}, r"layer\.weight: cluster_dim=3 does not divide axis 0 .*1, 2, 4, 8, 16"),
        (
            {"granularity": PerGroupedChannelGranularity(group_size=2), "cluster_dim": 4, "n_bits": 1},
            r"layer\.weight: groups of 2 .* cannot be cut into vectors of 4; .*multiple of cluster_dim.*divides 2",
        ),
        (
            {"granularity": PerGroupedChannelGranularity(axis=7, group_size=2)},
            r"axis 7 .*out of range for layer\.weight",
        ),
    ],
)
def test_ways_to_cut_that_a_weight_has_not_are_refused_by_its_name(arguments, said):
    model = nn.Sequential()
    model.add_module("layer", nn.Conv1d(16, 16, 3))
    each = ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(**arguments)})
    with pytest.raises(GraphpressError, match=said):
        KMeansPalettizer(model, KMeansPalettizerConfig(module_name_configs={"layer": each})).prepare()


def test_a_weight_with_fewer_vectors_than_its_table_has_entries_is_left_whole_by_name():
    model = nn.Sequential(nn.Conv1d(16, 16, 3), nn.Linear(16, 32))
    each = PalettizationSpec(n_bits=8, cluster_dim=4)
    config = KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec={"weight": each}))
    with pytest.warns(PalettizationWarning, match=r"2 weights.*\n.*0\.weight.*192 entries.*\n.*1\.weight.*128 entries"):
        prepared = KMeansPalettizer(model, config).prepare()
    assert torch.equal(prepared[0].weight, model[0].weight)
