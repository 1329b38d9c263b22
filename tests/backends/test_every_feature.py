"""Every way of compressing a model, on every backend and target: held exactly, or refused before it is converted."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from graphpress import ExportBackend, GraphpressError
from graphpress.backends import coreai, coreml, exporting
from graphpress.backends.coreml import Target
from graphpress.backends.coreml.legality import require_legal
from graphpress.backends.errors import LoweringError
from graphpress.ir import from_module
from graphpress.ir.graph import Graph
from graphpress.ir.interpreter import evaluate_node
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.palettization.spec import PerGroupedChannelGranularity
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.spec import PerBlockGranularity

from .features import ACTIVATIONS, IMAGE, WEIGHTS, compressed, oldest

coremltools = pytest.importorskip("coremltools")
pytest.importorskip("coreai_torch")

LAYERS = ("conv2d", "conv_transpose2d", "convolution", "linear")
JOINT = [None, *ACTIVATIONS]
EVERY = [(weight, activation) for weight in WEIGHTS for activation in JOINT]
finalized = cache(compressed)


def identifier(value: object) -> str:
    return value.name if isinstance(value, Target) else "floats" if value is None else str(value)


def over(rows: list[tuple[object, ...]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("weight", "activation", "target"), rows, ids=lambda each: identifier(each))


def held(form: str) -> list[tuple[object, ...]]:
    return [
        (weight, activation, target)
        for weight, activation in EVERY
        for target in Target
        if (first := oldest(weight, activation, form)) is not None and target >= first
    ]


def refused(form: str) -> list[tuple[object, ...]]:
    return [
        (weight, activation, target)
        for weight, activation in EVERY
        for target in Target
        if (first := oldest(weight, activation, form)) is None or target < first
    ]


def weights_of(graph: Graph) -> list[torch.Tensor]:
    """What each layer's weight is when it runs, in order."""

    def dense(value):
        if value.constant is not None:
            return value.constant.tensor
        return evaluate_node(value.node, dense)[value.index]

    layers = [node for node in graph.nodes if node.op.family in LAYERS]
    return [dense(node.operand("weight")).detach() for node in layers]


def assert_same_weights(graph: Graph, model: nn.Module) -> None:
    """Every layer of the file has the weight of the model, bit for bit.

    Where the file has no norm any more, the first weight has its factors, by the formula of batch normalization. A
    scale of codes keeps 16 of their bits.
    """
    stored, meant = weights_of(graph), weights_of(from_module(model, (IMAGE,)))
    assert len(stored) == len(meant) == 5
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms and not any("batch_norm" in node.op.name for node in graph.nodes):
        factors = norms[0].weight / torch.sqrt(norms[0].running_var + norms[0].eps)
        torch.testing.assert_close(stored.pop(0), meant.pop(0) * factors.reshape(-1, 1, 1, 1), rtol=2.0**-15, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(stored, meant, strict=True))


def assert_holds(path, model: nn.Module, folded: bool) -> None:
    """The package computes what the model does, has its weights, and takes the bytes it must."""
    report = coreml.check(path, model, (IMAGE,))
    assert report.ok, report
    info = coreml.read(path)
    assert info.weight_file_bytes == info.weight_bytes_by_law
    if not folded:
        assert_same_weights(coreml.from_package(path), model)


@pytest.mark.matrix
@pytest.mark.parametrize(("weight", "activation"), EVERY)
def test_core_ai_runs(weight, activation, tmp_path):
    assert WEIGHTS[weight].coreai
    model = finalized(weight, activation, ExportBackend.CoreAI)
    info = coreai.convert(model, tmp_path / "m.aimodel", (IMAGE,))
    report = coreai.check(tmp_path / "m.aimodel", model, (IMAGE,))
    assert report.ok, report
    assert info.weight_bytes == sum(constant.stored_bytes for constant in info.constants)


@pytest.mark.matrix
@over(held("package"))
def test_packages_hold(weight, activation, target, tmp_path):
    model = finalized(weight, activation, ExportBackend.CoreAI)
    coreml.convert(model, tmp_path / "m.mlpackage", (IMAGE,), target=target)
    # coremltools folds a norm that is beside float weights into them.
    assert_holds(tmp_path / "m.mlpackage", model, folded=weight == "float")


def test_ios17_holds_a_table_per_tensor_beside_quantized_activations_where_no_norm_scales_it(tmp_path):
    model = compressed("tables of 4 bits", "int8", ExportBackend.CoreAI, norm=False)
    coreml.convert(model, tmp_path / "m.mlpackage", (IMAGE,), target="iOS17")
    assert_holds(tmp_path / "m.mlpackage", model, folded=False)


