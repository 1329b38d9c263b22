"""Models whose Python code fixes the batch keep that of the example, also where torch was asked for a dynamic one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.quantization import Quantizer

torch.set_num_threads(1)


class OneByOne(nn.Module):
    """Runs each element of the batch by itself, in a Python loop that a capture unrolls."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        rows = [self.linear(x[at]).expand(x.shape[0], 4) for at in range(x.shape[0])]
        return torch.stack(rows, 1).reshape(x.shape[0], len(rows), 4)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.filterwarnings("ignore")
def test_a_loop_over_the_batch_is_captured_at_the_batch_of_the_example(batch):
    model, x = OneByOne().eval(), torch.randn(batch, 4)
    quantizer = Quantizer(model)
    prepared = quantizer.prepare(x)
    quantizer.disable_fake_quant()
    assert torch.allclose(prepared(x), model(x), atol=1e-6)
