"""Packages as graphs: they compute what the model does that was converted."""

from __future__ import annotations

import pytest
import torch

from graphpress import ExportBackend
from graphpress.backends import coreml
from graphpress.ir import parse_graph, run
from tests.backends.every_op import MODELS
from tests.backends.features import IMAGE, compressed

pytest.importorskip("coremltools")


@pytest.mark.parametrize("name", sorted({*MODELS} - {"logic", "an LSTM"}))  # which coremltools does not take
def test_the_graph_of_a_package_computes_what_its_model_does(name, tmp_path):
    torch.manual_seed(0)
    model, inputs = MODELS[name]
    coreml.convert(model.eval(), tmp_path / "m.mlpackage", inputs)
    graph = coreml.from_package(tmp_path / "m.mlpackage")
    assert not [node.op.name for node in graph.nodes if node.op.dialect == "mil"]
    assert str(parse_graph(str(graph))) == str(graph)
    found = run(graph, [value.int() if value.dtype == torch.int64 else value for value in inputs])
    expected = torch.utils._pytree.tree_leaves(model(*inputs))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=1e-5, atol=1e-5)


SPELLINGS = {
    "int8 tables": ["lut_to_dense", "blockwise_shift_scale"],
    "int8 tables with a scale per channel": ["lut_to_dense", "blockwise_shift_scale"],
    "sparse tables of 4 bits": ["lut_to_dense", "sparse_to_dense"],
    "sparse int8 per channel": ["sparse_to_dense", "blockwise_shift_scale"],
}


@pytest.mark.parametrize("target", ["iOS18", "iOS26"])
@pytest.mark.parametrize("weight", SPELLINGS)
def test_what_targets_spell_in_their_own_ways_is_read_as_one(weight, target, tmp_path):
    model = compressed(weight, None, ExportBackend.CoreAI, norm=False)
    coreml.convert(model, tmp_path / "m.mlpackage", (IMAGE,), target=target)
    graph = coreml.from_package(tmp_path / "m.mlpackage")
    assert [node.op.short_name for node in graph.nodes if node.op.dialect == "quant"] == 5 * SPELLINGS[weight]
    assert coreml.check(tmp_path / "m.mlpackage", model, (IMAGE,)).ok
