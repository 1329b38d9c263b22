"""Codes chosen from calibration data, from the config to the finalized model."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from graphpress.ir.torch.emitted_module import CallError
from graphpress.quantization import (
    ModuleQuantizerConfig,
    QuantizationSpec,
    Quantizer,
    QuantizerConfig,
    UncalibratedWarning,
)
from graphpress.quantization.config import InvalidExecutionModeError
from graphpress.quantization.expressions import ConstantExpression
from graphpress.quantization.refinement import calibration
from graphpress.quantization.spec import AdaptiveRounding, GPTQRounding

ROUNDINGS = {
    "gptq": GPTQRounding(),
    "gptq by activation": GPTQRounding(activation_order=True),
    "gptq of own inputs": GPTQRounding(asymmetric=False),
    "adaptive": AdaptiveRounding(iterations=100),
}


class Layers(nn.Module):
    """Layers of every kind that codes are chosen for, with and without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding="same", bias=False)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2, stride=2)
        self.up = nn.ConvTranspose2d(12, 6, 3, stride=2, groups=2, bias=False)
        self.up_norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.first(x)))
        x = functional.relu(self.grouped(self.depthwise(x)))
        return self.head(functional.relu(self.up_norm(self.up(x))).mean((2, 3)))


def model() -> nn.Module:
    torch.manual_seed(0)
    made = Layers()
    with torch.no_grad():
        for norm in (made.norm, made.up_norm):
            norm.weight.uniform_(0.5, 2.0)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
    return made.eval()


