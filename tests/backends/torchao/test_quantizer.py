from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("torchao", reason="torchao is an optional dependency")

from torchao.quantization.pt2e import ObserverBase
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

from graphpress.backends.torchao import GraphpressQuantizer, TorchaoError
from graphpress.passes.config import ModuleQuantizerConfig, QuantizationSpec, QuantizerConfig


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.MaxPool2d(2)
        self.linear = nn.Linear(8 * 4 * 4, 5)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.linear(self.pool(self.norm(self.conv(x)).relu()).flatten(1))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def data():
    return [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(4)]


def exported(model, x):
    return torch.export.export(copy.deepcopy(model), (x,)).module()


def calibrated(model, quantizer, data):
    prepared = prepare_pt2e(exported(model, data[0]), quantizer)
    for x in data:
        prepared(x)
    return prepared


def observers(prepared):
    """The observers, each once, however many places share it."""
    return [module for module in prepared.modules() if isinstance(module, ObserverBase)]


def signal_to_noise(reference, output):
    return 20 * torch.log10(reference.norm() / (reference - output).norm()).item()


def places(prepared):
    """The nodes that each observer watches."""
    named = dict(prepared.named_modules(remove_duplicate=False))
    watched = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module" and isinstance(named.get(node.target), ObserverBase):
            watched.setdefault(id(named[node.target]), []).append(node.args[0].name)
    return sorted(watched.values())


@pytest.fixture(scope="module")
def prepared(net, data):
    return calibrated(net, GraphpressQuantizer(), data)


def test_groups_and_value_preserving_ops_decide_where_observers_are(prepared):
    assert places(prepared) == [
        ["conv_weight"],
        ["linear"],
        ["linear_weight"],
        ["relu", "max_pool2d", "flatten"],
        ["x"],
    ]
    assert len(observers(prepared)) == 5  # two weights, the input, the shared one from relu on, the output


@pytest.mark.filterwarnings("ignore:The input of maxpool2d is not quantized")  # from torchao's own quantizer
def test_the_converted_model_is_as_near_as_torchaos_own_flow_gets(net, data, prepared):
    own = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    theirs = convert_pt2e(calibrated(net, own, data))
    ours = convert_pt2e(copy.deepcopy(prepared))
    x = data[0]
    with torch.no_grad():
        reference, found, other = net(x), ours(x), theirs(x)
    assert signal_to_noise(reference, found) > 30
    assert signal_to_noise(reference, found) > signal_to_noise(reference, other) - 6


def test_the_converted_model_quantizes_weights_per_channel(prepared):
    ops = [str(node.target) for node in convert_pt2e(copy.deepcopy(prepared)).graph.nodes]
    assert sum("dequantize_per_channel" in op for op in ops) == 2
    assert sum(".quantize_per_tensor" in op for op in ops) == 5  # input, relu, pool, flatten, output


def test_the_config_decides_which_layers_are_left_whole(net, data):
    config = QuantizerConfig(module_name_configs={"linear": None})
    prepared = calibrated(net, GraphpressQuantizer(config), data)
    assert [place for place in places(prepared) if "linear" in place] == []


def test_a_concat_of_a_fixed_and_a_floating_range_has_one_observer(data):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return torch.cat([x.sigmoid(), self.conv(x)], 1)

    prepared = calibrated(Branches().eval(), GraphpressQuantizer(), data)
    assert ["cat", "conv2d", "sigmoid"] in [sorted(place) for place in places(prepared)]


def test_a_known_range_is_fixed(data):
    prepared = calibrated(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid()).eval(), GraphpressQuantizer(), data)
    fixed = [module for module in observers(prepared) if type(module).__name__ == "FixedQParamsObserver"]
    assert [(module.scale.item(), module.zero_point.item()) for module in fixed] == [(1 / 256, -128)]


def test_training_gets_fake_quantizers(net, data):
    program = torch.export.export(copy.deepcopy(net).train(), (data[0],)).module()
    prepared = prepare_qat_pt2e(program, GraphpressQuantizer(is_qat=True))
    names = [type(module).__name__ for module in prepared.modules()]
    assert names.count("FakeQuantize") == 5
    prepared(data[0]).sum().backward()


def test_what_torchao_cannot_express_is_refused_with_the_place_in_the_config(net, data):
    weights = {"weight": QuantizationSpec(dtype="int4", granularity={"type": "per_block", "block_size": 3})}
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_state_spec=weights))
    with pytest.raises(TorchaoError, match=r"global_config.*does not support blocks; accepted: per tensor"):
        prepare_pt2e(exported(nn.Conv2d(3, 4, 1).eval(), data[0]), GraphpressQuantizer(config))


def test_a_missing_torchao_is_reported_with_the_extra_to_install():
    code = "import sys; sys.modules['torchao'] = None; import graphpress.backends.torchao"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MissingDependencyError: the torchao backend needs torchao" in done.stderr
    assert "pip install 'graphpress[torchao]'" in done.stderr
