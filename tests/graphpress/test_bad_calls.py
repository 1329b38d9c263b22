"""Arguments of the wrong kind, models that do not run, and data that is no number, at every entry point.

Each raised an error of torch or Python, or was taken without a word, before it was mended.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from torch import nn

from graphpress import ExportBackend, GraphpressError
from graphpress.backends import coreai, coreml
from graphpress.backends.errors import AssetError, ConversionError, ModelInputError
from graphpress.compressor import ArgumentTypeError, LifeCycleError
from graphpress.config import SpecError
from graphpress.ir import ExportError
from graphpress.ir.files import PathError
from graphpress.ir.torch.emitted_module import CallError
from graphpress.ir.torch.model_checks import ModelError
from graphpress.palettization import KMeansPalettizer
from graphpress.palettization.calibration import CalibrationError
from graphpress.passes.fold_batch_norm import NormError
from graphpress.passes.weights.errors import PalettizationError, PalettizationWarning, QuantizationError
from graphpress.pruning import MagnitudePruner
from graphpress.quantization import (
    ModuleQuantizerConfig,
    QuantizationSpec,
    Quantizer,
    QuantizerConfig,
)
from graphpress.quantization.switches import NoSuchPartError

torch.set_num_threads(1)

COMPRESSORS = [Quantizer, KMeansPalettizer, MagnitudePruner]


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


X = torch.linspace(-1, 1, 16).reshape(2, 8)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (X.double(), "mat1 and mat2 must have the same dtype"),
        (X.long(), "mat1 and mat2 must have the same dtype"),
        (X.to(torch.complex64), "mat1 and mat2 must have the same dtype"),
        (X.to_sparse(), "Could not run 'aten::aminmax'"),
    ],
)
def test_a_captured_model_that_fails_on_its_example_is_named_with_the_reason(example, message):
    with pytest.raises(QuantizationError, match=f"Sequential does not run on the example inputs: .*{message}"):
        Quantizer(model()).prepare(example)


def test_an_index_beyond_an_embedding_is_an_error_of_the_example():
    with pytest.raises(QuantizationError, match="Embedding does not run on the example inputs: IndexError"):
        Quantizer(nn.Embedding(4, 4)).prepare(torch.tensor([7]))


def test_example_inputs_by_number_are_refused():
    with pytest.raises(ExportError, match="a dict with the key 0; accepted: the names of the model's arguments"):
        Quantizer(model()).prepare({0: X})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run([X]), r"input was one value, is a list of 1"),
        (lambda run: run({"a": X}), r"input was one value, is a dict of 1 with 'a'"),
        (lambda run: run(y=X), r"it takes input, got 'y' by name"),
        (lambda run: run(), r"it takes 1 \(input\), got 0"),
    ],
)
@pytest.mark.filterwarnings("ignore::graphpress.quantization.UncalibratedWarning")
def test_a_prepared_or_finalized_graph_called_otherwise_says_what_it_takes(call, message):
    quantizer = Quantizer(model())
    prepared = quantizer.prepare(X)
    for run in (prepared, quantizer.finalize()):
        with pytest.raises(CallError, match=message):
            call(run)


@pytest.mark.parametrize("backend", list(ExportBackend))
@pytest.mark.parametrize("make", COMPRESSORS)
@pytest.mark.filterwarnings("ignore::graphpress.quantization.UncalibratedWarning")
def test_packed_weights_go_to_a_path_and_nothing_else(make, backend):
    compressor = make(model())
    compressor.prepare(X)
    with pytest.raises(PathError, match=r"mmap_dir is a str or a pathlib\.Path, not a int"):
        compressor.finalize(backend=backend, mmap_dir=3)


@pytest.mark.parametrize("make", COMPRESSORS)
def test_a_prepared_model_without_data_is_not_finalized(make):
    compressor = make(model())
    compressor.prepare(X).to("meta")
    with pytest.raises(ModelError, match="is on the meta device, without data"):
        compressor.finalize()


@pytest.mark.parametrize("name", ["enable_observer", "disable_fake_quant", "freeze_batch_norm", "unfreeze_batch_norm"])
def test_a_part_of_a_model_is_a_module(name):
    quantizer = Quantizer(model())
    quantizer.prepare(X)
    with pytest.raises(NoSuchPartError, match="got a str; accepted: a submodule of the prepared model, or nothing"):
        getattr(quantizer, name)("0")


class Locked(nn.Sequential):
    lock = property(lambda self: (each for each in ()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuantizerConfig(preserved_attributes=3), "preserved_attributes: 3 is not a list of attribute names"),
        (lambda: QuantizerConfig.from_yaml(3), "a int is no YAML document; accepted: text, a path, or an open stream"),
        (
            lambda: Quantizer(Locked(*model()), QuantizerConfig(preserved_attributes=["lock"])).prepare(X),
            r"preserved_attributes\[0\]: 'lock' cannot be copied \(TypeError: cannot pickle 'generator' object\)",
        ),
    ],
)
def test_a_config_of_something_else_is_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


class Unlike(nn.Module):
    """A fake-quantizer's class in name only."""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"range_calculator_cls": int}, "int is no range_calculator_cls; accepted: a subclass of RangeCalculatorBase"),
        ({"fake_quantize_cls": Unlike}, "Unlike is no fake_quantize_cls; accepted: a subclass of FakeQuantizeImplBase"),
        (
            {"qparam_calculator_cls": dict},
            "dict is no qparam_calculator_cls; accepted: a subclass of QParamsCalculatorBase",
        ),
    ],
)
def test_a_component_of_another_class_is_refused(fields, message):
    config = QuantizerConfig(global_config=ModuleQuantizerConfig(op_input_spec={"*": QuantizationSpec(**fields)}))
    with pytest.raises(SpecError, match=message):
        Quantizer(model(), config).prepare(X)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"executor": 3}, ArgumentTypeError, "executor is a int; accepted: None, or an object with the method submit"),
        ({"sensitivity_path": 3}, PathError, r"the path of sensitivities is a str or a pathlib\.Path, not a int"),
        ({"sensitivity_path": "/"}, PalettizationError, "cannot read sensitivities from '/': it is a folder"),
    ],
)
def test_the_options_of_the_palettizer_are_checked(options, kind, message):
    with pytest.raises(kind, match=message):
        KMeansPalettizer(model()).prepare(X, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1j])
