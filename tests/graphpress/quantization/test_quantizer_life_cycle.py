"""What may be done to a model, a quantizer and a prepared model, in which order, and what stays as it was."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from graphpress import ExportBackend
from graphpress.compressor import ArgumentTypeError, LifeCycleError
from graphpress.ir.errors import GraphpressError
from graphpress.quantization import QuantizerConfig
from graphpress.quantization.quantizer import Quantizer, UncalibratedWarning


class Small(nn.Module):
    """A bit of everything that has state."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout())
        self.head = nn.Linear(4, 5)
        self.register_buffer("offset", torch.full((5,), 0.5))

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3))) + self.offset


def small():
    torch.manual_seed(0)
    return Small()


def image(seed=0, batch=2):
    return torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def calibrated(model=None, config=None):
    quantizer = Quantizer(model or small(), config)
    prepared = quantizer.prepare((image(),))
    calibrate(quantizer)
    return quantizer, prepared


def calibrate(quantizer):
    with quantizer.calibration_mode() as prepared:
        prepared(image(1))
        prepared(image(2))


def fingerprint(model):
    """Everything about a model that preparing it might change."""
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "identity": [id(tensor) for tensor in model.state_dict(keep_vars=True).values()],
        "modes": [module.training for module in model.modules()],
        "structure": [(name, type(module)) for name, module in model.named_modules()],
        "gradients": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


def same(one, other):
    states = one.pop("state"), other.pop("state")
    return one == other and all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# the user's model


@pytest.mark.parametrize("training", [False, True])
def test_the_users_model_is_untouched_bit_for_bit(training):
    model = small()
    model.train(training)
    model.body[1].eval()
    hook = model.head.register_forward_hook(lambda *_: None)
    before = fingerprint(model)
    quantizer, prepared = calibrated(model)
    with quantizer.training_mode():
        optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1)
        prepared(image()).square().mean().backward()
        optimizer.step()
    quantizer.finalize()
    assert same(before, fingerprint(model))
    assert all(parameter.grad is None for parameter in model.parameters())
    hook.remove()


def test_one_model_can_be_prepared_many_times():
    model = small()
    outputs = [calibrated(model)[1](image()) for _ in range(2)]
    assert torch.equal(*outputs)
    weights = Quantizer(model, QuantizerConfig.presets.w4()).prepare((image(),))
    assert not torch.equal(weights(image()), outputs[0])


def test_without_a_copy_the_prepared_model_shares_its_parameters_with_the_users():
    model = small().eval()
    shared = Quantizer(model).prepare((image(),), copy=False)
    pointers = {parameter.data_ptr() for parameter in model.parameters()}
    assert {parameter.data_ptr() for parameter in shared.parameters()} <= pointers
    copied = Quantizer(model).prepare((image(),))
    assert not {parameter.data_ptr() for parameter in copied.parameters()} & pointers


# order


def test_finalize_before_prepare_says_what_comes_first():
    with pytest.raises(LifeCycleError, match=r"call prepare\(...\) first"):
        Quantizer(small()).finalize()


@pytest.mark.parametrize("mode", ["calibration_mode", "training_mode"])
def test_a_mode_before_prepare_says_what_comes_first(mode):
    with pytest.raises(LifeCycleError, match=r"call prepare\(...\) first"), getattr(Quantizer(small()), mode)():
        pass


def test_preparing_twice_with_one_quantizer_is_refused_and_the_first_result_stays_usable():
    quantizer, prepared = calibrated()
    with pytest.raises(LifeCycleError, match="create another Quantizer"):
        quantizer.prepare((image(),))
    assert torch.equal(quantizer.finalize()(image()), quantizer.finalize(prepared)(image()))


def test_a_model_that_this_quantizer_did_not_prepare_is_refused():
    quantizer, _ = calibrated()
    other = calibrated()[1]
    with pytest.raises(LifeCycleError, match="not prepared by this Quantizer"):
        quantizer.finalize(other)
    with pytest.raises(LifeCycleError, match="the model before preparation"):
        quantizer.finalize(quantizer.model)


