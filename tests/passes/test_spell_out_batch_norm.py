from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.ir.interpreter import run
from graphpress.ir.torch.capture import from_module
from graphpress.passes.framework import run_pass
from graphpress.passes.spell_out_batch_norm import SpellOutBatchNorm
from graphpress.quantization import Quantizer


class NormOfTokens(nn.Module):
    """A linear layer and a norm over batch and tokens as one axis, as LeViT has them."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 12, bias=False), nn.BatchNorm1d(12)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        x = self.layer(x)
        return self.norm(x.flatten(0, 1)).reshape_as(x)


class NormOfViewedTokens(NormOfTokens):
    def forward(self, x):
        batch, tokens, _ = x.shape
        return self.norm(self.layer(x).reshape(batch * tokens, -1)).view(batch, tokens, -1)


@pytest.mark.parametrize("model", [NormOfTokens, NormOfViewedTokens])
def test_a_norm_of_batch_and_tokens_as_one_axis_is_expanded_at_a_dynamic_batch(model):
    torch.manual_seed(0)
    model = model().eval()
    graph = from_module(model, (torch.randn(2, 5, 8),), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    done = run_pass(SpellOutBatchNorm(), graph).graph
    assert not [node for node in done.nodes if node.op.family == "batch_norm"]
    x = torch.randn(3, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(run(done, [x])[0], model(x), rtol=1e-5, atol=1e-5)


def test_a_quantized_model_with_such_norms_is_finalized_and_takes_another_batch():
    torch.manual_seed(0)
    model = NormOfViewedTokens().eval()
    quantizer = Quantizer(model)
    prepared = quantizer.prepare((torch.randn(2, 5, 8),))
    with quantizer.calibration_mode():
        prepared(torch.randn(16, 5, 8))
    x = torch.randn(3, 5, 8)
    with torch.no_grad():
        finalized, wanted = quantizer.finalize()(x), model(x)
        torch.testing.assert_close(finalized, prepared(x), rtol=1e-5, atol=1e-5)
    assert 10 * torch.log10(wanted.square().sum() / (finalized - wanted).square().sum()) > 25
