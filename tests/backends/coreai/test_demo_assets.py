"""The three assets of the demo execute in the runtime and compute what the finalized modules do."""

from __future__ import annotations

import pytest
import torch

from graphpress.backends import coreai
from graphpress.tools.demo.measuring import Result, measure
from graphpress.tools.demo.rows import ROWS, Row
from graphpress.tools.edsr import EDSR, load_trained
from graphpress.tools.edsr.images import calibration_images, evaluation_pairs

TOLERANCE = 1e-5  # of the output's range


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def row(request) -> Row:
    return request.param


def test_an_asset_computes_what_its_module_does_at_every_size(row, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = EDSR(blocks=2, features=16).eval()
    images = calibration_images(3, 32)
    finalized = row.compress(model, images, lambda stage: None)
    path = tmp_path / row.file
    height, width = (torch.export.Dim(name, min=8, max=1024) for name in ("height", "width"))
    coreai.convert(finalized, path, (images[0],), dynamic_shapes=({2: height, 3: width},))
    for image in (images[1], images[2][..., :9, :], torch.rand(1, 3, 17, 40)):
        report = coreai.check(path, finalized, (image,), tolerance=TOLERANCE)
        assert report.max_error <= TOLERANCE, report
    with coreai.load(path) as loaded, torch.no_grad():
        upscaled = loaded(images[1])
        assert (upscaled - model(images[1])).abs().max() < 0.2
    assert upscaled.shape == (1, 3, 64, 64)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Result]:
    """The rows of the demo as `make demo` runs it."""
    folder, pairs, calibration = tmp_path_factory.mktemp("trained"), evaluation_pairs(), calibration_images(20)
    model = load_trained()
    return {row.name: measure(row, model, calibration, pairs, folder, lambda stage: None) for row in ROWS}


@pytest.mark.slow
def test_the_trained_assets_match_their_modules(trained):
    for result in trained.values():
        assert result.check.ok
        assert result.asset_error <= TOLERANCE
        assert result.check.max_error <= TOLERANCE
        assert result.package.error <= TOLERANCE
        assert abs(result.package.mean_psnr - result.mean_psnr) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("W8A8", 0.35), ("P4A8", 0.82)])
def test_compression_costs_little_quality(trained, name, most):
    drop = trained["FP32"].mean_psnr - trained[name].mean_psnr
    assert -0.1 < drop <= most
