"""Every legal way of storing a model, converted, saved, read back and evaluated; every illegal one refused before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.backends import coreml
from graphpress.backends.coreml import Target, TargetError
from graphpress.backends.errors import AssetError, ConversionError, LoweringError
from graphpress.ir import from_module, run
from graphpress.ir.graph import Graph
from graphpress.ir.interpreter import evaluate_node
from graphpress.quantization import QuantizationSpec

from .models import ACTIVATIONS, IMAGE, INT8, WEIGHTS, network, quantized, weight

TARGETS = [target for target in Target if target is not Target.iOS15]
QUICK = ["float", "int8 per channel", "int4 per block", "3-bit tables", "tables of vectors", "scaled int8 tables"]


def weights_of(graph: Graph) -> list[torch.Tensor]:
    """What each layer's weight is when it runs, in order."""
    found = []

    def dense(value):
        if value.constant is not None:
            return value.constant.tensor
        return evaluate_node(value.node, dense)[value.index]

    for node in graph.nodes:
        if node.op.family in ("conv2d", "conv_transpose2d", "convolution", "linear"):
            found.append(dense(node.operand("weight")).detach())
    return found


def assert_same(model: nn.Module, path, target: str) -> None:
    info = coreml.convert(model, path, (IMAGE,), target=target)
    report = coreml.check(path, model, (IMAGE,))
    assert report.ok, report
    assert info.weight_file_bytes == info.weight_bytes_by_law
    if "constexpr" in str(info.operations):  # coremltools folds norms into float weights
        stored, meant = weights_of(coreml.from_package(path)), weights_of(from_module(model, (IMAGE,)))
        assert len(stored) == len(meant) == 5
        assert all(torch.equal(a, b) for a, b in zip(stored, meant, strict=True))


def legal(names, targets):
    return [(name, target.name) for name in names for target in targets if target >= Target.of(WEIGHTS[name][0])]


@pytest.fixture(scope="module")
def finalized():
    made: dict[str, nn.Module] = {}

    def make(name: str) -> nn.Module:
        if name not in made:
            made[name] = WEIGHTS[name][1](network())
        return made[name]

    return make


@pytest.mark.parametrize(
    ("name", "target"), [*legal(QUICK, [Target.iOS18]), ("float", "iOS16"), ("scaled int8 tables", "iOS26")]
)
def test_weights_are_stored_as_they_are(name, target, finalized, tmp_path):
    assert_same(finalized(name), tmp_path / "m.mlpackage", target)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), legal(WEIGHTS, TARGETS))
def test_every_legal_weight_is_stored_as_it_is(name, target, finalized, tmp_path):
    assert_same(finalized(name), tmp_path / "m.mlpackage", target)


@pytest.mark.slow
@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize(("name", "target"), legal(WEIGHTS, [Target.iOS17, Target.iOS18, Target.iOS26]))
def test_every_legal_joint_compression_computes_what_torch_does(name, target, activations, finalized, tmp_path):
    model = quantized(finalized(name), None, ACTIVATIONS[activations])
    info = coreml.convert(model, tmp_path / "m.mlpackage", (IMAGE,), target=target)
    assert info.operations["quantize"] >= 5
    report = coreml.check(tmp_path / "m.mlpackage", model, (IMAGE,))
    assert report.ok, report
    assert info.weight_file_bytes == info.weight_bytes_by_law


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_weights_and_activations_are_quantized(weights, tmp_path):
    assert_same(quantized(network(), weight(weights), INT8), tmp_path / "m.mlpackage", "iOS18")


ILLEGAL = [
    ("int8 per channel", "iOS15", "iOS16 can"),
    ("int4 per channel", "iOS17", "iOS18 can"),
    ("int4 per block", "iOS16", "iOS18 can"),
    ("4-bit tables", "iOS15", "iOS16 can"),
    ("3-bit tables", "iOS17", "iOS18 can"),
    ("tables per group", "iOS17", "iOS18 can"),
    ("tables of vectors", "iOS17", "iOS18 can"),
    ("scaled tables", "iOS17", "iOS18 can"),
    ("int8 tables", "iOS17", "iOS18 can"),
]


@pytest.mark.parametrize(("name", "target", "said"), ILLEGAL)
def test_what_a_target_cannot_store_is_refused_with_the_lowest_that_can(name, target, said, finalized, tmp_path):
    with pytest.raises(LoweringError, match=f"{target} cannot store") as caught:
        coreml.convert(finalized(name), tmp_path / "m.mlpackage", (IMAGE,), target=target)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("weights", "activations", "said"),
    [
        (weight("float8_e4m3fn"), None, "weights of float8_e4m3fn, where int8, uint8, int4, uint4 are possible"),
        (weight("int2"), None, "weights of int2"),
        (weight("int8", qformulation="minval", qscheme="asymmetric"), None, "a minimum value beside the scale"),
        (None, QuantizationSpec(dtype="int4"), "activations of int4, where int8, uint8 are possible"),
        (None, QuantizationSpec(dtype="float8_e4m3fn"), "activations of float8_e4m3fn"),
    ],
)
def test_what_no_target_can_store_is_refused(weights, activations, said, tmp_path):
    model = quantized(network(), weights, activations)
    with pytest.raises(LoweringError, match="no target can") as caught:
        coreml.convert(model, tmp_path / "m.mlpackage", (IMAGE,), target="iOS26")
    assert said in str(caught.value)
    assert "can store all" not in str(caught.value)


def test_activations_need_ios17(tmp_path):
    with pytest.raises(LoweringError, match="activations of int8; iOS17 can"):
        coreml.convert(quantized(network(), None, INT8), tmp_path / "m.mlpackage", (IMAGE,), target="iOS16")


def test_an_unknown_target_brings_the_near_one(tmp_path):
    with pytest.raises(TargetError, match="iOS18"):
        coreml.convert(network(), tmp_path / "m.mlpackage", (IMAGE,), target="ios18")


def test_a_package_must_be_called_one(tmp_path):
    with pytest.raises(AssetError, match=r"must end in '\.mlpackage'"):
        coreml.convert(network(), tmp_path / "m.aimodel", (IMAGE,))


def test_a_model_that_cannot_be_traced_leaves_the_old_package_whole(tmp_path):
    path = tmp_path / "m.mlpackage"
    coreml.convert(network(), path, (IMAGE,))
    with pytest.raises(ConversionError, match=r"torch\.export cannot trace"):
        coreml.convert(network(), path, (torch.randn(3),))
    assert coreml.check(path, network(), (IMAGE,)).ok


@pytest.mark.parametrize("damage", ["no manifest", "truncated weights", "truncated program"])
def test_a_damaged_package_is_an_error_of_ours(damage, tmp_path):
    path = tmp_path / "m.mlpackage"
    coreml.convert(network(), path, (IMAGE,))
    data = path / "Data" / "com.apple.CoreML"
    if damage == "no manifest":
        (path / "Manifest.json").unlink()
    else:
        (file,) = [data / "weights" / "weight.bin"] if "weights" in damage else data.glob("*.mlmodel")
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(AssetError):
        coreml.from_package(path)


def test_a_package_prints_as_a_graph_and_runs(finalized, tmp_path):
    model = finalized("int8 tables")
    coreml.convert(model, tmp_path / "m.mlpackage", (IMAGE,), target="iOS26")
    graph = coreml.from_package(tmp_path / "m.mlpackage")
    assert "quant.lut_to_dense" in str(graph)
    assert torch.equal(run(graph, [IMAGE])[0], model(IMAGE))
