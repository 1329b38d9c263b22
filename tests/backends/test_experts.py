"""Mixtures of experts convert to both backends, and compute what the loop over the experts computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphpress.backends import coreai, coreml
from graphpress.backends.experts import expert_products
from graphpress.quantization import Quantizer, QuantizerConfig

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
BACKENDS = {"coreai": (coreai, "mixture.aimodel"), "coreml": (coreml, "mixture.mlpackage")}


def loop(rows: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """The reference: one product for each expert."""
    made, start = torch.zeros(rows.shape[0], matrices.shape[2], dtype=rows.dtype), 0
    for expert, end in enumerate(ends.tolist()):
        made[start:end] = rows[start:end] @ matrices[expert]
        start = end
    return made


if not hasattr(torch.ops.transformers, "grouped_mm_fallback"):  # the op of transformers, which is not installed here
    _schema = "(Tensor input, Tensor weight, Tensor offs) -> Tensor"
    _op = torch.library.custom_op("transformers::grouped_mm_fallback", loop, mutates_args=(), schema=_schema)
    _op.register_fake(lambda input, weight, offs: input.new_empty(input.shape[0], weight.shape[2]))


class Mixture(nn.Module):
    """The experts of transformers: rows sorted by expert, two grouped products, rows back in place."""

    def __init__(self, experts: int = 4, chosen: int = 2):
        super().__init__()
        self.experts, self.chosen = experts, chosen
        self.router = nn.Linear(16, experts)
        self.up, self.down = (nn.Parameter(torch.randn(experts, *shape) / 4) for shape in ((24, 16), (16, 24)))

    def forward(self, x):
        scores, experts = self.router(x).softmax(-1).topk(self.chosen)
        experts, order = experts.reshape(-1).sort()
        counts = torch.histc(experts.float(), bins=self.experts, min=0, max=self.experts - 1)
        ends = counts.cumsum(0, dtype=torch.int32)
        rows = x[order // self.chosen]
        rows = F.silu(torch.ops.transformers.grouped_mm_fallback(rows, self.up.transpose(1, 2), ends))
        rows = torch.ops.transformers.grouped_mm_fallback(rows, self.down.transpose(1, 2), ends)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0])
        weighted = (rows * scores.reshape(-1)[order].unsqueeze(-1))[back]
        return weighted.reshape(-1, self.chosen, 16).sum(1)


def mixture() -> Mixture:
    torch.manual_seed(0)
    return Mixture().eval()


@pytest.mark.parametrize("ends", [[2, 5, 5, 9], [0, 0, 0, 3], [4, 4, 4, 4], [1, 2, 3, 4], [9, 9, 9, 9]], ids=str)
@pytest.mark.parametrize("rows", [3, 4, 9])
def test_each_row_meets_the_matrix_of_its_expert_and_rows_beyond_the_ends_none(rows, ends):
    generator = torch.Generator().manual_seed(0)
    x, matrices = torch.randn(rows, 5, generator=generator), torch.randn(4, 5, 6, generator=generator)
    bounds = torch.tensor(ends, dtype=torch.int32).clamp(max=rows)
    torch.testing.assert_close(expert_products(x, matrices, bounds), loop(x, matrices, bounds))


def test_an_infinite_row_stays_with_its_expert():
    x, matrices, ends = torch.ones(6, 3), torch.ones(2, 3, 4), torch.tensor([3, 6], dtype=torch.int32)
    matrices[1] = float("inf")
    assert torch.equal(expert_products(x, matrices, ends), loop(x, matrices, ends))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("tokens", [1, 6], ids=["decode", "prefill"])
def test_a_mixture_of_experts_converts_and_computes_what_torch_computes(name, tokens, tmp_path):
    backend, file = BACKENDS[name]
    model, x = mixture(), torch.randn(tokens, 16, generator=torch.Generator().manual_seed(tokens))
    backend.convert(model, tmp_path / file, x)
    report = backend.check(tmp_path / file, model, x)
    assert report.ok, report


def test_a_mixture_of_experts_converts_with_a_dynamic_number_of_tokens(tmp_path):
    model, x = mixture(), torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    coreai.convert(model, tmp_path / "m.aimodel", x, dynamic_shapes=({0: torch.export.Dim("tokens", min=2, max=64)},))
    for tokens in (6, 9):
        report = coreai.check(tmp_path / "m.aimodel", model, torch.randn(tokens, 16))
        assert report.ok, report


@pytest.mark.parametrize("tokens", [2, 6], ids=["decode", "prefill"])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_quantized_mixture_of_experts_converts_with_its_codes(name, tokens, tmp_path):
    backend, file = BACKENDS[name]
    x = torch.randn(tokens, 16, generator=torch.Generator().manual_seed(tokens))
    quantizer = Quantizer(mixture(), QuantizerConfig())
    prepared = quantizer.prepare((x,))
    with quantizer.calibration_mode():
        prepared(x)
    finalized = quantizer.finalize()
    info = backend.convert(finalized, tmp_path / file, x)
    report = backend.check(tmp_path / file, finalized, x)
    assert report.ok, report
    floats = sum(parameter.numel() for parameter in mixture().parameters()) * 4
    assert info.weight_bytes < floats / 2


def test_the_matrices_of_experts_are_quantized_in_both_modes():
    for mode in ("graph", "eager"):
        quantizer = Quantizer(mixture(), QuantizerConfig.presets.w8().set_execution_mode(mode))
        x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
        quantizer.prepare((x,))
        finalized = quantizer.finalize()
        assert not {"up", "down"} & {name for name, _ in finalized.named_parameters()}
        expected = mixture()(x)
        assert (finalized(x) - expected).abs().max() < 0.02 * (expected.max() - expected.min())
