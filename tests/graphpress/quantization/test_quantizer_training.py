"""Quantization-aware training: modes, schedules, switches, frozen norms, and what a saved training resumes from."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch import nn

from graphpress.compressor import LifeCycleError, UnusedScheduleWarning
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, QuantizerConfig
from graphpress.quantization.batch_norm import BatchNormLayer
from graphpress.quantization.config import QATSchedule
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.mode_ops import ModeOp
from graphpress.quantization.quantizer import Quantizer
from graphpress.quantization.switches import NoSuchPartError, switches_at


class Net(nn.Module):
    """Two blocks with norms, a dropout, a norm that stays, and a head."""

    def __init__(self, dropout=0.5):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.two = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.dropout(self.two(self.one(x)))
        return self.head(torch.relu(self.norm(x.mean((2, 3)))))


def net(dropout=0.5):
    torch.manual_seed(0)
    return Net(dropout).eval()


def image(seed=0, batch=6):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def prepared_net(config=None, dropout=0.5):
    quantizer = Quantizer(net(dropout), config)
    prepared = quantizer.prepare((image(),))
    with quantizer.calibration_mode():
        prepared(image(1))
    return quantizer, prepared


def quantizers(module):
    return {q.name: q for q in module.modules() if isinstance(q, FakeQuantizeImplBase)}


def switches(module):
    """Each pair of switches that any quantizer of `module` has."""
    return {(q.observer_enabled, q.fake_quant_enabled) for q in quantizers(module).values()}


def step_of(optimizer, model, seed=1):
    optimizer.zero_grad()
    model(image(seed)).square().mean().backward()
    optimizer.step()


# modes


def test_dropout_drops_in_training_and_nowhere_else():
    quantizer, prepared = prepared_net()
    assert torch.equal(prepared(image()), prepared(image()))
    with quantizer.training_mode():
        torch.manual_seed(1)
        first, second = prepared(image()), prepared(image())
        torch.manual_seed(1)
        again = prepared(image())
    assert not torch.equal(first, second)
    assert first.shape == again.shape
    assert torch.equal(prepared(image()), prepared(image()))
    assert not any("dropout" in str(node.target) for node in quantizer.finalize().graph.nodes)


def test_training_computes_what_the_users_model_computes_in_training_when_nothing_is_quantized():
    quantizer, prepared = prepared_net()
    model = net().train()
    with quantizer.training_mode():
        quantizer.disable_fake_quant()
        torch.manual_seed(3)
        got = prepared(image(2))
    torch.manual_seed(3)
    torch.testing.assert_close(got, model(image(2)), rtol=1e-4, atol=1e-5)
    buffers = dict(prepared.named_buffers())
    for name, expected in model.named_buffers():
        if "num_batches" not in name:
            torch.testing.assert_close(buffers[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.AlphaDropout(0.5)), (8, 4)),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout2d(0.5), nn.ReLU()), (2, 4, 3, 3)),
        (nn.Sequential(nn.Linear(4, 4), nn.RReLU()), (8, 4)),
        (nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4)), (8, 4)),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), (8, 4)),
        (nn.InstanceNorm1d(4, track_running_stats=True), (2, 4, 5)),
        (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)), (2, 4, 5, 5)),
    ],
)
def test_ops_with_two_modes_follow_the_mode_of_the_prepared_model(module, shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + 1
    quantizer = Quantizer(copy.deepcopy(module))
    prepared = quantizer.prepare((x,))
    quantizer.disable_fake_quant()
    for training in (False, True, False):
        prepared.train(training)
        module.train(training)
        torch.manual_seed(1)
        got = prepared(x)
        torch.manual_seed(1)
        torch.testing.assert_close(got, module(x), rtol=1e-4, atol=1e-5)


def test_a_dropout_changes_neither_quantizers_nor_results():
    class Plain(Net):
        def forward(self, x):
            x = self.two(self.one(x))
            return self.head(torch.relu(self.norm(x.mean((2, 3)))))

    torch.manual_seed(0)
    plain = Plain().eval()
    one, other = Quantizer(plain), Quantizer(net())
    prepared = [quantizer.prepare((image(),)) for quantizer in (one, other)]
    assert list(quantizers(prepared[0])) == list(quantizers(prepared[1]))
    assert torch.equal(prepared[0](image()), prepared[1](image()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        finalized = [quantizer.finalize() for quantizer in (one, other)]
    calls = [[str(node.target) for node in m.graph.nodes if node.op == "call_function"] for m in finalized]
    assert calls[0] == calls[1]


def test_a_quantizer_does_not_observe_what_dropout_has_scaled_up():
    config = QuantizerConfig(global_config=ModuleQuantizerConfig())
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9), nn.Linear(4, 4)).eval()
    quantizer = Quantizer(model, config)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    prepared = quantizer.prepare((x,))
    before = {name: float(q.qparams(torch.ones(4, 4))[0].max()) for name, q in quantizers(prepared).items()}
    with quantizer.training_mode():
        for _ in range(20):
            prepared(x)
    after = quantizers(prepared)
    (between,) = [name for name in after if name in ("linear_output",)]
    assert float(after[between].qparams()[0]) == pytest.approx(before[between], rel=0.02)


# life cycle of the modes


def test_after_training_the_model_is_in_eval_mode_and_quantizes_without_observing():
    quantizer, prepared = prepared_net()
    with quantizer.training_mode() as inside:
        assert inside is prepared
        assert all(module.training for module in prepared.modules())
        assert switches(prepared) == {(True, True)}
    assert not any(module.training for module in prepared.modules())
    assert switches(prepared) == {(False, True)}


def test_after_an_exception_in_training_too():
    quantizer, prepared = prepared_net()
    with pytest.raises(ZeroDivisionError), quantizer.training_mode():
        raise ZeroDivisionError
    assert not any(module.training for module in prepared.modules())
    assert switches(prepared) == {(False, True)}
    with quantizer.training_mode():
        assert switches(prepared) == {(True, True)}


def test_calibration_inside_training_leaves_training_as_it_found_it():
    quantizer, prepared = prepared_net()
    with quantizer.training_mode():
        with quantizer.calibration_mode():
            assert switches(prepared) == {(True, False)}
            assert not torch.is_grad_enabled()
        assert all(module.training for module in prepared.modules())
        assert switches(prepared) == {(True, True)}
        assert torch.is_grad_enabled()
    assert switches(prepared) == {(False, True)}


def test_training_inside_calibration_is_refused():
    quantizer, prepared = prepared_net()
    with (
        quantizer.calibration_mode(),
        pytest.raises(LifeCycleError, match="records no gradients"),
        quantizer.training_mode(),
    ):
        pass
    assert switches(prepared) == {(False, True)}


def test_training_does_not_nest_in_itself():
    quantizer, _ = prepared_net()
    with quantizer.training_mode(), pytest.raises(LifeCycleError, match="already open"), quantizer.training_mode():
        pass


def test_step_before_prepare_says_what_comes_first():
    with pytest.raises(LifeCycleError, match=r"call prepare\(...\) first"):
        Quantizer(net()).step()


# schedules


def scheduled(**steps):
    return QuantizerConfig(global_config=ModuleQuantizerConfig(qat_schedule=QATSchedule(**steps)))


def test_a_schedule_says_what_is_on_at_which_step():
    schedule = QATSchedule(enable_observer=1, enable_fake_quant=2, disable_observer=4)
    expected = [(False, False), (True, False), (True, True), (True, True), (False, True), (False, True)]
    assert [switches_at(schedule, step) for step in range(6)] == expected
    assert switches_at(None, 7) == (True, True)
    quantizer, prepared = prepared_net(scheduled(enable_observer=1, enable_fake_quant=2, disable_observer=4))
    with quantizer.training_mode():
        seen = [switches(prepared)]
        for _ in range(5):
            quantizer.step()
            seen.append(switches(prepared))
    assert seen == [{pair} for pair in expected]


def test_the_position_stays_between_epochs():
    quantizer, prepared = prepared_net(scheduled(enable_fake_quant=3))
    for epoch in range(3):
        with quantizer.training_mode():
            assert switches(prepared) == {(True, 2 * epoch >= 3)}
            quantizer.step()
            quantizer.step()
        assert switches(prepared) == {(False, True)}, "evaluation shows the compressed model"


def test_a_step_outside_training_counts_and_switches_nothing():
    quantizer, prepared = prepared_net(scheduled(enable_fake_quant=1, disable_observer=2))
    quantizer.step()
    quantizer.step()
    assert switches(prepared) == {(False, True)}
    with quantizer.training_mode():
        assert switches(prepared) == {(False, True)}


def test_each_module_config_has_its_own_schedule():
    config = scheduled(enable_fake_quant=2)
    config.set_module_name("head", ModuleQuantizerConfig(qat_schedule=QATSchedule(enable_fake_quant=5)))
    config.set_module_name("one.*", ModuleQuantizerConfig())
    quantizer, prepared = prepared_net(config)
    found = quantizers(prepared)
    with quantizer.training_mode():
        turned = {name: 0 if q.fake_quant_enabled else None for name, q in found.items()}
        for step in range(1, 7):
            quantizer.step()
            turned |= {n: step for n, q in found.items() if q.fake_quant_enabled and turned[n] is None}
    assert turned["conv2d_weight"] == turned["conv2d_input"] == 0
    assert turned["conv2d_1_weight"] == 2
    assert turned["linear_weight"] == turned["linear_output"] == 5
    shared = next(name for name, q in found.items() if not q.is_state and "one" in str(q.module_paths) and turned[name])
    assert turned[shared] == 2, "the module that reads a value decides"


def test_what_is_switched_by_hand_stays_until_the_schedule_switches_it():
    quantizer, prepared = prepared_net(scheduled(disable_observer=3))
    with quantizer.training_mode():
        quantizer.disable_fake_quant()
        quantizer.disable_observer(prepared.get_submodule("one"))
        quantizer.step()
        assert switches(prepared) == {(True, False), (False, False)}
        quantizer.step()
        quantizer.enable_observer()
        quantizer.step()
        assert switches(prepared) == {(False, False)}


def test_a_schedule_that_nobody_advances_is_a_warning():
    quantizer, _ = prepared_net(scheduled(enable_fake_quant=3))
    with quantizer.training_mode():
        pass
    with pytest.warns(UnusedScheduleWarning, match=r"step\(\) was never called"), quantizer.training_mode():
        pass


# switches by hand


def test_a_module_of_the_users_model_stands_for_its_quantizers():
    quantizer, prepared = prepared_net()
    quantizer.disable_fake_quant(prepared.get_submodule("two"))
    off = {name for name, q in quantizers(prepared).items() if not q.fake_quant_enabled}
    assert "conv2d_1_weight" in off
    assert not off & {"conv2d_weight", "linear_weight", "conv2d_input"}
    quantizer.enable_fake_quant(prepared.get_submodule("two.0"))
    assert quantizers(prepared)["conv2d_1_weight"].fake_quant_enabled


def test_a_quantizer_itself_can_be_switched():
    quantizer, prepared = prepared_net()
    quantizer.disable_fake_quant(prepared.quantizers.linear_output)
    off = [name for name, q in quantizers(prepared).items() if not q.fake_quant_enabled]
    assert off == ["linear_output"]


def test_switching_a_module_without_quantizers_is_an_error():
    quantizer, prepared = prepared_net(QuantizerConfig().without("head"))
    with pytest.raises(NoSuchPartError, match="this Linear has no quantizers; it takes a submodule of the prepared"):
        quantizer.disable_observer(quantizer.model.head)
    with pytest.raises(NoSuchPartError, match="'head' of the prepared model has no batch norms"):
        quantizer.freeze_batch_norm(prepared.get_submodule("head"))


def test_ranges_move_in_training_until_observers_are_off():
    quantizer, prepared = prepared_net()
    entering = quantizers(prepared)["conv2d_input"]
    start = float(entering.qparams()[0])
    with quantizer.training_mode():
        prepared(10 * image())
        moved = float(entering.qparams()[0])
        quantizer.disable_observer()
        prepared(100 * image())
    assert moved > 1.1 * start
    assert float(entering.qparams()[0]) == moved


# frozen norms


def statistics(prepared, prefix=""):
    return {
        name: buffer.clone()
        for name, buffer in prepared.named_buffers()
        if name.endswith(("running_mean", "running_var")) and name.startswith(prefix)
    }


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_frozen_norms_train_with_the_statistics_they_have_and_keep_them():
    quantizer, prepared = prepared_net(dropout=0.0)
    quantizer.freeze_batch_norm()
    before = statistics(prepared)
    assert len(before) == 6
    evaluated = prepared(image())
    with quantizer.training_mode():
        quantizer.disable_observer()
        trained = prepared(image())
        trained.square().mean().backward()
        assert same(before, statistics(prepared))
        assert prepared.get_parameter("one.1.weight").grad.abs().sum() > 0
    torch.testing.assert_close(trained, evaluated)
    quantizer.unfreeze_batch_norm()
    with quantizer.training_mode():
        prepared(image())
    assert not any(torch.equal(statistics(prepared)[name], buffer) for name, buffer in before.items())


def test_norms_are_frozen_by_the_path_of_the_users_module_folded_or_not():
    quantizer, prepared = prepared_net()
    assert sum(isinstance(m, BatchNormLayer) for m in prepared.modules()) == 2
    assert sum(isinstance(m, ModeOp) for m in prepared.modules()) == 2
    for frozen, free in (("one.1", ("two.1", "norm")), ("norm", ("one.1", "two.1"))):
        quantizer.freeze_batch_norm(prepared.get_submodule(frozen))
        before = statistics(prepared)
        with quantizer.training_mode():
            prepared(image())
        after = statistics(prepared)
        assert same(statistics(prepared, frozen), {n: b for n, b in before.items() if n.startswith(frozen)})
        assert not any(torch.equal(after[f"{name}.running_mean"], before[f"{name}.running_mean"]) for name in free)
        quantizer.unfreeze_batch_norm()


def test_copies_and_pickles_stay_frozen():
    quantizer, prepared = prepared_net()
    quantizer.freeze_batch_norm()
    file = io.BytesIO()
    torch.save(prepared, file)
    file.seek(0)
    for made in (copy.deepcopy(prepared), torch.load(file, weights_only=False)):
        before = statistics(made)
        made.train()(image())
        assert same(before, statistics(made))


# saving and resuming


LEARNABLE = QuantizationSpec(fake_quantize_cls="learnable")
CONFIGS = {
    "default": lambda: scheduled(enable_observer=1, enable_fake_quant=2, disable_observer=5),
    "learnable": lambda: QuantizerConfig(
        global_config=ModuleQuantizerConfig(
            op_input_spec={"*": LEARNABLE},
            op_output_spec={"*": LEARNABLE},
            op_state_spec={"weight": QuantizationSpec(dtype="int4", fake_quantize_cls="learnable")},
            qat_schedule=QATSchedule(enable_fake_quant=2),
        )
    ),
}


def train_steps(quantizer, prepared, optimizer, steps):
    with quantizer.training_mode():
        for step in steps:
            torch.manual_seed(step)  # dropout
            step_of(optimizer, prepared, seed=step)
            quantizer.step()


@pytest.mark.parametrize("config", CONFIGS)
def test_training_resumes_in_the_middle_of_a_schedule_bit_for_bit(config):
    quantizer, prepared = prepared_net(CONFIGS[config]())
    optimizer = torch.optim.AdamW(prepared.parameters(), lr=0.01)
    train_steps(quantizer, prepared, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"model": prepared.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train_steps(quantizer, prepared, optimizer, range(3, 8))

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    torch.manual_seed(7)
    other = Quantizer(Net().eval(), CONFIGS[config]())
    resumed = other.prepare((3 * image(8),))
    resumed.load_state_dict(saved["model"])
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=0.01)
    optimizer.load_state_dict(saved["optimizer"])
    train_steps(other, resumed, optimizer, range(3, 8))
    state = resumed.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in prepared.state_dict().items())
    assert torch.equal(resumed(image()), prepared(image()))
    assert torch.equal(other.finalize()(image()), quantizer.finalize()(image()))


@pytest.mark.parametrize("config", CONFIGS)
def test_trained_models_are_copied_and_saved_whole_and_finalize_as_they_evaluate(config):
    quantizer, prepared = prepared_net(CONFIGS[config]())
    train_steps(quantizer, prepared, torch.optim.SGD(prepared.parameters(), lr=0.05), range(4))
    file = io.BytesIO()
    torch.save(prepared, file)
    file.seek(0)
    expected = prepared(image())
    for made in (prepared, copy.deepcopy(prepared), torch.load(file, weights_only=False)):
        assert torch.equal(made(image()), expected)
        finalized = quantizer.finalize(made)
        step = float(quantizers(prepared)["linear_output"].qparams()[0])
        assert (finalized(image()) - expected).abs().max() <= 1.01 * step


# optimizers


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.003),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
}


@pytest.mark.parametrize("config", ["plain", "learnable"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_trains_a_prepared_model(name, config):
    if config == "plain":
        quantizer, prepared = prepared_net(dropout=0.0)
    else:
        made = CONFIGS["learnable"]()
        made.global_config.qat_schedule = None
        quantizer, prepared = prepared_net(made, dropout=0.0)
    target = net()(image())
    target = torch.randn(target.shape, generator=torch.Generator().manual_seed(4))
    optimizer = OPTIMIZERS[name](prepared.parameters())
    losses = []
    with quantizer.training_mode():
        for _ in range(12):
            optimizer.zero_grad()
            loss = (prepared(image()) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
    assert min(losses[-3:]) < 0.9 * losses[0]
    changed = [q for q in quantizers(prepared).values() if getattr(q, "scale_change", None) is not None]
    assert all(q.scale_change.any() for q in changed)
    assert bool(changed) == (config == "learnable")


# learned scales in the life cycle


def test_calibration_starts_learned_scales_anew_and_training_moves_them():
    made = CONFIGS["learnable"]()
    made.global_config.qat_schedule = None
    quantizer, prepared = prepared_net(made)
    entering = quantizers(prepared)["conv2d_input"]
    started = entering.calculator.qparams()[0]
    assert torch.equal(entering.qparams()[0], started)
    optimizer = torch.optim.Adam(prepared.parameters(), lr=0.05)
    train_steps(quantizer, prepared, optimizer, range(3))
    assert not torch.equal(entering.qparams()[0], started)
    assert torch.equal(entering.calculator.qparams()[0], started), "in training the scale is learned, not observed"
    with quantizer.calibration_mode():
        prepared(image(5))
    assert torch.equal(entering.qparams()[0], entering.calculator.qparams()[0])


def test_a_scale_that_is_trained_alone_changes_what_evaluation_computes():
    _, prepared = prepared_net(CONFIGS["learnable"]())
    weight = quantizers(prepared)["linear_weight"]
    for name, parameter in prepared.named_parameters():
        parameter.requires_grad_("scale_change" in name)
    with torch.no_grad():
        before = prepared(image())
        weight.scale_change += 0.5
        after = prepared(image())
    assert not torch.equal(before, after)


# eager mode


class Doubling(nn.Sequential):
    """A sequence of modules, which runs all its children."""


@pytest.mark.parametrize("config", CONFIGS)
def test_eager_models_train_by_the_same_schedules_and_resume_too(config):
    def prepare(seed):
        torch.manual_seed(seed)
        model = Doubling(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2)).eval()
        quantizer = Quantizer(model, CONFIGS[config]().set_execution_mode("eager"))
        return quantizer, quantizer.prepare((torch.randn(6, 4),))

    def train(quantizer, prepared, optimizer, steps):
        with quantizer.training_mode():
            for step in steps:
                torch.manual_seed(step)
                optimizer.zero_grad()
                prepared(torch.randn(6, 4)).square().mean().backward()
                optimizer.step()
                quantizer.step()
            return switches(prepared)

    quantizer, prepared = prepare(0)
    optimizer = torch.optim.Adam(prepared.parameters(), lr=0.01)
    train(quantizer, prepared, optimizer, range(3))
    saved = copy.deepcopy((prepared.state_dict(), optimizer.state_dict()))
    ended = train(quantizer, prepared, optimizer, range(3, 7))
    assert ended == ({(False, True)} if config == "default" else {(True, True)})
    other, resumed = prepare(5)
    resumed.load_state_dict(saved[0])
    optimizer = torch.optim.Adam(resumed.parameters(), lr=0.01)
    optimizer.load_state_dict(saved[1])
    train(other, resumed, optimizer, range(3, 7))
    x = torch.randn(6, 4)
    assert torch.equal(resumed(x), prepared(x))
    assert not any("steps" in name for name in quantizer.finalize().state_dict())


def test_frozen_norms_of_an_eager_model_stay_frozen():
    quantizer = Quantizer(net(0.0), QuantizerConfig(execution_mode="eager"))
    prepared = quantizer.prepare((image(),))
    quantizer.freeze_batch_norm(prepared.one)
    before = statistics(prepared)
    with quantizer.training_mode():
        prepared(image())
        assert not prepared.one[1].training
        assert prepared.two[1].training
    after = statistics(prepared)
    assert torch.equal(before["one.1.running_mean"], after["one.1.running_mean"])
    assert not torch.equal(before["two.1.running_mean"], after["two.1.running_mean"])
