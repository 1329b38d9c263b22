"""Where coreai-opt 0.4.0 places quantizers, and graphpress likewise."""

import torch
from torch import nn

from graphpress.quantization import Quantizer
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.gain = nn.Linear(8, 8), nn.Parameter(torch.tensor([2.0]))

    def forward(self, x):
        shares = torch.softmax(self.layer(x), -1)
        return torch.cat([shares, shares * self.gain], 0)


def test_softmax_fuses_with_its_layer_single_elements_stay_and_concatenation_shares():
    prepared = Quantizer(Net().eval()).prepare(X)
    quantizers = {name for name, module in prepared.named_modules() if isinstance(module, FakeQuantizeImplBase)}
    read = {node.name: [each.name for each in node.all_input_nodes] for node in prepared.graph.nodes}
    assert read["softmax"] == ["linear"]  # nothing is quantized between them
    assert "gain" in read["mul"]
    assert not any("gain" in name for name in quantizers)
    targets = {node.name: str(node.target) for node in prepared.graph.nodes if node.op == "call_module"}
    first, second = (targets[name] for name in read["cat"])
    assert first == second


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(16, 8), nn.LayerNorm(8)
        self.up, self.down, self.last = nn.Linear(8, 32), nn.Linear(32, 8), nn.LayerNorm(8)

    def forward(self, tokens):
        x = self.norm(self.table(tokens))
        return self.last(x + self.down(nn.functional.gelu(self.up(x))))


def test_the_norm_that_a_model_ends_with_makes_floats_as_does_an_embedding_before_a_norm():
    torch.manual_seed(0)
    prepared = Quantizer(Encoder().eval()).prepare(torch.arange(16)[None])
    quantizers = {module.name for module in prepared.modules() if isinstance(module, FakeQuantizeImplBase)}
    activations = {name for name in quantizers if "weight" not in name}
    assert activations == {"layer_norm_output", "gelu_output", "linear_1_output", "add_output"}


def test_a_gelu_has_nearly_all_codes_in_use():
    torch.manual_seed(0)
    quantizer = Quantizer(nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8)).eval())
    prepared = quantizer.prepare(X)
    with quantizer.calibration_mode():
        prepared(3 * X)
    of_gelu = next(module for module in prepared.modules() if getattr(module, "name", "") == "gelu_output")
    values = nn.functional.gelu(torch.linspace(-3, float(of_gelu.calculator.running_max), 2000))
    assert len(of_gelu(values).unique()) > 250
