from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from graphpress import ExportBackend, pipelines
from graphpress.backends.errors import LoweringError
from graphpress.ir import from_module, load_graph, run, save_graph
from graphpress.ir.graph import Graph
from graphpress.passes.analysis.facts import QUANTIZERS_CONVERTED
from graphpress.passes.framework import Pipeline, Runner
from graphpress.quantization import QuantizerConfig

IMAGE = torch.randn(2, 3, 8, 8)


def quantized(dtype: str) -> Graph:
    """A convolution whose weight is codes of `dtype`."""
    torch.manual_seed(0)
    weight = {"weight": {"dtype": dtype, "qscheme": "symmetric", "granularity": {"type": "per_channel", "axis": 0}}}
    config = QuantizerConfig.from_dict({"quantization_config": {"global_config": {"op_state_spec": weight}}})
    graph = from_module(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (IMAGE,))
    return Runner().run(graph, pipelines.quantize_weights(config)).graph


def metadata_form(graph: Graph) -> Graph:
    """`graph`, lowered to what coremltools reads."""
    pipeline = Pipeline(*pipelines.lowering(ExportBackend.CoreML), assume=[QUANTIZERS_CONVERTED])
    return Runner().run(graph, pipeline).graph


def test_codes_become_floats_beside_what_describes_them():
    graph = quantized("int4")
    lowered = metadata_form(graph)
    (described,) = lowered.nodes_of(lambda op: op.dialect == "coreml_metadata")
    assert described.op.short_name == "described"
    assert not [node for node in lowered.nodes if node.op.dialect == "quant"]
    entries = dict(zip(described.attribute("keys"), described.operands["entries"], strict=True))
    assert entries["compression_type"].constant.tensor.tolist() == [3]
    assert entries["quantization_n_bits"].constant.tensor.item() == 4
    scale = entries["quantization_scale"].constant.tensor
    codes = described.operands["weight"].constant.tensor / scale
    assert scale.shape == (8, 1, 1, 1)
    assert torch.equal(codes, codes.round())
    assert codes.abs().max() <= 8
    assert all(torch.equal(*outputs) for outputs in zip(run(graph, [IMAGE]), run(lowered, [IMAGE]), strict=True))


def test_a_saved_graph_of_the_metadata_form_is_read_in_any_process(tmp_path: Path):
    lowered = metadata_form(quantized("int8"))
    save_graph(lowered, tmp_path / "model.gir")
    assert str(load_graph(tmp_path / "model.gir")) == str(lowered)
    script = "import sys; from graphpress.ir import load_graph; print(load_graph(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(tmp_path / "model.gir")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(lowered).strip(), done.stderr


def test_what_the_metadata_cannot_describe_is_refused_by_its_node():
    with pytest.raises(LoweringError, match=r"(?s)cannot describe 1 tensors.*float8_e4m3fn.*accepted: int4, int8"):
        metadata_form(quantized("float8_e4m3fn"))
