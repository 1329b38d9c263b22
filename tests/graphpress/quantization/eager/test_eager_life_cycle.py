"""Eagerly prepared models: running, branches, training, copies, state."""

from __future__ import annotations

import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import nn

from graphpress.ir import reference
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.config import OpQuantizerConfig
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from tests.graphpress.eager.eager_models import (
    Branching,
    ConvNet,
    Runs,
    calibrated,
    eager,
    names,
    prepared,
    random,
    seeded,
)

X = random(2, 8)
UP, DOWN = torch.ones(2, 8), -torch.ones(2, 8)
IMAGE = random(4, 3, 8, 8)


def quantizer_named(model, name):
    return next(m for m in model.modules() if isinstance(m, FakeQuantizeImplBase) and m.name == name)


def branching():
    """A model whose upper branch is taken for `UP` and the lower for `DOWN`."""
    model = seeded(Branching)
    with torch.no_grad():
        for layer in (model.fc, model.up, model.down):
            layer.weight.copy_(torch.eye(8))
            layer.bias.zero_()
    return model


# what comes back


def test_the_prepared_model_is_a_copy_of_the_same_class_and_structure():
    model = seeded(ConvNet)
    before = copy.deepcopy(model.state_dict())
    _, module = prepared(model, IMAGE)
    assert isinstance(module, ConvNet)
    assert type(module).__name__ == "ConvNet"
    assert isinstance(module.fc, nn.Linear)
    assert [name for name, _ in module.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert type(model.conv) is nn.Conv2d
    assert not model.training
    Quantizer(model, eager()).prepare((IMAGE,))


def test_copy_false_shares_the_parameters():
    model = seeded(ConvNet)
    _, module = prepared(model, IMAGE, copy=False)
    assert module._modules["fc"]._parameters["weight"] is model.fc.weight
    assert module.norm.running_mean is not model.norm.running_mean


def test_without_activation_quantizers_nothing_is_watched():
    _, module = prepared(seeded(ConvNet), IMAGE, eager(ModuleQuantizerConfig.presets.w8()))
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(torch.overrides._get_current_function_mode())
            return func(*args, **(kwargs or {}))

    with Watch():
        module(IMAGE)
    assert set(seen) == {None}


def test_prepared_outputs_are_those_of_the_quantized_tensors():
    quantizer, module = calibrated(nn.Linear(8, 4).eval(), X)
    del quantizer
    held = {m.name: m.qparams(m.name == "weight" and module._parameters["weight"].detach()) for m in fakes(module)}

    def rounded(data, name):
        return reference.fake_quantize(data, *held[name], dtype=QuantizationSpec().element_type)

    with torch.no_grad():
        weight = rounded(module._parameters["weight"], "weight")
        expected = rounded(nn.functional.linear(rounded(X, "linear_input"), weight, module.bias), "linear_output")
        assert torch.equal(module(X), expected)


def fakes(module):
    return [m for m in module.modules() if isinstance(m, FakeQuantizeImplBase)]


# control flow


def test_a_branch_that_the_example_did_not_take_runs_and_is_quantized_once_it_is_calibrated():
    quantizer, module = prepared(branching(), UP)
    assert "up.linear_input" in names(module)
    assert "down.linear_input" not in names(module)
    assert "down.weight" in names(module)
    assert torch.isfinite(module(DOWN)).all()
    assert not quantizer_named(module, "down.linear_input").calculator.has_observed
    with quantizer.calibration_mode():
        module(DOWN)
        module(UP)
    assert quantizer_named(module, "down.linear_input").calculator.has_observed
    assert not any(q.observer_enabled or not q.fake_quant_enabled for q in fakes(module))


def test_ops_keep_their_names_whichever_branch_runs_first():
    quantizer, module = prepared(branching(), UP)
    with quantizer.calibration_mode():
        module(UP)
        last = float(quantizer_named(module, "add_output").calculator.running_max)
        module(DOWN)
        module(UP)
    # The sum in the lower branch came second; it has not taken the place of the sum at the end.
    assert last == pytest.approx(2.0, rel=0.1)
    assert "add_1_output" in names(module)


def test_a_branch_met_only_after_finalize_runs_whole():
    quantizer, module = calibrated(branching(), UP)
    finalized = quantizer.finalize()
    del module
    count = len(list(finalized.modules()))
    assert torch.isfinite(finalized(DOWN)).all()
    assert len(list(finalized.modules())) == count


def test_calibration_follows_the_data_through_every_branch():
    quantizer, module = prepared(branching(), UP)
    with quantizer.calibration_mode():
        for x in (UP, DOWN, 3 * UP, DOWN - 1):
            expected = branching()(x)
            assert torch.equal(module(x), expected)
    finalized = quantizer.finalize()
    with torch.no_grad():
        for x in (UP, DOWN):
            assert torch.equal(finalized(x), module(x))


# in-place ops


def keeps_an_alias(module, x):
    y = module.fc(x)
    alias = y
    y += x
    y.mul_(2)
    nn.functional.relu(y, inplace=True)
    return alias - x


def test_in_place_ops_change_what_everybody_else_holds():
    model = Runs(keeps_an_alias, fc=nn.Linear(8, 8)).eval()
    quantizer, module = prepared(model, X)
    quantizer.disable_fake_quant()
    assert torch.equal(module(X), model(X))
    quantizer.enable_fake_quant()
    assert names(module).count("add_other") == 1
    assert 0 < (module(X) - model(X)).abs().max() < 0.2
    module(X).sum().backward()


# containers


class Residual(nn.Sequential):
    def forward(self, x):
        for layer in self[:1]:
            x = layer(x) + x
        for layer in self.children():
            x = layer(x)
        return super().forward(x) + x


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
        self.list = nn.ModuleList([nn.Linear(8, 8), nn.ReLU()])

    def forward(self, x):
        for name, layer in self.layers.items():
            x = layer(x) + len(name)
        for layer in self.list:
            x = layer(x)
        return x


@pytest.mark.parametrize("make", [lambda: Residual(nn.Linear(8, 8), nn.ReLU()), Layers])
def test_modules_that_go_through_their_children_do_not_come_upon_quantizers(make):
    model = make().eval()
    quantizer, module = prepared(model, X)
    quantizer.disable_fake_quant()
    assert torch.equal(module(X), model(X))
    assert [type(c).__name__ for c in module.children()] == [type(c).__name__ for c in model.children()]
    assert len(list(module.modules())) > len(list(model.modules()))


def test_a_submodule_runs_quantized_by_itself():
    _, module = calibrated(seeded(ConvNet), IMAGE)
    with torch.no_grad():
        out = module.fc(X)
        scale = quantizer_named(module, "fc.linear_output").qparams()[0]
        assert torch.equal((out / scale).round() * scale, out)


# switches and training


def test_the_switches_of_a_submodule_are_its_own():
    quantizer, module = calibrated(seeded(ConvNet), IMAGE)
    quantizer.disable_fake_quant(module.fc)
    off = {q.name for q in fakes(module) if not q.fake_quant_enabled}
    assert off == {"fc.linear_input", "fc.linear_output", "fc.weight"}


def test_training_reaches_the_weights_and_leaves_an_evaluating_model():
    quantizer, module = prepared(seeded(ConvNet), IMAGE)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    with quantizer.training_mode():
        assert module.training
        assert all(q.training for q in fakes(module))
        module(IMAGE).square().sum().backward()
        optimizer.step()
    assert not module.training
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert {"conv.weight", "fc.weight", "mixing", "attention.in_proj_weight", "attention.out_proj.weight"} <= moved


def test_gradients_are_those_of_a_straight_through_reference():
    _, module = calibrated(nn.Linear(8, 4).eval(), X)
    module(X).square().sum().backward()
    held = {m.name: m for m in fakes(module)}

    def straight_through(data, name):
        scale = held[name].qparams(data.detach())[0]
        codes = data / scale
        rounded = codes.round().clamp(-128, 127)
        inside = (codes >= -128.5) & (codes <= 127.5)
        return ((rounded - codes).detach() + codes).mul(scale).where(inside, (rounded * scale).detach())

    weight = module._parameters["weight"].detach().clone().requires_grad_()
    out = nn.functional.linear(straight_through(X, "linear_input"), straight_through(weight, "weight"), module.bias)
    straight_through(out, "linear_output").square().sum().backward()
    assert torch.allclose(module._parameters["weight"].grad, weight.grad, rtol=1e-5, atol=1e-6)


# copies and state


def test_a_copy_computes_the_same_and_is_independent():
    quantizer, module = calibrated(seeded(ConvNet), IMAGE)
    other = copy.deepcopy(module)
    assert torch.equal(other(IMAGE), module(IMAGE))
    quantizer.disable_fake_quant(other)
    assert not torch.equal(other(IMAGE), module(IMAGE))
    assert torch.equal(quantizer.finalize(other)(IMAGE), quantizer.finalize()(IMAGE))


def test_a_whole_prepared_model_is_saved_and_loaded():
    _, module = calibrated(seeded(ConvNet), IMAGE)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(IMAGE), module(IMAGE))
    assert type(loaded).__mro__[-3:] == ConvNet.__mro__[-3:]


