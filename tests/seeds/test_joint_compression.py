from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphpress.backends import coreai
from graphpress.tools.edsr import load_trained
from graphpress.tools.edsr.images import calibration_images, evaluation_pairs, psnr
from graphpress.tools.models import small_resnet
from tests.documents import seed


@pytest.fixture(scope="module")
def joint() -> dict:
    torch.manual_seed(0)
    batches = [torch.randn(2, 3, 32, 32) for _ in range(4)]
    return seed("joint_compression.md.txt").run(
        {"model": small_resnet(), "example_inputs": (batches[0],), "calibration_dataloader": batches}
    )


@pytest.fixture(scope="module")
def edsr() -> dict:
    model = load_trained()
    calibration = calibration_images(6, size=48)
    return seed("edsr.md.txt").run(
        {"torch": torch, "fp32_model": model, "example_inputs": (calibration[0],), "calibration_images": calibration}
    )


def test_the_documents_hold_the_blocks_that_are_run() -> None:
    assert len(seed("joint_compression.md.txt").blocks()) == 5
    assert len(seed("edsr.md.txt").blocks()) == 6


def test_joint_compression_ends_in_an_asset_that_computes_the_same(joint: dict, tmp_path: Path) -> None:
    model, inputs = joint["final_model"], joint["example_inputs"]
    coreai.convert(model, tmp_path / "joint.aimodel", inputs)
    report = coreai.check(tmp_path / "joint.aimodel", model, inputs)
    assert report.ok, str(report)


def test_joint_compression_leaves_no_batch_norm(joint: dict) -> None:
    model, inputs = joint["final_model"], joint["example_inputs"]
    exported = torch.export.export(model, inputs)
    ops = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    convolutions = sum("conv2d" in op for op in ops)
    assert convolutions == sum(isinstance(m, torch.nn.Conv2d) for m in joint["model"].modules())
    assert not [op for op in ops if "batch_norm" in op or "aten.mul" in op or "aten.div" in op]


def test_joint_compression_stores_four_bits_for_a_weight(joint: dict, tmp_path: Path) -> None:
    coreai.convert(joint["final_model"], tmp_path / "joint.aimodel", joint["example_inputs"])
    weights = sum(p.numel() for n, p in joint["model"].named_parameters() if p.ndim > 1)
    others = sum(p.numel() for n, p in joint["model"].named_parameters() if p.ndim == 1)
    assert weights / 2 <= coreai.weight_bytes(tmp_path / "joint.aimodel") <= weights / 2 + 8 * others


def test_edsr_joint_model_stays_near_the_float_one(edsr: dict) -> None:
    name, low, high = evaluation_pairs(64)[0]
    with torch.no_grad():
        before, after = (psnr(model(low), high) for model in (edsr["fp32_model"], edsr["finalized_model"]))
    assert before - after < 2.0, name


def test_the_users_models_are_untouched(joint: dict, edsr: dict) -> None:
    fresh = small_resnet()
    for (name, mine), theirs in zip(fresh.state_dict().items(), joint["model"].state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    assert type(edsr["fp32_model"].head) is torch.nn.Conv2d
