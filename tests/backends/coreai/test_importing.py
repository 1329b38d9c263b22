"""Saved assets as graphs: they compute what the runtime computes, and compressed constants stay compressed."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from graphpress import ExportBackend
from graphpress.backends import coreai
from graphpress.backends.coreai.arithmetic import RuntimeArithmetic
from graphpress.backends.coreai.importing import program, reader
from graphpress.backends.errors import AssetError
from graphpress.ir import parse_graph, run
from graphpress.ir.graph import Graph
from tests.backends.every_op import MODELS
from tests.backends.features import ACTIVATIONS, IMAGE, WEIGHTS, compressed
from tests.backends.test_every_feature import assert_same_weights

pytest.importorskip("coreai_torch")


def converted(model: nn.Module, inputs: tuple, tmp_path, ties: bool = False) -> Graph:
    """The model, saved and read back; it computes what the runtime does, but for `ties` of quantized activations."""
    path = tmp_path / "m.aimodel"
    coreai.convert(model.eval(), path, inputs)
    graph = coreai.from_asset(path)
    given = [value.int() if value.dtype == torch.int64 else value for value in inputs]
    expected = coreai.load(path)(*given)
    with RuntimeArithmetic():
        found = run(graph, given)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(found) == len(expected)
    for ours, runtimes in zip(found, expected, strict=True):
        assert ours.dtype == runtimes.dtype
        largest = float(runtimes.abs().max())
        differing = (ours - runtimes).abs() > 1e-6 * (runtimes.abs() + largest)
        if ties and differing.float().mean() <= 0.25:  # a code that fell to the other side of a tie reaches few outputs
            torch.testing.assert_close(ours, runtimes, rtol=1e-2, atol=1e-2 * largest)
        else:
            assert not differing.any()
    return graph


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_graph_of_an_asset_computes_what_the_runtime_does(name, tmp_path):
    torch.manual_seed(0)
    graph = converted(*MODELS[name], tmp_path)
    assert not [node for node in graph.nodes if node.op.dialect == "aimodel"]
    assert str(parse_graph(str(graph))) == str(graph)


def assert_stored(weight: str, activation: str | None, tmp_path) -> None:
    """The asset has the codes of the model: the layers that stay whole have their weights bit for bit."""
    plain = weight == "float" and activation is None
    model = compressed(weight, activation, ExportBackend.CoreAI, norm=not plain)  # the converter would fold it
    graph = converted(model, (IMAGE,), tmp_path, ties=activation is not None)
    assert_same_weights(graph, model)
    compressing = [node.op.short_name for node in graph.nodes if node.op.dialect == "quant"]
    assert len(compressing) >= (0 if weight == "float" else 5) + (0 if activation is None else 10)


FEW = [
    "int4 per channel",
    "int8 with a minimum value",
    "float4 e2m1 per block",
    "tables of 3 bits",
    "float8 e4m3 tables",
]


@pytest.mark.parametrize("weight", FEW)
def test_compressed_constants_are_read_as_they_are_stored(weight, tmp_path):
    assert_stored(weight, None, tmp_path)


@pytest.mark.parametrize("activation", ["int8", "int4"])
def test_quantized_activations_are_read_beside_compressed_weights(activation, tmp_path):
    assert_stored("int4 per channel", activation, tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_everything_that_is_stored_is_read(weight, activation, tmp_path):
    assert_stored(weight, activation, tmp_path)


def test_states_become_inputs_and_outputs(tmp_path):
    class Count(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x):
            self.total.add_(x)
            return self.total * 2

    coreai.convert(Count(), tmp_path / "m.aimodel", (torch.ones(3),))
    graph = coreai.from_asset(tmp_path / "m.aimodel")
    assert [each.name for each in graph.inputs] == ["x", "b_total"]
    doubled, total = run(graph, [torch.ones(3), torch.full((3,), 4.0)])
    assert torch.equal(total, torch.full((3,), 5.0))
    assert torch.equal(doubled, 2 * total)


def test_free_extents_are_as_asked_for(tmp_path):
    batch = torch.export.Dim("batch", max=8)
    coreai.convert(nn.Linear(4, 2).eval(), tmp_path / "m.aimodel", (torch.randn(3, 4),), {"input": {0: batch}})
    assert coreai.from_asset(tmp_path / "m.aimodel").inputs[0].value.tensor_type.shape == (1, 4)
    graph = coreai.from_asset(tmp_path / "m.aimodel", shapes={"input": (5, 4)})
    x = torch.randn(5, 4)
    torch.testing.assert_close(run(graph, [x])[0], coreai.load(tmp_path / "m.aimodel")(x))


def test_a_missing_function_and_damage_are_errors_of_ours(tmp_path):
    path = tmp_path / "m.aimodel"
    coreai.convert(nn.ReLU(), path, (torch.ones(2),))
    with pytest.raises(AssetError, match=r"no function 'other', only \['main'\]"):
        coreai.from_asset(path, "other")
    program = (path / "main.mlirb").read_bytes()
    (path / "main.mlirb").write_bytes(program[: len(program) // 2])
    with pytest.raises(AssetError, match="is damaged"):
        coreai.from_asset(path)
    (path / "main.mlirb").write_bytes(b"nothing")
    (path / "main.hash").write_bytes(hashlib.sha256(b"nothing").digest())
    with pytest.raises(AssetError, match="not MLIR bytecode"):
        coreai.from_asset(path)


class Padded(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, (4,)) + torch.full((2, 4), 1.5, dtype=x.dtype)


def test_what_a_short_program_stands_for_is_bounded(tmp_path, monkeypatch):
    path = tmp_path / "m.aimodel"
    coreai.convert(Padded().eval(), path, (torch.ones(2, 4),))
    assert coreai.from_asset(path).nodes
    monkeypatch.setattr(reader, "MOST_REPEATED", 7)
    with pytest.raises(AssetError, match="repeated values of the program stand for more than 7 elements"):
        coreai.from_asset(path)
    monkeypatch.setattr(program, "MOST_INVOKED", 0)
    with pytest.raises(AssetError, match="stand for more than 0 ops"):
        coreai.from_asset(path)