def test_what_is_no_model_or_no_config_is_refused():
    with pytest.raises(ArgumentTypeError, match=r"takes a torch\.nn\.Module or an ExportedProgram, not a dict"):
        Quantizer({})
    with pytest.raises(ArgumentTypeError, match="takes a QuantizerConfig or None, not a dict"):
        Quantizer(small(), {})


def test_modes_do_not_nest_in_themselves():
    quantizer, _ = calibrated()
    with (
        quantizer.calibration_mode(),
        pytest.raises(LifeCycleError, match="already open"),
        quantizer.calibration_mode(),
    ):
        pass


def test_modes_are_restored_after_an_exception():
    quantizer, prepared = calibrated()
    prepared.train()
    expected = [module.training for module in prepared.modules()]
    inside = []

    def fail():
        with quantizer.calibration_mode() as model:
            inside.extend(module.training for module in model.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any(inside)
    assert [module.training for module in prepared.modules()] == expected
    prepared.eval()
    before = prepared(image())
    prepared(100 * image())
    assert torch.equal(prepared(image()), before), "quantizers still observe"


# finalizing


def test_finalizing_twice_gives_the_same_model_and_leaves_the_prepared_one_alone():
    quantizer, prepared = calibrated()
    before = prepared(image())
    first, second = quantizer.finalize(), quantizer.finalize(backend=ExportBackend.CoreAI)
    assert torch.equal(first(image()), second(image()))
    assert torch.equal(prepared(image()), before)


def test_calibration_may_go_on_after_finalize():
    quantizer, _ = calibrated()
    first = quantizer.finalize()(image())
    with quantizer.calibration_mode() as prepared:
        for _ in range(20):
            prepared(10 * image(3))
    assert not torch.equal(quantizer.finalize()(image()), first)


def test_an_old_backend_name_works_with_a_warning():
    quantizer, _ = calibrated()
    with pytest.warns(DeprecationWarning, match="MLIR is now CoreAI"):
        quantizer.finalize(backend=ExportBackend.MLIR)
    with pytest.raises(GraphpressError, match="did you mean"):
        quantizer.finalize(backend="coreal")


def test_finalizing_without_calibration_names_the_quantizers_that_saw_nothing():
    quantizer = Quantizer(small())
    quantizer.prepare((image(),))
    with pytest.warns(UncalibratedWarning, match="conv2d_input"):
        quantizer.finalize()


def test_weights_alone_need_no_calibration(recwarn):
    quantizer = Quantizer(small(), QuantizerConfig.presets.w8())
    quantizer.prepare((image(),))
    quantizer.finalize()
    assert not [warning for warning in recwarn if warning.category is UncalibratedWarning]


def test_the_finalized_weights_are_those_of_the_prepared_model_bit_for_bit():
    quantizer, prepared = calibrated(config=QuantizerConfig.presets.w8())
    assert torch.equal(quantizer.finalize()(image()), prepared(image()))


def test_finalized_activations_are_within_one_step_of_the_prepared_ones():
    quantizer, prepared = calibrated()
    finalized = quantizer.finalize()
    step = max(float(q.qparams()[0]) for q in prepared.modules() if getattr(q, "is_state", None) is False)
    assert (finalized(image()) - prepared(image())).abs().max() <= step


# copies


def test_a_deep_copy_of_a_prepared_model_is_one_too():
    quantizer, prepared = calibrated()
    copied = copy.deepcopy(prepared)
    assert torch.equal(copied(image()), prepared(image()))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(0.25)
    assert not torch.equal(copied(image()), prepared(image()))
    assert torch.equal(quantizer.finalize(copied)(image()), quantizer.finalize(copied)(image()))
    assert not torch.equal(quantizer.finalize(copied)(image()), quantizer.finalize()(image()))


@pytest.mark.parametrize("stage", ["prepared", "finalized"])
def test_models_can_be_saved_and_loaded_whole(stage):
    quantizer, prepared = calibrated()
    model = prepared if stage == "prepared" else quantizer.finalize()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(image()), model(image()))
    if stage == "prepared":
        assert torch.equal(quantizer.finalize(loaded)(image()), quantizer.finalize()(image()))


