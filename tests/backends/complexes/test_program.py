"""Programs with complex tensors as programs of real ones: what is kept, what is refused, what quantizers do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.backends.complexes import with_real_tensors
from graphpress.backends.errors import ConversionError
from graphpress.casting import cast_to_16_bit_precision
from graphpress.ir import parse_graph, print_graph, verify
from graphpress.ir.torch.capture import from_exported_program
from graphpress.quantization import Quantizer, QuantizerConfig
from graphpress.tools.zoo.models.spectral import FourierMixing, SpectrogramClassifier, Vocoder
from tests.backends.complexes.saved import BACKENDS, Each, path_for

torch.set_num_threads(1)
X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


class Filter(nn.Module):
    """A product with a complex parameter and a complex buffer between transforms."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(5, dtype=torch.complex64))
        self.register_buffer("offset", torch.randn(5, dtype=torch.complex64))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x) * self.weight + self.offset, n=8)


def exported(function, *inputs):
    return torch.export.export(Each({"function": function}).eval(), inputs or (X,))


def test_a_program_of_real_tensors_is_returned_itself():
    program = exported(lambda x: x.relu())
    assert with_real_tensors(program) is program


def test_the_given_program_is_not_changed():
    program = torch.export.export(Filter().eval(), (X,))
    before, state = str(program.graph), set(program.state_dict)
    with_real_tensors(program)
    assert str(program.graph) == before
    assert set(program.state_dict) == state


def test_complex_parameters_and_buffers_become_two_real_ones():
    model = Filter().eval()
    program = with_real_tensors(torch.export.export(model, (X,)))
    assert {"weight_real", "weight_imag", "offset_real", "offset_imag"} <= set(program.state_dict)
    assert not any(tensor.is_complex() for tensor in program.state_dict.values())
    torch.testing.assert_close(program.module()(X), model(X))


def test_equal_matrices_are_stored_once():
    program = with_real_tensors(exported(lambda x: torch.fft.rfft(x).abs() + torch.fft.rfft(x.cos()).abs()))
    assert len(program.state_dict) == 2


def test_a_part_that_nothing_reads_is_not_computed():
    program = with_real_tensors(exported(lambda x: torch.fft.fft(torch.fft.fft(x), dim=0).real))
    products = [node for node in program.graph.nodes if node.target is torch.ops.aten.matmul.default]
    assert len(products) == 4  # both parts along one axis, and one part of each along the other


class Magnitudes(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).abs()


def test_new_operators_have_the_places_of_the_old_ones():
    program = with_real_tensors(torch.export.export(Magnitudes(), (X,)))
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    assert all("test_program.py" in node.meta["stack_trace"] for node in calls)
    assert calls[-1].name == "abs_1"


def test_a_batch_stays_dynamic():
    batch = torch.export.Dim("batch", min=2, max=8)
    model = Filter().eval()
    program = with_real_tensors(torch.export.export(model, (X,), dynamic_shapes=({0: batch},)))
    longer = torch.cat([X, X, X])
    torch.testing.assert_close(program.module()(longer), model(longer))


class Arctangent(nn.Module):
    def forward(self, x):
        return torch.complex(x, x).atan().abs()


class Accumulating(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(5, dtype=torch.complex64))

    def forward(self, x):
        self.total.add_(torch.fft.rfft(x).sum(0))
        return self.total.abs()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (nn.Identity(), (torch.complex(X, X),), ("input", "is complex", "view_as_complex")),
        (Accumulating(), (X,), ("buffer 'total'", "view_as_complex")),
        (Arctangent(), (X,), ("aten.atan", "test_program.py", "accepted")),
    ],
    ids=["input", "state", "operator"],
)
def test_what_has_no_real_form_is_refused_with_its_place(backend, model, inputs, words, tmp_path):
    with pytest.raises(ConversionError) as error:
        BACKENDS[backend].convert(model.eval(), path_for(tmp_path, backend), inputs)
    assert all(word in str(error.value) for word in words), error.value


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_complex_output_is_refused_with_its_line(backend, tmp_path):
    with pytest.raises(ConversionError, match=r"returns a complex tensor.*fft_rfft.*test_program.py.*view_as_real"):
        BACKENDS[backend].convert(Spectrum().eval(), path_for(tmp_path, backend), (X,))


def test_a_transform_of_dynamic_length_is_refused():
    length = torch.export.Dim("length", min=4, max=64)
    model = Each({"abs": lambda x: torch.fft.fft(x).abs()}).eval()
    program = torch.export.export(model, (X,), dynamic_shapes={"inputs": ({1: length},)})
    with pytest.raises(ConversionError, match=r"dynamic length.*constant length"):
        with_real_tensors(program)


def test_a_real_part_is_kept_in_float32_when_a_model_is_cast(tmp_path):
    cast = cast_to_16_bit_precision(exported(lambda x: torch.fft.rfft(x * 2).abs()))
    info = coreai.convert(cast, tmp_path / "cast.aimodel")
    assert info.operations
    assert coreai.check(tmp_path / "cast.aimodel", cast, (X.half(),)).ok


MODELS = {
    "fnet": (FourierMixing, lambda generator: torch.randint(0, 128, (2, 16), generator=generator)),
    "spectrogram": (SpectrogramClassifier, lambda generator: torch.randn(2, 512, generator=generator)),
    "vocoder": (Vocoder, lambda generator: torch.randn(2, 16, 24, generator=generator)),
}


def quantized(name):
    """Return a finalized W8A8 model, its quantizers' values, and an example input."""
    torch.manual_seed(0)
    kind, draw = MODELS[name]
    model, example = kind().eval(), draw(torch.Generator().manual_seed(1))
    quantizer = Quantizer(model, QuantizerConfig())
    prepared = quantizer.prepare((example,))
    with quantizer.calibration_mode():
        prepared(example)
    return model, prepared, quantizer.finalize(), example


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_quantized_spectral_models_mean_the_same_in_saved_files(name, tmp_path):
    model, prepared, finalized, example = quantized(name)
    with torch.no_grad():
        wanted, found = model(example), finalized(example)
        calibrated = prepared.eval()(example)
    torch.testing.assert_close(calibrated, found, rtol=1e-3, atol=1e-3)
    assert (wanted - found).norm() < 0.1 * wanted.norm()
    for backend, convert in BACKENDS.items():
        path = path_for(tmp_path, backend)
        convert.convert(finalized, path, (example,))
        assert convert.check(path, finalized, (example,)).ok, backend


@pytest.mark.parametrize("name", MODELS)
def test_no_quantizer_reads_a_complex_value_and_graphs_print_and_parse(name):
    _, prepared, finalized, example = quantized(name)
    graph = from_exported_program(torch.export.export(finalized.eval(), (example,)))
    verify(graph)
    constants = {key: constant.tensor for key, constant in graph.constants.items() if constant.has_data}
    again = parse_graph(print_graph(graph), constants)
    assert print_graph(again) == print_graph(graph)
    for node in prepared.graph.nodes:
        if node.op == "call_module" and str(node.target).startswith("quantizers."):
            values = [each.meta.get("val") for each in node.all_input_nodes]
            assert not any(isinstance(value, torch.Tensor) and value.is_complex() for value in values)


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_of_a_spectral_model_converts_like_the_model(name, tmp_path):
    torch.manual_seed(0)
    kind, draw = MODELS[name]
    model, example = kind().eval(), draw(torch.Generator().manual_seed(1))
    graph = from_exported_program(torch.export.export(model, (example,)))
    coreml.convert(graph, tmp_path / "graph.mlpackage")
    assert coreml.check(tmp_path / "graph.mlpackage", model, (example,)).ok
