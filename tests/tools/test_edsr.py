"""The example EDSR really is trained, on photographs it is not judged by."""

import pytest
import torch

from graphpress.tools.edsr import EDSR, load_trained
from graphpress.tools.edsr.images import (
    HELDOUT_FILES,
    TRAINING_FILES,
    PhotographMissing,
    bicubic_upscale,
    calibration_images,
    downscale,
    evaluation_pairs,
    heldout_images,
    psnr,
    training_images,
)
from graphpress.tools.edsr.model import training_record


@pytest.fixture(scope="module")
def trained() -> EDSR:
    return load_trained()


def test_it_is_the_paper_baseline_in_size(trained: EDSR) -> None:
    assert sum(parameter.numel() for parameter in trained.parameters()) == 1_369_859
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in trained.modules())


@pytest.mark.parametrize("scale", [2, 3])
def test_the_output_is_scale_times_larger(scale: int) -> None:
    model = EDSR(scale=scale, blocks=1, features=8)
    assert model(torch.rand(2, 3, 7, 10)).shape == (2, 3, 7 * scale, 10 * scale)


def test_the_packaged_weights_beat_bicubic_on_every_heldout_photograph(trained: EDSR) -> None:
    gains = []
    with torch.inference_mode():
        for name, low, high in evaluation_pairs(largest=64):
            gain = psnr(trained(low), high) - psnr(bicubic_upscale(low), high)
            assert gain > 0.3, name
            gains.append(gain)
    assert sum(gains) / len(gains) > 0.8


def test_untrained_weights_do_not_beat_bicubic() -> None:
    torch.manual_seed(0)
    _, low, high = evaluation_pairs(largest=32)[0]
    with torch.inference_mode():
        assert psnr(EDSR(blocks=2)(low), high) < psnr(bicubic_upscale(low), high)


def test_the_weights_file_says_how_it_was_made() -> None:
    record = training_record()
    assert (record["scale"], record["blocks"], record["features"]) == ("2", "16", "64")
    assert int(record["steps"]) > 0
    assert float(record["psnr_mean"]) - float(record["bicubic_mean"]) > 0.8


def test_no_heldout_scene_is_trained_on() -> None:
    assert not set(TRAINING_FILES) & set(HELDOUT_FILES)
    thumbnails = {name: _thumbnail(image) for name, image in training_images().items()}
    for name, image in heldout_images().items():
        for other, thumbnail in thumbnails.items():
            assert _correlation(_thumbnail(image), thumbnail) < 0.9, f"{name} looks like {other}"


def test_two_views_of_a_scene_would_be_noticed() -> None:
    images = training_images()
    left, right = (_thumbnail(images[f"motorcycle_{side}"]) for side in ("left", "right"))
    assert _correlation(left, right) > 0.9


def test_evaluation_pairs_are_aligned() -> None:
    for _, low, high in evaluation_pairs(largest=50):
        assert low.shape[0:2] == (1, 3)
        assert max(low.shape[-2:]) <= 50
        assert high.shape[-2:] == (2 * low.shape[-2], 2 * low.shape[-1])
        torch.testing.assert_close(downscale(high), low)
        aligned = psnr(bicubic_upscale(low), high)
        assert aligned > psnr(bicubic_upscale(low), high.roll(1, dims=-1))


def test_calibration_images_are_always_the_same() -> None:
    first, second = calibration_images(20, size=24), calibration_images(20, size=24)
    assert len(first) == 20
    assert all(image.shape == (1, 3, 24, 24) for image in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[14])


def test_asking_for_crops_larger_than_any_photograph_says_so() -> None:
    with pytest.raises(PhotographMissing, match="5000 low-resolution pixels"):
        calibration_images(1, size=5000)


def test_images_are_rgb_in_the_unit_interval() -> None:
    for image in (*training_images().values(), *heldout_images().values()):
        assert image.dtype == torch.float32
        assert image.shape[:2] == (1, 3)
        assert 0 <= image.min() < image.max() <= 1


def test_psnr_of_a_uniform_error_is_minus_twenty_log10_of_it() -> None:
    image = torch.full((1, 3, 8, 8), 0.5)
    assert psnr(image, image + 0.1) == pytest.approx(20, abs=1e-4)
    assert psnr(image, image + 0.1, border=0) == pytest.approx(20, abs=1e-4)
    edge = image.clone()
    edge[..., :2, :] = 1
    assert psnr(edge, image + 0.1) == pytest.approx(20, abs=1e-4)


def test_it_exports_with_dynamic_height_and_width() -> None:
    model = EDSR(blocks=2, features=8).eval()
    height, width = torch.export.Dim("height", min=8, max=512), torch.export.Dim("width", min=8, max=512)
    program = torch.export.export(model, (torch.rand(1, 3, 24, 32),), dynamic_shapes={"image": {2: height, 3: width}})
    image = torch.rand(1, 3, 17, 40)
    torch.testing.assert_close(program.module()(image), model(image))


def _thumbnail(image: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(image.mean(1, keepdim=True), size=(8, 8), mode="area").flatten()


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])
