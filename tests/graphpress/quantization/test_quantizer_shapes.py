"""Graph mode over what models are made of: every convolution, every size, several inputs and outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from graphpress.backends import coreai
from graphpress.quantization import Quantizer

CONVOLUTIONS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), (2, 4, 8), 0),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 8, 8), 0),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2), (2, 4, 4, 4, 4), 0),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), (2, 4, 8), 1),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 8, 8), 1),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(4, 6, 2, stride=2), (2, 4, 4, 4, 4), 1),
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def calibrated(model: nn.Module, *inputs: torch.Tensor, **how: Any) -> tuple[nn.Module, nn.Module]:
    """The prepared model, calibrated on the example, and the finalized one."""
    quantizer = Quantizer(model, None)
    prepared = quantizer.prepare(inputs, **how)
    with quantizer.calibration_mode():
        prepared(*inputs)
    return prepared, quantizer.finalize()


def rounded(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """int8, symmetric, one scale for each channel of `axis`, by hand."""
    others = [i for i in range(weight.ndim) if i != axis]
    scale = weight.abs().amax(others, keepdim=True) / 127.5
    return (weight / scale).round().clamp(-128, 127) * scale


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_convolution_has_a_scale_for_each_output_channel_and_a_quantized_input_and_output(name):
    build, shape, axis = CONVOLUTIONS[name]
    torch.manual_seed(0)
    model = nn.Sequential(build(), nn.ReLU()).eval()
    image = noise(*shape)
    prepared, finalized = calibrated(model, image)
    with torch.no_grad():
        output = finalized(image)
        step = float(output.unique().diff().min())
        assert torch.allclose(prepared(image), output, atol=1.01 * step)
        assert 2 < len(output.unique()) <= 256

    (expression,) = (
        module for path, module in prepared.named_modules() if path.startswith("expressions.") and path.count(".") == 1
    )
    found = expression(prepared.get_parameter("0.weight"))
    assert found.shape == model[0].weight.shape
    others = [i for i in range(found.ndim) if i != axis]
    weight = model[0].weight
    apart = (found - rounded(weight, axis)).abs() / (weight.abs().amax(others, keepdim=True) / 127.5)
    assert apart.max() < 1.01  # at ties: scales have 16 bits, and the largest lies between two codes
    assert (apart > 0.01).sum() <= weight.shape[axis] + 1


def test_with_dynamic_shapes_prepared_and_finalized_models_run_at_every_size():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3)).eval()
    size = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    prepared, finalized = calibrated(model, noise(2, 3, 16, 16), dynamic_shapes=(size,))
    for shape in ((1, 3, 9, 12), (5, 3, 20, 7)):
        image = noise(*shape, seed=1)
        with torch.no_grad():
            wanted, ours, stored = model(image), prepared(image), finalized(image)
        spread = float(wanted.max() - wanted.min())
        assert ours.shape == stored.shape == wanted.shape
        assert torch.allclose(ours, stored, atol=1.01 * spread / 127)
        assert torch.allclose(ours, wanted, atol=0.1 * spread)


class TwoWays(nn.Module):
    """Two inputs, one of them optional to most models, and a nested output, one leaf of which is an input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(6, 4), nn.Linear(5, 4)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, Any]:
        left, right = self.left(a), self.right(b)
        return {"both": left + right, "each": (left, [torch.sigmoid(right), b])}


def test_several_inputs_and_a_nested_output_keep_their_places(tmp_path):
    a, b = noise(2, 6), noise(2, 5, seed=1)
    prepared, finalized = calibrated(TwoWays().eval(), a, b)
    with torch.no_grad():
        wanted = TwoWays().eval()(a, b)
        for model in (prepared, finalized):
            found = model(a, b)
            assert found.keys() == wanted.keys()
            leaves, expected = ([x["both"], x["each"][0], *x["each"][1]] for x in (found, wanted))
            assert all(torch.allclose(x, y, atol=0.05) for x, y in zip(leaves, expected, strict=True))


def test_a_tied_weight_has_one_quantizer_and_is_stored_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).eval()
    model[2].weight = model[0].weight
    prepared, finalized = calibrated(model, noise(3, 6))
    assert sum(tensor.shape == (6, 6) for tensor in finalized.state_dict(keep_vars=True).values()) >= 1
    stored = {id(t) for t in finalized.state_dict(keep_vars=True).values() if t.shape == (6, 6)}
    assert len(stored) == 1
    assert len({id(p) for p in prepared.parameters() if p.shape == (6, 6)}) == 1


@pytest.mark.parametrize("name", ["conv1d", "conv3d", "conv_transpose1d", "conv_transpose2d"])
def test_convolutions_run_in_core_ai(name, tmp_path):
    pytest.importorskip("coreai_torch")
    build, shape, _ = CONVOLUTIONS[name]
    torch.manual_seed(0)
    image = noise(*shape)
    _, finalized = calibrated(nn.Sequential(build(), nn.ReLU()).eval(), image)
    coreai.convert(finalized, tmp_path / "model.aimodel", (image,))
    with torch.no_grad():
        wanted = finalized(image)
    step = float(wanted.unique().diff().min())
    assert torch.allclose(coreai.load(tmp_path / "model.aimodel")(image), wanted, atol=1.01 * step)
