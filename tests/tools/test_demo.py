"""The demo says what it did, leaves what it promises, and refuses what it cannot do before it starts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

from graphpress.backends import coreai, coreml
from graphpress.tools.demo import __main__ as demo
from graphpress.tools.demo.measuring import Result, Stopwatch, measure
from graphpress.tools.demo.report import HEADINGS, package_rows, table_rows, write_page, write_report, write_strip
from graphpress.tools.demo.rows import ROWS
from graphpress.tools.edsr import EDSR
from graphpress.tools.edsr.images import bicubic_upscale, calibration_images, evaluation_pairs, psnr

torch.set_num_threads(1)
ASSETS = [f"edsr-{row}.aimodel" for row in ("fp32", "p4a8", "w8a8")]
PACKAGES = [name.replace(".aimodel", ".mlpackage") for name in ASSETS]
FILES = sorted([*ASSETS, *PACKAGES, "joint-pipeline.html", "report.md", "strip.png"])
COREML = ["convert for Core ML", "evaluate for Core ML"]
STAGES = {
    "FP32": ["convert", "execute", "evaluate", *COREML],
    "W8A8": ["prepare", "calibrate", "finalize", "convert", "execute", "evaluate", *COREML],
    "P4A8": ["palettize", "prepare", "calibrate", "finalize", "convert", "execute", "evaluate", *COREML],
}


@pytest.fixture(scope="module")
def pairs():
    return evaluation_pairs(32)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, pairs) -> tuple[list[Result], dict[str, list[str]]]:
    """The rows on a small network, and the stages each row went through."""
    folder = tmp_path_factory.mktemp("demo")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = EDSR(blocks=2, features=16).eval()
    results, stages = [], {}
    for row in ROWS:
        seen = stages[row.name] = []
        results.append(measure(row, model, calibration_images(2, 32), pairs, folder, seen.append))
    return results, stages


@pytest.fixture(scope="module")
def bicubic(pairs) -> dict[str, float]:
    return {name: psnr(bicubic_upscale(low), high) for name, low, high in pairs}


def test_every_row_goes_through_its_stages_and_each_is_timed(measured):
    results, stages = measured
    assert stages == STAGES
    for result in results:
        assert sorted(result.seconds) == sorted(STAGES[result.row.name])
        assert all(seconds > 0 for seconds in result.seconds.values())


def test_stages_that_come_again_are_added_up():
    watch = Stopwatch(lambda name: None)
    for name in ("a", "b", "a", None):
        watch.stage(name)
    assert list(watch.seconds) == ["a", "b"]


def test_the_table_has_a_row_for_bicubic_and_for_each_model(measured, bicubic):
    results, _ = measured
    table = table_rows(results, bicubic)
    assert [row[0] for row in table] == ["bicubic", "FP32", "W8A8", "P4A8"]
    assert {len(row) for row in table} == {len(HEADINGS)}
    for row, result in zip(table[1:], results, strict=True):
        assert row[1] == f"{result.mean_psnr:.2f} dB"
        assert row[3] == f"{coreai.weight_bytes(result.path) / 1e6:.2f} MB"
    assert table[1][2] == ""
    assert table[2][2] == f"{results[0].mean_psnr - results[1].mean_psnr:.2f} dB"


def test_packages_of_core_ml_score_the_same(measured):
    for result in measured[0]:
        package = result.package
        assert package.mean_psnr == pytest.approx(result.mean_psnr, abs=0.01)
        assert package.error <= 1e-5
        assert package.weight_bytes == coreml.read(package.path).weight_bytes
        assert abs(package.weight_bytes - result.weight_bytes) < 2048
    assert [row[0] for row in package_rows(measured[0])] == ["FP32", "W8A8", "P4A8"]


def test_stored_weights_are_four_and_eight_times_smaller(measured):
    whole, eight, four = (result.weight_bytes for result in measured[0])
    assert 3.4 < whole / eight <= 4
    assert 5.5 < whole / four <= 8


def test_the_report_tells_every_figure_of_the_table(measured, bicubic, pairs, tmp_path):
    results, _ = measured
    write_report(tmp_path / "report.md", results, bicubic, tmp_path / "strip.png", tmp_path / "joint.html")
    text = (tmp_path / "report.md").read_text()
    for row in table_rows(results, bicubic):
        assert f"| {' | '.join(row)} |" in text
    for name, _, _ in pairs:
        assert re.search(rf"\| {name} \|( \d+\.\d\d \|){{4}}", text)
    for result in results:
        assert f"`{result.path.name}`: {coreai.stored_bytes(result.path):,} bytes" in text
    assert "(strip.png)" in text
    assert "(joint.html)" in text


def test_the_page_tells_what_every_pass_of_the_joint_pipeline_did(tmp_path):
    write_page(tmp_path / "joint.html", EDSR(blocks=2, features=16).eval(), calibration_images(1, 32)[0])
    text = (tmp_path / "joint.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    labels = [step["label"] for step in data["steps"]]
    assert labels[0] == "captured"
    assert {"palettize-weights#1", "share-quantizers#1", "insert-fake-quant#1"} <= set(labels)
    palettized = next(step for step in data["steps"] if step["label"] == "palettize-weights#1")
    tables = [constant["n"] for constant in palettized["delta"]["constants"] if constant["n"].endswith("_lut")]
    assert len(tables) == len({node["n"] for node in data["steps"][0]["delta"]["nodes"] if "conv2d" in node["o"]})


@pytest.mark.parametrize("crop", [16, 64, 1000])
def test_the_strip_shows_every_image_at_one_size(measured, pairs, tmp_path, crop):
    columns = {result.row.name: result.images[pairs[0][0]] for result in measured[0]}
    write_strip(tmp_path / "strip.png", pairs[0], columns, crop)
    side = min(crop, 64)
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.size == (5 * (side + 4) - 4, side + 16)
        middle = [strip.crop((x, 16, x + side, 16 + side)) for x in range(0, strip.width, side + 4)]
    assert all(len(image.getcolors(1 << 16)) > 50 for image in middle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strip.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "{file}"], "cannot write to the folder .*file: File exists"),
        (["--out", "{file}/below"], "cannot write to the folder .*below: Not a directory"),
        (["--calibration-images", "0"], "'0' is not a whole number of at least 1"),
        (["--largest", "8"], "'8' is not a whole number of at least 32"),
        (["--largest", "many"], "'many' is not a whole number of at least 32"),
    ],
)
def test_what_it_cannot_do_is_refused_before_it_starts(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("precious")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", *(each.format(file=tmp_path / "file") for each in arguments)])
    monkeypatch.setattr(demo, "load_trained", lambda: pytest.fail("it started"))
    with pytest.raises(SystemExit):
        demo.main()
    assert re.search(message, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_the_demo_prints_its_table_and_leaves_its_files(tmp_path):
    command = [sys.executable, "-m", "graphpress.tools.demo", "--out", str(tmp_path / "out")]
    finished = subprocess.run(
        [*command, "--calibration-images", "4", "--largest", "48"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "160"},
        cwd=tmp_path,
    )
    for name in ("bicubic", "FP32", "W8A8", "P4A8"):
        assert re.search(rf"│ {name} +│ \d\d\.\d\d dB", finished.stdout), finished.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    report = (tmp_path / "out" / "report.md").read_text()
    for asset, package in zip(ASSETS, PACKAGES, strict=True):
        assert asset in report
        assert package in report
        assert coreai.read(tmp_path / "out" / asset).function().outputs
        assert coreml.read(tmp_path / "out" / package).outputs
    with Image.open(tmp_path / "out" / "strip.png") as strip:
        strip.load()