def test_importances_are_finite_and_not_negative(value, tmp_path):
    path = tmp_path / "importances.safetensors"
    of_first = torch.ones(8, 8, dtype=torch.complex64 if isinstance(value, complex) else torch.float32)
    of_first[2, 3] = value
    safetensors.torch.save_file({"0.weight": of_first, "2.weight": torch.ones(4, 8)}, path)
    with pytest.raises(PalettizationError, match=r"sensitivities of '0.weight' must be real, finite and not negative"):
        KMeansPalettizer(model()).prepare(X, sensitivity_path=path)


def calibrated(loss_fn: Callable[..., torch.Tensor]) -> None:
    palettizer = KMeansPalettizer(model())
    prepared = palettizer.prepare(X)
    with palettizer.calibration_mode(loss_fn=loss_fn) as calibration:
        calibration.step(prepared(X), X)


def backwarded(output: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    loss = output.square().sum()
    loss.backward()
    return loss


@pytest.mark.parametrize(
    ("loss_fn", "kind", "message"),
    [
        (3, ArgumentTypeError, "loss_fn is a int; accepted: a function of an output and a target"),
        (lambda output, _: output.sum() * 1j, CalibrationError, r"the loss is torch.complex64; accepted: a real"),
        (backwarded, CalibrationError, r"torch cannot differentiate the loss: .* on which backward\(\) was not called"),
    ],
)
def test_a_loss_without_a_gradient_is_refused(loss_fn, kind, message):
    with pytest.raises(kind, match=message):
        calibrated(loss_fn)


def test_steps_whose_gradients_are_no_numbers_are_left_out_and_told():
    network = model()
    tables = []
    for scales in ((1.0,), (1.0, float("nan"))):
        palettizer = KMeansPalettizer(network)
        prepared = palettizer.prepare(X)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with palettizer.calibration_mode(loss_fn=lambda output, scale: (output * scale).sum()) as calibration:
                for scale in scales:
                    calibration.step(prepared(X), scale)
        tables.append(prepared.state_dict())
        expected = ["1 steps of the calibration were ignored because of NaN or infinite values"][: len(scales) - 1]
        assert [str(each.message) for each in told if each.category is PalettizationWarning] == expected
        assert calibration.steps == 1
    assert all(torch.equal(table, tables[1][name]) for name, table in tables[0].items())


def normed(name: str, value: float) -> nn.Sequential:
    made = nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)).eval()
    with torch.no_grad():
        made[1].state_dict()[name][1] = value
    return made


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("running_var", float("nan"), "1 channels of its running_var are NaN or infinite"),
        ("running_mean", float("inf"), "1 channels of its running_mean are NaN or infinite"),
        ("weight", float("nan"), "1 channels of its weight are NaN or infinite"),
        ("running_var", -5.0, "1 channels of its running_var are negative"),
    ],
)
def test_a_norm_that_gives_no_numbers_is_named_before_calibration(name, value, message):
    with pytest.raises(NormError, match=rf"batch norm batch_norm \(1 \(BatchNorm1d\)\): {message}"):
        Quantizer(normed(name, value)).prepare(torch.randn(2, 4, 6))