@pytest.mark.matrix
@over(refused("package"))
def test_packages_cannot_hold(weight, activation, target, program):
    lowest = oldest(weight, activation, "package")
    with pytest.raises(LoweringError, match=f"{target.name} cannot store") as caught:
        require_legal(program(weight, activation), target)
    assert ("no target can" if lowest is None else f"{lowest.name} can store all of it") in str(caught.value)


@pytest.fixture(scope="module")
def program():
    @cache
    def made(weight: str, activation: str | None) -> Graph:
        return from_module(finalized(weight, activation, ExportBackend.CoreAI), (IMAGE,))

    return made


@pytest.mark.matrix
@pytest.mark.parametrize("by", ["trace", "export"])
@over(held("described"))
def test_coremltools_understands(weight, activation, target, by, tmp_path):
    model = finalized(weight, activation, ExportBackend.CoreML)
    with exporting.quiet():
        if by == "trace":
            source = torch.jit.trace(model, (IMAGE,))
            options = {"inputs": [coremltools.TensorType(shape=IMAGE.shape)]}
        else:
            source, options = torch.export.export(model, (IMAGE,)).run_decompositions({}), {}
        converted = coremltools.convert(
            source,
            minimum_deployment_target=getattr(coremltools.target, target.name),
            compute_precision=coremltools.precision.FLOAT32,
            convert_to="mlprogram",
            skip_model_load=True,
            **options,
        )
    converted.save(str(tmp_path / "m.mlpackage"))
    assert_holds(tmp_path / "m.mlpackage", model, folded=weight == "float")


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("weight", "activation"), [each for each in EVERY if oldest(*each, "described") is None], ids=identifier
)
def test_what_the_metadata_cannot_say_is_refused(weight, activation):
    with pytest.raises(GraphpressError, match=r"cannot describe|not there|do not exist|leave out|use "):
        compressed(weight, activation, ExportBackend.CoreML)


class Impossible(nn.Module):
    """Layers of which each is stored in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.small, self.table, self.never, self.fine = (nn.Linear(32, 32) for _ in range(5))

    def forward(self, x):
        return self.fine(self.never(self.table(self.small(self.blocks(x)))))


@pytest.fixture(scope="module")
def impossible() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, x = Impossible().eval(), torch.randn(2, 32)
    by_name = {
        "blocks": QuantizationSpec(dtype="int8", granularity=PerBlockGranularity(block_size=8)),
        "small": QuantizationSpec(dtype="int4"),
        "never": QuantizationSpec(dtype="float8_e4m3fn"),
        "fine": QuantizationSpec(dtype="int8"),
    }
    groups = PalettizationSpec(n_bits=4, granularity=PerGroupedChannelGranularity(axis=0, group_size=8))
    table = ModuleKMeansPalettizerConfig(op_state_spec={"weight": groups})
    palettizer = KMeansPalettizer(model, KMeansPalettizerConfig(module_name_configs={"table": table}))
    palettizer.prepare((x,))
    none = {"op_input_spec": None, "op_output_spec": None}
    each = {name: ModuleQuantizerConfig(op_state_spec={"weight": spec}, **none) for name, spec in by_name.items()}
    quantizer = Quantizer(palettizer.finalize(), QuantizerConfig(global_config=None, module_name_configs=each))
    quantizer.prepare((x,))
    return quantizer.finalize(), x


@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS17", "iOS18", "iOS26"])
def test_all_that_a_target_cannot_hold_is_told_at_once_before_anything_is_converted(
    impossible, target, tmp_path, monkeypatch
):
    monkeypatch.setattr(coremltools, "convert", lambda *_, **__: pytest.fail("coremltools was asked"))
    model, x = impossible
    with pytest.raises(LoweringError) as caught:
        coreml.convert(model, tmp_path / "m.mlpackage", x, target=target)
    first, *problems = str(caught.value).splitlines()
    lowest = {
        "a scale for each block": "iOS18",
        "weights of int4": "iOS18",
        "a table for each group of channels": "iOS18",
        "weights of float8_e4m3fn": "no target",
        "weights of int8": "iOS16",
    }
    told = {what: can for what, can in lowest.items() if can == "no target" or Target[can] > Target[target]}
    assert first == f"{target} cannot store {len(told)} compressed values:"
    for what, can in told.items():
        (line,) = [line for line in problems if f": {what}" in line]
        assert line.endswith(f"; {can} can")
        assert "test_every_feature.py" in line
    assert not list(tmp_path.iterdir())
