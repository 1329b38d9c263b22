from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from graphpress.backends import coreai
from graphpress.tools.demo.measuring import Result, measure
from graphpress.tools.demo.rows import ROWS
from graphpress.tools.edsr import load_trained
from graphpress.tools.edsr.images import bicubic_upscale, calibration_images, evaluation_pairs, psnr

pytestmark = pytest.mark.slow

PAIRS = 96


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("demo")
    model, calibration, pairs = load_trained(), calibration_images(20), evaluation_pairs(PAIRS)
    return {row.name: measure(row, model, calibration, pairs, folder, lambda stage: None) for row in ROWS}


def test_the_trained_model_beats_bicubic_by_two_decibels(results: dict[str, Result]) -> None:
    bicubic = [psnr(bicubic_upscale(low), high) for _, low, high in evaluation_pairs(PAIRS)]
    assert results["FP32"].mean_psnr > sum(bicubic) / len(bicubic) + 2


@pytest.mark.parametrize(("row", "most"), [("W8A8", 0.35), ("P4A8", 0.82)])
def test_compression_costs_no_more_than_the_documents_say(results: dict[str, Result], row: str, most: float) -> None:
    assert results["FP32"].mean_psnr - results[row].mean_psnr <= most


@pytest.mark.parametrize("row", [row.name for row in ROWS])
def test_the_asset_computes_what_the_finalized_model_does(results: dict[str, Result], row: str) -> None:
    report = results[row].check
    assert report.ok, str(report)
    assert report.max_error <= 1e-5  # as torch runs it, not only with sums in the runtime's order


@pytest.mark.parametrize(("row", "bits"), [("FP32", 32), ("W8A8", 8), ("P4A8", 4)])
def test_weights_take_the_bits_they_should(results: dict[str, Result], row: str, bits: int) -> None:
    parameters = dict(load_trained().named_parameters())
    weights = sum(p.numel() for p in parameters.values() if p.ndim > 1)
    biases = sum(p.numel() for p in parameters.values() if p.ndim == 1)
    low = weights * bits / 8 + biases * 4
    assert low <= results[row].weight_bytes <= low + 16 * biases


def test_assets_run_at_other_sizes(results: dict[str, Result]) -> None:
    image = evaluation_pairs(24)[1][1]
    with coreai.load(results["P4A8"].path) as asset:
        assert asset(image).shape == (1, 3, 2 * image.shape[2], 2 * image.shape[3])


def test_the_command_prints_the_table_and_leaves_the_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "graphpress.tools.demo", "--out", str(tmp_path)]
    options = ["--calibration-images", "2", "--largest", "32"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    for row in ROWS:
        assert row.name in done.stdout
        assert (tmp_path / row.file).is_dir()
        assert row.name in (tmp_path / "report.md").read_text(encoding="utf-8")
    from PIL import Image

    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.width > 5 * strip.height > 0