def test_a_variance_that_rounding_made_negative_is_accepted():
    prepared = Quantizer(normed("running_var", -1e-7)).prepare(torch.randn(2, 4, 6))
    assert bool(torch.isfinite(prepared(torch.randn(2, 4, 6))).all())


@pytest.mark.parametrize("convert", [coreai.convert, coreml.convert])
@pytest.mark.parametrize("make", COMPRESSORS)
def test_a_prepared_model_is_not_converted_but_its_finalized_form(make, convert, tmp_path):
    prepared = make(model()).prepare(X)
    suffix = "aimodel" if convert is coreai.convert else "mlpackage"
    with pytest.raises(ModelError, match=r"the model is prepared: .*; accepted: the result of finalize"):
        convert(prepared, tmp_path / f"m.{suffix}", X)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("make", COMPRESSORS)
@pytest.mark.filterwarnings("ignore::graphpress.quantization.UncalibratedWarning")
def test_a_finalized_model_is_not_finalized_again(make):
    compressor = make(model())
    compressor.prepare(X)
    with pytest.raises(LifeCycleError, match=r"was not prepared by this"):
        compressor.finalize(compressor.finalize())


class Saying(nn.Module):
    def forward(self, x):
        return "no tensor"


@pytest.mark.parametrize(("convert", "suffix"), [(coreai.convert, "aimodel"), (coreml.convert, "mlpackage")])
def test_a_model_without_a_tensor_to_return_is_not_converted(convert, suffix, tmp_path):
    with pytest.raises(ConversionError, match=r"the model returns no tensor; accepted: .* at least one output"):
        convert(Saying(), tmp_path / f"m.{suffix}", X)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, a, b):
        return self.linear(a) - 2 * b


@pytest.mark.parametrize(("backend", "suffix"), [(coreai, "aimodel"), (coreml, "mlpackage")])
def test_named_inputs_are_those_of_the_signature_in_any_order(backend, suffix, tmp_path):
    network, path = TwoInputs().eval(), tmp_path / f"m.{suffix}"
    by_name = {"b": X * 3, "a": X}
    backend.convert(network, path, by_name)
    for inputs in (by_name, {"a": X, "b": X * 3}, (X, X * 3)):
        assert backend.check(path, network, inputs).ok
        assert backend.blame(path, network, inputs).first is None


@pytest.mark.parametrize(("backend", "suffix"), [(coreai, "aimodel"), (coreml, "mlpackage")])
def test_what_a_check_cannot_be_meant_with_is_refused(backend, suffix, tmp_path):
    network, path = model(), tmp_path / f"m.{suffix}"
    backend.convert(network, path, X)
    for tolerance in ("x", -1, float("nan"), True):
        with pytest.raises(ModelInputError, match=r"tolerance is .*; accepted: None, or a number from 0"):
            backend.check(path, network, X, tolerance)
    with pytest.raises(ModelInputError, match=r"does not run on these inputs|is torch.float64"):
        backend.blame(path, network, X.double())


@pytest.mark.parametrize("path", ["a\0b.aimodel", "x" * 300 + ".aimodel"])
def test_a_path_that_no_file_has_is_an_error_of_the_asset(path):
    with pytest.raises(AssetError, match=r"has no null character|File name too long"):
        coreai.convert(model(), path, X)
    with pytest.raises(AssetError, match=r"has no null character|is not a complete asset|does not exist"):
        coreai.read(path)


def test_every_error_here_is_one_of_ours():
    for kind in (PathError, NormError, CallError, CalibrationError, NoSuchPartError, SpecError, ModelError):
        assert issubclass(kind, GraphpressError)