def batches(count: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    smooth = torch.randn(3, 3, generator=generator)
    return [torch.einsum("ij,bjhw->bihw", smooth, torch.randn(4, 3, 9, 9, generator=generator)) for _ in range(count)]


def config(weight: dict | None = None, **options) -> QuantizerConfig:
    spec = QuantizationSpec(**({"dtype": "int4", "granularity": "per_channel"} | (weight or {})))
    each = ModuleQuantizerConfig(op_input_spec=None, op_output_spec=None, op_state_spec={"weight": spec})
    return QuantizerConfig(global_config=each, **options)


def calibrated(config: QuantizerConfig, data=None) -> tuple[Quantizer, nn.Module]:
    data = batches() if data is None else data
    quantizer = Quantizer(model(), config)
    prepared = quantizer.prepare((batches()[0],))
    with quantizer.calibration_mode():
        for batch in data:
            prepared(batch)
    return quantizer, prepared


def error(prepared: nn.Module) -> float:
    with torch.no_grad():
        reference = model()
        return sum(float((prepared(x) - reference(x)).square().sum()) for x in batches(12))


def offsets(prepared: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in prepared.state_dict().items() if name.endswith("code_offset")}


@pytest.mark.parametrize("rounding", ROUNDINGS.values(), ids=ROUNDINGS)
def test_the_model_is_closer_to_the_float_model(rounding):
    _, nearest = calibrated(config())
    quantizer, chosen = calibrated(config(weight_rounding=rounding))
    assert error(chosen) < 0.8 * error(nearest)
    report = quantizer._execution.refinement
    assert len(report.errors) == 5
    assert report.left == {}
    for before, after in report.errors.values():
        assert after < before


@pytest.mark.parametrize("rounding", [ROUNDINGS["gptq"], ROUNDINGS["adaptive"]], ids=["gptq", "adaptive"])
@pytest.mark.parametrize(
    "weight",
    [
        {"dtype": "int4"},
        {"dtype": "uint4", "qscheme": "asymmetric", "granularity": "per_tensor"},
        {"dtype": "uint8", "qscheme": "asymmetric", "qformulation": "minval"},
        {"dtype": "int2", "qscheme": "symmetric_with_clipping"},
        {"dtype": "int4", "granularity": {"type": "per_block", "block_size": [1, 1, -1, -1]}},
        {"dtype": "float8_e4m3fn"},
    ],
    ids=str,
)
def test_the_finalized_model_has_the_chosen_weights_bit_for_bit(rounding, weight):
    if "per_block" in str(weight):
        weights = {"weight": QuantizationSpec(**weight)}
        conv_only = ModuleQuantizerConfig(op_input_spec=None, op_output_spec=None, op_state_spec=weights)
        configuration = QuantizerConfig(module_type_configs={nn.Conv2d: conv_only}, global_config=None)
        configuration.weight_rounding = rounding
    else:
        configuration = config(weight, weight_rounding=rounding)
    quantizer, prepared = calibrated(configuration)
    assert any(offset.any() for offset in offsets(prepared).values())
    finalized = quantizer.finalize()
    for x in batches(2):
        torch.testing.assert_close(finalized(x), prepared(x), rtol=1e-5, atol=1e-5)
    theirs = weights_of(finalized)
    ours = {shape: weight for shape, weight in weights_of(prepared).items() if shape in theirs}
    assert len(ours) == len(offsets(prepared))
    for name, weight_of_prepared in ours.items():
        assert torch.equal(weight_of_prepared, theirs[name]), name


def weights_of(module: nn.Module) -> dict[tuple[int, ...], torch.Tensor]:
    """What expressions give while the module runs, by shape, where they are weights."""
    found: dict[tuple[int, ...], torch.Tensor] = {}

    def keep(_, __, result):
        if result.ndim >= 2:
            found[tuple(result.shape)] = result

    handles = [m.register_forward_hook(keep) for m in module.modules() if isinstance(m, ConstantExpression)]
    with torch.no_grad():
        module(batches()[0])
    for handle in handles:
        handle.remove()
    return found


def test_chosen_codes_go_through_a_state_dict_and_a_copy(tmp_path):
    _, prepared = calibrated(config(weight_rounding="gptq"))
    x = batches()[0]
    assert torch.equal(copy.deepcopy(prepared)(x), prepared(x))
    torch.save(prepared.state_dict(), tmp_path / "state.pt")
    again = Quantizer(model(), config(weight_rounding="gptq"))
    loaded = again.prepare((x,))
    assert not torch.equal(loaded(x), prepared(x))
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(loaded(x), prepared(x))
    torch.testing.assert_close(again.finalize()(x), prepared(x), rtol=1e-5, atol=1e-5)
    loaded.load_state_dict(Quantizer(model(), config()).prepare((x,)).state_dict())
    assert offsets(loaded) == {}


def test_calibrating_again_starts_from_the_float_model():
    quantizer, prepared = calibrated(config(weight_rounding="gptq", bias_correction="empirical"))
    first = {name: value.clone() for name, value in prepared.state_dict().items()}
    with quantizer.calibration_mode():
        for batch in batches():
            torch.testing.assert_close(prepared(batch), model()(batch), rtol=1e-4, atol=1e-4)
    for name, value in offsets(prepared).items():
        assert torch.equal(value, first[name])


def test_without_data_and_after_an_exception_what_was_learned_stays():
    quantizer, prepared = calibrated(config(weight_rounding="gptq"))
    before = offsets(prepared)
    with quantizer.calibration_mode():
        pass
    with pytest.raises(CallError), quantizer.calibration_mode():
        prepared(batches()[0], batches()[0])
    after = offsets(prepared)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_it_warns_when_there_was_no_data():
    quantizer = Quantizer(model(), config(weight_rounding="gptq"))
    quantizer.prepare((batches()[0],))
    with pytest.warns(UncalibratedWarning, match="'gptq'.*had no data"):
        quantizer.finalize()
    quantizer, _ = calibrated(config(weight_rounding="gptq"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantizer.finalize()


def test_bounded_memory_changes_nothing_but_time(monkeypatch):
    _, expected = calibrated(config(weight_rounding="gptq"))
    refine = calibration.refine
    monkeypatch.setattr(calibration, "refine", lambda *args: refine(*args[:3], memory=0))
    _, prepared = calibrated(config(weight_rounding="gptq"))
    for name, value in offsets(expected).items():
        assert torch.equal(offsets(prepared)[name], value)


def test_inputs_beyond_the_memory_are_left_out_with_a_warning(monkeypatch):
    kept = batches(2)
    size = kept[0].numel() * 4
    monkeypatch.setattr(calibration.refined_after.__wrapped__, "__defaults__", (2 * size,))
    with pytest.warns(calibration.CalibrationMemoryWarning, match="4 calibration batches were observed but not used"):
        _, prepared = calibrated(config(weight_rounding="gptq"))
    monkeypatch.undo()
    _, expected = calibrated(config(weight_rounding="gptq"), kept)
    for name, value in offsets(expected).items():
        assert torch.equal(offsets(prepared)[name], value)


@pytest.mark.parametrize("rounding", [GPTQRounding(), AdaptiveRounding(iterations=10)], ids=["gptq", "adaptive"])
def test_threads_and_repetition_change_no_bit(rounding):
    _, expected = calibrated(config(weight_rounding=rounding))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _, prepared = calibrated(config(weight_rounding=rounding))
    finally:
        torch.set_num_threads(threads)
    for name, value in offsets(expected).items():
        assert torch.equal(offsets(prepared)[name], value)


def test_training_goes_on_from_the_chosen_codes():
    quantizer, prepared = calibrated(config(weight_rounding="adaptive"))
    x = batches()[0]
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        with quantizer.training_mode():
            loss = (prepared(x) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    torch.testing.assert_close(quantizer.finalize()(x), prepared(x), rtol=1e-5, atol=1e-5)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.relu(self.layer(x)))


def test_a_weight_that_two_layers_share_is_one_weight_still():
    torch.manual_seed(0)
    tied = Tied()
    quantizer = Quantizer(tied, config(weight_rounding="gptq"))
    x = torch.randn(4, 6)
    prepared = quantizer.prepare((x,))
    with quantizer.calibration_mode():
        prepared(x)
    assert set(quantizer._execution.refinement.left) == {"linear", "linear_1"}
    torch.testing.assert_close(quantizer.finalize()(x), prepared(x), rtol=1e-5, atol=1e-5)


def test_layers_without_finite_inputs_are_left_with_a_reason():
    quantizer, _ = calibrated(config(weight_rounding="gptq"), [torch.full((2, 3, 9, 9), torch.nan)])
    report = quantizer._execution.refinement
    assert report.errors == {}
    assert set(report.left.values()) == {"its inputs are empty or not finite"}


@pytest.mark.parametrize(
    "options", [{"weight_rounding": "gptq"}, {"equalize_layers": True}, {"bias_correction": "analytic"}]
)
def test_eager_mode_refuses_what_needs_a_graph(options):
    (name,) = options
    quantizer = Quantizer(model(), config(execution_mode="eager", **options))
    with pytest.raises(InvalidExecutionModeError, match=f"{name} cannot be used in execution_mode 'eager'"):
        quantizer.prepare((batches()[0],))
