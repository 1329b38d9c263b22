"""What a finalized model becomes in the converters, the Core AI runtime, and the IR."""

import itertools

import pytest
import torch
from torch import nn

from graphpress.ir import from_module, run
from graphpress.ir.dtypes import DType
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationError,
    PalettizationSpec,
)
from graphpress.palettization.spec import PerGroupedChannelGranularity, PerTensorGranularity
from graphpress.passes.cse import Cse
from graphpress.passes.dce import Dce
from graphpress.passes.framework import Pipeline, Runner
from graphpress.quantization import QuantizationSpec

IMAGE = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
TABLES = {
    "float": None,
    "int8": QuantizationSpec(dtype="int8"),
    "uint8": QuantizationSpec(dtype="uint8", qscheme="asymmetric"),
    "minval": QuantizationSpec(dtype="int8", qscheme="asymmetric", qformulation="minval"),
    "e4m3": QuantizationSpec(dtype="float8_e4m3fn"),
    "e5m2": QuantizationSpec(dtype="float8_e5m2"),
}
GROUPS = [PerTensorGranularity(), PerGroupedChannelGranularity(group_size=8)]
# Widths of indices go round with the other choices, so that each meets each, two at a time.
SPECS = [
    PalettizationSpec(
        n_bits=bits, granularity=group, cluster_dim=width, lut_qspec=table, enable_per_channel_scale=scaled
    )
    for (table, group, width), scaled, bits in zip(
        itertools.product(TABLES.values(), GROUPS, (1, 2)),
        itertools.cycle((False, True, True)),
        itertools.cycle((1, 2, 3, 4, 6)),
        strict=False,
    )
] + [PalettizationSpec(n_bits=8), PalettizationSpec(n_bits=8, lut_qspec=QuantizationSpec())]


class Branches(nn.Module):
    """A convolution for each spec, plain and transposed in turn."""

    def __init__(self, dtype=torch.float32, count=2):
        super().__init__()
        kinds = (nn.Conv2d, nn.ConvTranspose2d)
        self.branches = nn.ModuleList(kinds[at % 2](8, 32, 2, bias=False, dtype=dtype) for at in range(count))

    def forward(self, x):
        return tuple(branch(x) for branch in self.branches)


def finalized(model, inputs, backend="coreai", specs=None, **spec):
    if specs is None:
        each = ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(**spec)})
        config = KMeansPalettizerConfig(global_config=each)
    else:
        config = KMeansPalettizerConfig(
            module_name_configs={
                f"branches.{at}": ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec})
                for at, spec in enumerate(specs)
            }
        )
    palettizer = KMeansPalettizer(model.eval(), config)
    palettizer.prepare(inputs)
    return palettizer.finalize(backend=backend)


def test_a_finalized_model_is_raised_to_tables_with_their_names():
    pytest.importorskip("coreai_torch")
    torch.manual_seed(0)
    tied = nn.Linear(16, 16, bias=False)
    data = torch.randn(2, 16)
    model = finalized(nn.Sequential(tied, nn.ReLU(), tied), (data,), lut_qspec=QuantizationSpec(dtype="uint8"))
    graph = from_module(model, (data,))
    graph = Runner().run(graph, Pipeline.parse("raise-from-coreai") + Pipeline(Cse(), Dce())).graph
    assert [node.op.name for node in graph.nodes] == [
        "quant.lut_to_dense",
        "quant.blockwise_shift_scale",
        "aten.linear",
        "aten.relu",
        "aten.linear",
    ]
    assert {"0.weight_indices", "0.weight_lut", "0.weight_scale", "0.weight_zero_point"} == set(graph.constants)
    assert graph.node(next(iter(graph.nodes)).name).result.tensor_type.dtype is DType.UINT8
    assert next(n for n in graph.nodes if n.op.short_name == "blockwise_shift_scale").attribute("dtype") is DType.UINT8
    assert torch.equal(run(graph, [data])[0], model(data))


def decompressed(variable):
    """The value of a compressed constant of a Core ML program, whatever it is made of."""
    if variable.val is not None:
        return variable.val
    op = variable.op
    made = {name: decompressed(v) for name, v in op.inputs.items() if v is not None and not isinstance(v, list | tuple)}
    if op.op_type == "constexpr_lut_to_dense":
        return op.decompress(made["indices"], made["lut"], made.get("vector_axis"))
    assert op.op_type == "constexpr_blockwise_shift_scale"
    return op.decompress(made["data"], made["scale"], made.get("offset"))


def test_core_ml_stores_the_same_weights():
    coremltools = pytest.importorskip("coremltools")
    plain = [spec for spec in SPECS[:-1] if spec.lut_qspec is None]
    specs = [
        *(spec for spec in plain if spec.cluster_dim == 1 or not spec.enable_per_channel_scale),
        PalettizationSpec(lut_qspec=TABLES["int8"]),
        PalettizationSpec(lut_qspec=TABLES["uint8"], granularity=PerGroupedChannelGranularity(group_size=8)),
    ]
    torch.manual_seed(0)
    model = finalized(Branches(count=len(specs)), (IMAGE,), "coreml", specs=specs)
    program = coremltools.convert(
        torch.export.export(model, (IMAGE,)).run_decompositions({}),
        minimum_deployment_target=coremltools.target.iOS18,
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
    )
    operations = program._mil_program.functions["main"].operations
    layers = [op for op in operations if op.op_type in ("conv", "conv_transpose")]
    assert len(layers) == len(specs)
    for op, branch in zip(layers, model.branches, strict=True):
        assert op.weight.op.op_type.startswith("constexpr_")
        torch.testing.assert_close(torch.from_numpy(decompressed(op.weight)), branch.weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"lut_qspec": TABLES["e4m3"]}, "float8_e4m3fn"),
        ({"lut_qspec": TABLES["minval"]}, "zero-point"),
        ({"lut_qspec": TABLES["int8"], "cluster_dim": 2}, "cluster_dim=1"),
    ],
)
def test_what_core_ml_metadata_cannot_say_is_named(spec, said):
    with pytest.raises(PalettizationError, match=r"0\.weight") as caught:
        finalized(nn.Sequential(nn.Linear(16, 16)), (torch.randn(1, 16),), "coreml", **spec)
    assert said in str(caught.value)
