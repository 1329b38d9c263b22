"""A prepared model may be cast, as by ``half()``, and is finalized in the dtype that it was cast to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress import ExportBackend
from graphpress.backends import coreai
from graphpress.backends.errors import ConversionError, LoweringError
from graphpress.modules.remembering import Remembered
from graphpress.palettization import KMeansPalettizer
from graphpress.pruning import MagnitudePruner
from graphpress.quantization import Quantizer, QuantizerConfig
from graphpress.quantization.retyping import CastError

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        return torch.cond(x.sum() > 0, self.head, torch.relu, (self.head(x),))


def made(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().eval()


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def calibrated(model: nn.Module, x: torch.Tensor) -> tuple[Quantizer, nn.Module]:
    quantizer = Quantizer(model)
    prepared = quantizer.prepare((x,))
    with quantizer.calibration_mode():
        prepared(x)
    return quantizer, prepared


CASTS = {
    torch.float16: lambda model: model.half(),
    torch.bfloat16: lambda model: model.bfloat16(),
    torch.float64: lambda model: model.to(torch.float64),
}


@pytest.mark.parametrize("dtype", CASTS)
def test_a_cast_prepared_model_is_finalized_to_what_it_computes(dtype):
    x = drawn(2, 3, 8, 8)
    quantizer, prepared = calibrated(made(Net), x)
    meant = prepared(x)
    CASTS[dtype](prepared)
    cast = prepared(x.to(dtype))
    finalized = quantizer.finalize()
    found = finalized(x.to(dtype))
    assert found.dtype == dtype
    assert torch.equal(found, cast)
    assert (found.float() - meant).abs().max() < 0.02 * (meant.max() - meant.min())
    dense = quantizer.finalize(backend=ExportBackend.Torch)(x.to(dtype))
    assert torch.allclose(dense, cast, atol=2 * torch.finfo(dtype).eps)


def test_a_prepared_model_that_was_cast_to_half_converts(tmp_path):
    x = drawn(2, 3, 8, 8)
    quantizer, prepared = calibrated(made(Net), x)
    prepared.half()
    finalized = quantizer.finalize()
    info = coreai.convert(finalized, tmp_path / "model.aimodel", (x.half(),))
    assert coreai.check(tmp_path / "model.aimodel", finalized, (x.half(),)).ok
    assert info.operations.get("cast", 0) == 0


def test_a_cast_that_an_op_does_not_take_says_to_cast_before_prepare():
    x = drawn(2, 4)
    quantizer, prepared = calibrated(made(Branches), x)
    prepared.half()
    with pytest.raises(CastError, match=r"cast from float32 to float16, and .*accepted: casts of the model before"):
        quantizer.finalize()
    prepared.float()
    assert torch.equal(quantizer.finalize()(x), prepared(x))


def test_a_finalized_pruned_model_computes_in_the_dtype_that_it_is_cast_to():
    pruner = MagnitudePruner(made(Net))
    pruner.prepare()
    finalized, x = pruner.finalize(), drawn(2, 3, 8, 8)
    meant = finalized(x)  # and keeps its dense weights
    finalized.half()
    found = finalized(x.half())
    assert found.dtype is torch.float16
    assert torch.allclose(found.float(), meant, atol=1e-2)


@pytest.mark.parametrize("kind", [KMeansPalettizer, MagnitudePruner])
def test_weights_of_float64_are_refused_where_they_would_be_stored(kind):
    compressor = kind(made(Net).double())
    compressor.prepare()
    with pytest.raises(LoweringError, match=r"Core AI stores no .* of float64; accepted: bfloat16, float16, float32"):
        compressor.finalize()
    assert compressor.finalize(backend=ExportBackend.Torch)(drawn(2, 3, 8, 8).double()).dtype is torch.float64


@pytest.mark.parametrize("kind", [KMeansPalettizer, MagnitudePruner, Quantizer])
def test_a_finalized_model_that_was_cast_to_float64_is_refused_with_what_to_do(kind, tmp_path):
    compressor, x = kind(made(Net)), drawn(2, 3, 8, 8)
    compressor.prepare((x,))
    finalized = compressor.finalize().double()
    with pytest.raises((ConversionError, LoweringError), match=r"float64.*(accepted: bfloat16|model\.float\(\))"):
        coreai.convert(finalized, tmp_path / "model.aimodel", (x.double(),))


def test_a_result_is_computed_again_after_an_assignment_to_data():
    cache, parameter = Remembered[float](), nn.Parameter(torch.ones(2))
    assert [cache.get([parameter], lambda: parameter.sum().item()) for _ in range(2)] == [2.0, 2.0]
    parameter.data = torch.zeros(2)
    assert cache.get([parameter], lambda: parameter.sum().item()) == 0.0


def test_numbers_have_no_quantizer_and_finalized_models_take_them():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x, temperature):
            return self.linear(x) * (temperature * 2)

    inputs = (drawn(2, 4), torch.tensor(0.5))
    quantizer = Quantizer(made(Scaled), QuantizerConfig())
    prepared = quantizer.prepare(inputs)
    with quantizer.calibration_mode():
        prepared(*inputs)
    names = {name for name, _ in prepared.quantizers.named_children()}
    assert names == {"linear_input", "linear_output", "mul_1_output"}
    assert torch.equal(quantizer.finalize()(*inputs), prepared(*inputs))
