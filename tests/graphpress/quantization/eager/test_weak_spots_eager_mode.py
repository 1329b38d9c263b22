"""Where other quantizers of running modules are weak, ours is not: one test for each spot."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.quantization import ExecutionMode, Quantizer, QuantizerConfig

torch.set_num_threads(1)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Condition(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.yes, self.no, self.last = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        y = self.first(x)
        return self.last(torch.cond(y.sum() > 0, lambda t: self.yes(t), lambda t: torch.relu(self.no(t)), (y,)))


def eagerly(model, x):
    quantizer = Quantizer(model.eval(), QuantizerConfig().set_execution_mode(ExecutionMode.EAGER))
    prepared = quantizer.prepare((x,))
    with quantizer.calibration_mode():
        prepared(x)
    return quantizer, prepared


@pytest.mark.parametrize("sign", [1, -1])
def test_a_model_with_a_condition_is_quantized_around_it_and_its_weights_inside_too(sign):
    x, model = sign * random(2, 8), Condition().eval()
    quantizer, prepared = eagerly(model, x)
    expected, finalized = model(x), quantizer.finalize()
    assert 0 < (prepared(x) - expected).norm() < 0.05 * expected.norm()
    for inputs in (x, -x):
        assert torch.equal(finalized(inputs), prepared(inputs))
    stored = [tensor for tensor in finalized.state_dict().values() if tensor.dtype is torch.int8]
    assert len([tensor for tensor in stored if tensor.shape == (8, 8)]) == 4


def test_one_model_is_prepared_twice_and_stays_as_it_was():
    x, model = random(2, 8), nn.Sequential(nn.Linear(8, 4), nn.ReLU()).eval()
    before, output = {name: tensor.clone() for name, tensor in model.state_dict().items()}, model(x)
    first, second = eagerly(model, x)[1], eagerly(model, x)[1]
    assert torch.equal(first(x), second(x))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(x), output)