def test_a_state_dict_carries_parameters_and_ranges_to_another_preparation():
    _, source = calibrated()
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    torch.manual_seed(5)
    quantizer = Quantizer(Small())
    target = quantizer.prepare((3 * image(7),))
    assert not torch.equal(target(image()), source(image()))
    target.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(target(image()), source(image()))


# failures


class Branching(nn.Module):
    """What torch.export cannot capture."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1


def test_a_failed_prepare_is_one_clear_error_and_may_be_tried_again():
    quantizer = Quantizer(small())
    with pytest.raises(GraphpressError) as caught:
        quantizer.prepare((torch.randn(2, 7, 6, 6),))
    assert len(str(caught.value)) < 3000
    assert not quantizer.is_prepared
    prepared = quantizer.prepare((image(),))
    assert prepared(image()).shape == (2, 5)


@pytest.mark.parametrize("inputs", ["text", {"x": 1}, 3, (), ("text",), (image(), image())])
def test_example_inputs_that_do_not_fit_are_a_clear_error(inputs):
    quantizer = Quantizer(small())
    with pytest.raises(GraphpressError):
        quantizer.prepare(inputs)
    assert not quantizer.is_prepared


def test_a_model_that_cannot_be_exported_is_a_clear_error():
    with pytest.raises(GraphpressError, match=r"Branching|branch|data-dependent|control flow"):
        Quantizer(Branching()).prepare((image(),))


def test_one_tensor_counts_as_a_tuple_of_one():
    prepared = Quantizer(small()).prepare(image())
    assert prepared(image()).shape == (2, 5)


# other batches


class Flattening(nn.Module):
    """Flattens with the batch it is given."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(64, 5)

    def forward(self, x):
        x = self.conv(x)
        return self.head(x.view(x.size(0), -1))


@pytest.mark.parametrize("example_batch", [1, 2])
def test_calibration_and_use_at_another_batch_size(example_batch):
    torch.manual_seed(0)
    model = Flattening().eval()
    quantizer = Quantizer(model)
    quantizer.prepare((image(batch=example_batch),))
    with quantizer.calibration_mode() as prepared:
        for batch in (5, 1, 4):
            prepared(image(batch=batch))
    finalized = quantizer.finalize()
    for batch in (1, 4):
        got = finalized(image(batch=batch))
        assert got.shape == (batch, 5)
        assert (got - model(image(batch=batch))).abs().median() < 0.02


# buffers that the model writes


class Memory(nn.Module):
    """Adds what it has seen so far to what it sees."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(2, 4))

    def forward(self, x):
        self.seen.add_(self.layer(x))
        return self.seen + x


def test_what_a_model_remembers_lasts_during_calibration_and_is_forgotten_after_it():
    torch.manual_seed(0)
    model, batches = Memory().eval(), torch.ones(3, 2, 4)
    expected = copy.deepcopy(model)
    quantizer = Quantizer(model)
    prepared = quantizer.prepare((batches[0],))
    with quantizer.calibration_mode(), torch.no_grad():
        for batch in batches:
            assert torch.allclose(prepared(batch), expected(batch), atol=1e-5)
    assert not prepared.seen.any()
    for module in (quantizer.finalize(), prepared):
        with torch.no_grad():
            got, wanted = module(batches[0]), copy.deepcopy(model)(batches[0])
        assert (got - wanted).abs().max() < 0.1
        assert module.seen.any()  # outside of calibration it remembers, and shares this with no other module
