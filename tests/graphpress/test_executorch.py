"""ExecuTorch's Core AI front end, which imports `coreai_opt`, on graphpress under that name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import graphpress
graphpress.install_as_coreai_opt()

import torch
from executorch.backends.apple.coreai.quantizer import CoreAIQuantizer
from graphpress.quantization import Quantizer
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
example = (torch.randn(1, 3, 8, 8),)


def converted(quantizer, convert):
    prepared = quantizer.prepare(example)
    with quantizer.calibration_mode():
        prepared(*example)
    return convert()


theirs = CoreAIQuantizer(model)
assert isinstance(theirs._quantizer, Quantizer)
wrapped = converted(theirs, theirs.convert)
ours = Quantizer(model)
plain = converted(ours, lambda: ours.finalize(backend=graphpress.ExportBackend.CoreAI))
assert torch.equal(wrapped(*example), plain(*example))

exported = torch.export.export(wrapped, example, strict=True)  # what lowering starts from
assert torch.equal(exported.module()(*example), wrapped(*example))
calls = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
assert any(call.startswith("coreai.quantize") for call in calls), calls
assert not any("batch_norm" in call for call in calls), calls

import coreai.authoring as authoring

for kind in list(vars(authoring).values()):  # ExecuTorch calls what the released package has under a private name
    if isinstance(kind, type) and hasattr(kind, "_get_graph") and not hasattr(kind, "get_graph"):
        kind.get_graph = kind._get_graph

from executorch.backends.apple.coreai.partition.partitioner import CoreAIPartitioner
from executorch.exir import to_edge_transform_and_lower

edge = to_edge_transform_and_lower(exported, partitioner=[CoreAIPartitioner()])
calls = [str(node.target) for node in edge.exported_program().graph.nodes if node.op == "call_function"]
assert calls[0] == "executorch_call_delegate", calls
assert len(calls) == 2, calls  # the other takes the output out of the delegate's
with open("model.pte", "wb") as file:
    file.write(edge.to_executorch().buffer)
print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="ExecuTorch is not installed")
def test_executorchs_quantizer_prepares_calibrates_and_converts_and_the_model_is_lowered_whole(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "done" in done.stdout
    assert (tmp_path / "model.pte").stat().st_size > 0