LOADING = """
import sys, torch
model, image, expected = torch.load(sys.argv[1], weights_only=False)
assert torch.equal(model(image), expected)
"""


def test_another_process_loads_it(tmp_path):
    _, module = calibrated(seeded(ConvNet), IMAGE)
    torch.save((module, IMAGE, module(IMAGE).detach()), tmp_path / "model.pt")
    command = [sys.executable, "-c", LOADING, str(tmp_path / "model.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_state_goes_into_a_freshly_prepared_model():
    _, module = calibrated(seeded(ConvNet), IMAGE)
    _, other = prepared(ConvNet().eval(), random(4, 3, 8, 8, seed=5))
    other.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(other(IMAGE), module(IMAGE))


def test_state_of_ops_that_were_met_later_waits_until_they_are_met():
    quantizer, module = prepared(branching(), UP)
    with quantizer.calibration_mode():
        module(DOWN)
    _, other = prepared(branching(), UP)
    other.load_state_dict(module.state_dict(), strict=True)
    assert other.state_dict().keys() == module.state_dict().keys()
    assert torch.equal(other(DOWN), module(DOWN))
    assert quantizer_named(other, "down.linear_output").calculator.has_observed


def test_casts_round_the_scales_up_to_the_dtype_of_the_model():
    _, module = calibrated(seeded(ConvNet), IMAGE)
    before = {q.name: q.qparams() for q in fakes(module) if not q.is_state}
    module.half()
    assert module.fc._parameters["weight"].dtype is torch.float16
    for fake in fakes(module):
        if not fake.is_state:
            scale, whole = fake.qparams()[0], before[fake.name][0]
            assert torch.equal(scale, scale.half().float())
            assert ((scale >= whole) & (scale <= whole * (1 + 2**-9))).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_in_half_precision_finalize_to_the_same(dtype):
    model, x = seeded(ConvNet).to(dtype), IMAGE.to(dtype)
    quantizer, module = calibrated(model, x)
    with torch.no_grad():
        assert torch.equal(quantizer.finalize()(x), module(x))


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 8)
            self.head = nn.Linear(8, 10, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens):
            return self.head(self.table(tokens))

    tokens = torch.tensor([[1, 2, 3]])
    quantizer, module = calibrated(Tied().eval(), tokens)
    assert module.head._parameters["weight"] is module.table._parameters["weight"]
    assert torch.equal(module.head.weight, module.table.weight)
    finalized = quantizer.finalize()
    assert torch.equal(finalized(tokens), module(tokens))
    assert finalized.head.weight_codes.dtype is torch.int8
    assert finalized.head.weight_codes is finalized.table.weight_codes


def test_a_model_with_state_keeps_it_through_prepare():
    def count(module, x):
        module.table += 1
        return x + module.table

    model = Runs(count).eval()
    _, module = prepared(model, X)
    assert torch.equal(module.table, model.table)
    assert "add_1_other" in names(module)


def test_dropout_and_norms_follow_the_mode():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).eval()
    quantizer, module = prepared(model, X)
    with quantizer.training_mode():
        module(X)
    assert int(module[1].num_batches_tracked) == 1
    assert torch.equal(module(X), module(X))


def test_a_quantizer_of_the_users_own_is_used():
    @FakeQuantizeImplBase.register("halving")
    class Halving(FakeQuantizeImplBase):
        def quantize(self, data, qparams):
            return data / 2

    spec = QuantizationSpec(fake_quantize_cls="halving")
    config = QuantizerConfig(
        execution_mode="eager",
        global_config=ModuleQuantizerConfig(
            op_input_spec=None,
            op_state_spec=None,
            op_output_spec=None,
            op_type_config={"relu": OpQuantizerConfig(op_output_spec={"*": spec}, op_input_spec=None)},
        ),
    )
    _, module = prepared(nn.ReLU(), X, config)
    assert torch.equal(module(X), X.relu() / 2)
