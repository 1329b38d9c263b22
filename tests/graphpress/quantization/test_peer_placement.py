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
