from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.palettization import KMeansPalettizer
from graphpress.passes.config import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig, PalettizationSpec


class Condition(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.yes, self.no = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.yes(x), lambda x: self.no(x).relu(), (x,))


@pytest.mark.parametrize("spec", [{}, {"enable_per_channel_scale": True}])
def test_weights_in_the_branches_of_a_condition_are_palettized(spec):
    model = Condition().eval()
    config = ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(n_bits=4, **spec)})
    palettizer = KMeansPalettizer(model, KMeansPalettizerConfig(global_config=config))
    prepared = palettizer.prepare((torch.ones(2, 32),))
    finalized = palettizer.finalize()
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    for inputs in (x, -x):
        expected = model(inputs)
        assert 0 < (prepared(inputs) - expected).norm() < 0.2 * expected.norm()
        torch.testing.assert_close(finalized(inputs), prepared(inputs))
    branches = [nn.functional.linear(x, prepared.yes.weight, model.yes.bias)]
    branches.append(nn.functional.linear(x, prepared.no.weight, model.no.bias).relu())
    torch.testing.assert_close(prepared(x), branches[int(x.sum() <= 0)])
