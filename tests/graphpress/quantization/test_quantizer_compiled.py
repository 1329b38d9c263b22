"""Prepared models train under `torch.compile` as they do without it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, QuantizerConfig
from graphpress.quantization.config import QATSchedule
from graphpress.quantization.fake_quantize import FakeQuantize, FakeQuantizeImplBase, calculator_for
from graphpress.quantization.quantizer import Quantizer


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    ).eval()


def image(seed=0, batch=4):
    return torch.randn(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def everywhere(activation, weight):
    return ModuleQuantizerConfig(
        op_input_spec={"*": activation}, op_output_spec={"*": activation}, op_state_spec={"weight": weight}
    )


LEARNABLE = QuantizationSpec(fake_quantize_cls="learnable")
CONFIGS = {
    "default": QuantizerConfig,
    "learnable": lambda: QuantizerConfig(global_config=everywhere(LEARNABLE, LEARNABLE)),
    "weights alone": QuantizerConfig.presets.w4,
}


def prepared_net(config):
    quantizer = Quantizer(net(), config)
    prepared = quantizer.prepare((image(),))
    with quantizer.calibration_mode():
        prepared(image(1))
    return quantizer, prepared


def train(quantizer, model, parameters, seeds):
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    with quantizer.training_mode():
        for seed in seeds:
            optimizer.zero_grad()
            model(image(seed)).square().mean().backward()
            optimizer.step()
            quantizer.step()


def trained_plainly(config, state, seeds):
    """The same training without a compiler, from the same state."""
    quantizer = Quantizer(net(), config)
    prepared = quantizer.prepare((image(),))
    prepared.load_state_dict(state)
    train(quantizer, prepared, prepared.parameters(), seeds)
    return prepared


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


@pytest.mark.parametrize("config", CONFIGS)
def test_a_training_step_is_one_graph_and_trains_bit_for_bit_alike(config):
    quantizer, prepared = prepared_net(CONFIGS[config]())
    state = copy.deepcopy(prepared.state_dict())
    compiled = torch.compile(prepared, backend="eager", fullgraph=True)
    train(quantizer, compiled, prepared.parameters(), range(2))
    plain = trained_plainly(CONFIGS[config](), state, range(2))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, prepared.state_dict()[name]), name
    assert torch.equal(prepared(image()), plain(image()))
    assert torch.equal(quantizer.finalize()(image()), prepared(image()))


@pytest.mark.parametrize("config", ["default", "learnable"])
def test_gradients_that_the_compiler_derives_are_those_of_plain_training(config):
    torch.manual_seed(0)
    # Without a norm, which the compiler computes in another order: a value near a tie would be rounded the other way.
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    quantizer = Quantizer(model, CONFIGS[config]())
    prepared = quantizer.prepare((image(),))
    with quantizer.training_mode():
        quantizer.disable_observer()
        image_in = image(2).requires_grad_()
        prepared(2 * image_in).square().mean().backward()
        expected = [image_in.grad, *(p.grad for p in prepared.parameters())]
        image_in.grad, _ = None, prepared.zero_grad()
        compiled = torch.compile(prepared, backend="aot_eager", fullgraph=True)
        compiled(2 * image_in).square().mean().backward()
    found = [image_in.grad, *(p.grad for p in prepared.parameters())]
    assert (expected[0] == 0).any(), "nothing was clipped"
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_norms_train_under_a_compiler_that_derives_their_gradients():
    quantizer, prepared = prepared_net(CONFIGS["learnable"]())
    state = copy.deepcopy(prepared.state_dict())
    train(quantizer, torch.compile(prepared, backend="aot_eager"), prepared.parameters(), range(2))
    plain = trained_plainly(CONFIGS["learnable"](), state, range(2))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(prepared.state_dict()[name], tensor, rtol=0.02, atol=0.02, msg=name)


def test_schedules_and_switches_reach_a_compiled_model():
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(qat_schedule=QATSchedule(disable_observer=1)))
    quantizer, prepared = prepared_net(config)
    state = copy.deepcopy(prepared.state_dict())
    compiled = torch.compile(prepared, backend="eager", fullgraph=True)
    train(quantizer, compiled, prepared.parameters(), range(2))
    plain = trained_plainly(config, state, range(2))
    counts = {n: int(t) for n, t in prepared.state_dict().items() if n.endswith("observations")}
    assert set(counts.values()) == {3}, "the example, a calibration, and a step until observers went off"
    assert all(torch.equal(tensor, prepared.state_dict()[name]) for name, tensor in plain.state_dict().items())
    with torch.no_grad():
        before = compiled(image())
        quantizer.disable_fake_quant()
        assert not torch.equal(compiled(image()), before)


def test_evaluation_is_compiled_too_and_follows_the_weights():
    _, prepared = prepared_net(QuantizerConfig())
    compiled = torch.compile(prepared, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(image()), prepared(image()))
        prepared.get_parameter("4.weight").mul_(3)
        assert torch.equal(compiled(image()), prepared(image()))


def searching(key, cls="default", qscheme="symmetric"):
    how = {"qparam_calculator_cls": key, "fake_quantize_cls": cls, "qscheme": qscheme}
    return QuantizerConfig(global_config=everywhere(QuantizationSpec(**how), QuantizationSpec(dtype="int4", **how)))


@pytest.mark.parametrize("key", ["mse", pytest.param("percentile", marks=pytest.mark.slow)])
def test_observers_that_search_break_the_graph_and_train_bit_for_bit_alike(key):
    # Layers and norms around the searches run as they do without a compiler, so nothing is computed in another order.
    quantizer, prepared = prepared_net(searching(key))
    state = copy.deepcopy(prepared.state_dict())
    train(quantizer, torch.compile(prepared, backend="aot_eager"), prepared.parameters(), range(2))
    plain = trained_plainly(searching(key), state, range(2))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, prepared.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph", "eager"])
@pytest.mark.parametrize("qscheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("cls", ["default", "learnable"])
@pytest.mark.parametrize("key", ["histogram", "percentile"])  # "mse" is "histogram" of activations, and it is "mse"
def test_observers_that_search_train_under_a_compiler_that_derives_gradients(key, cls, qscheme, mode):
    config = searching(key, cls, qscheme).set_execution_mode(mode)
    quantizer, prepared = prepared_net(config)
    state = copy.deepcopy(prepared.state_dict())
    train(quantizer, torch.compile(prepared, backend="aot_eager"), prepared.parameters(), range(2))
    plain = trained_plainly(config, state, range(2))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(prepared.state_dict()[name], tensor, rtol=0.01, atol=0.01, msg=name)


def test_scales_that_are_learned_from_a_searched_start_search_no_more():
    weight = QuantizationSpec(dtype="int4", qparam_calculator_cls="mse", fake_quantize_cls="learnable")
    config = QuantizerConfig(global_config=everywhere(LEARNABLE, weight))
    quantizer, prepared = prepared_net(config)
    start = copy.deepcopy(prepared.state_dict())
    compiled = torch.compile(prepared, backend="eager", fullgraph=True)
    train(quantizer, compiled, prepared.parameters(), range(2))
    plain = trained_plainly(config, start, range(2))
    assert all(torch.equal(tensor, prepared.state_dict()[name]) for name, tensor in plain.state_dict().items())
    changed = [n for n in start if n.endswith("scale_change") and not torch.equal(start[n], prepared.state_dict()[n])]
    assert changed


@pytest.mark.parametrize("config", [QuantizerConfig, QuantizerConfig.presets.w4])
def test_eagerly_prepared_models_run_under_the_compiler(config):
    def made():
        return config().set_execution_mode("eager")

    quantizer, prepared = prepared_net(made())
    state = copy.deepcopy(prepared.state_dict())
    train(quantizer, torch.compile(prepared, backend="eager"), prepared.parameters(), range(3))
    plain = trained_plainly(made(), state, range(3))
    assert all(torch.equal(tensor, prepared.state_dict()[name]) for name, tensor in plain.state_dict().items())


# calculators without branches

NAN, LOWEST = float("nan"), torch.finfo(torch.float32).min
SEEN = [
    torch.tensor([[1.0, -2.0], [0.5, 3.0]]),
    torch.tensor([[NAN, 0.0], [1.0, 1.0]]),
    torch.tensor([[4.0, LOWEST], [-1.0, 2.0]]),
    torch.tensor([[float("inf"), 0.0], [0.0, 0.0]]),
    torch.full((2, 2), LOWEST),
    torch.tensor([[-float("inf"), -7.0], [0.25, 0.0]]),
    torch.tensor([[0.1, 0.2], [0.3, -0.4]]),
]


AVERAGES = [f"moving_average{{min_values={values}}}" for values in (1, 3, 5)]


@pytest.mark.parametrize("key", [*AVERAGES, "moving_average", "global_minmax", "static"])
@pytest.mark.parametrize("block", [(), (1, -1)])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("values_in_a_batch", [1, 2, 3])
def test_a_calculator_remembers_the_same_with_and_without_branches(key, block, order, values_in_a_batch):
    spec = QuantizationSpec(dtype="uint8", qscheme="asymmetric", qparam_calculator_cls=key)
    plain, traced = (calculator_for(spec, block, is_state=False) for _ in range(2))
    for place, data in enumerate(SEEN[::order]):
        if place % values_in_a_batch == 0:
            plain.observe(data)
            traced._begin_batch()
        else:
            plain.observe_more(data)
        traced._observe_traced(data)
        for name, buffer in plain.state_dict().items():
            if int(plain.observations):  # before, the one has a shape already and the other none
                torch.testing.assert_close(traced.state_dict()[name], buffer, rtol=1e-6, atol=0, msg=name)
        condition = traced.traced_condition()
        assert condition is not None
        assert bool(condition) == (plain.qparams() is not None)
    assert int(plain.skipped) > 0
    assert 0 < int(plain.observations) <= -(-len(SEEN) // values_in_a_batch)


def test_masks_and_what_was_never_observed_pass_whole_through_a_compiled_quantizer():
    spec = QuantizationSpec(dtype="int8")
    mask = torch.tensor([[0.0, LOWEST], [LOWEST, 0.0]])
    for seen, data in ((None, torch.randn(3, 3)), (mask, mask)):
        quantizer: FakeQuantizeImplBase = FakeQuantize("q", spec)
        if seen is not None:
            quantizer.calculator.observe(seen)
        compiled = torch.compile(quantizer, backend="eager", fullgraph=True)
        assert torch.equal(compiled(data), data)


@pytest.mark.slow
def test_training_compiled_to_kernels_ends_close_to_plain_training():
    quantizer, prepared = prepared_net(QuantizerConfig())
    state = copy.deepcopy(prepared.state_dict())
    train(quantizer, torch.compile(prepared), prepared.parameters(), range(3))
    plain = trained_plainly(QuantizerConfig(), state, range(3))
    torch.testing.assert_close(prepared(image()), plain(image()), atol=0.05, rtol=0)
