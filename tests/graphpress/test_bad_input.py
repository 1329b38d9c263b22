"""What a user can get wrong ends in one clear error of ours, leaves nothing half-written, and can be put right."""

from __future__ import annotations

import copy
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from graphpress import GraphpressError
from graphpress.backends import coreai, coreml
from graphpress.backends.coreai import AssetError, ConversionError
from graphpress.backends.errors import LoweringError, ModelInputError
from graphpress.compressor import ArgumentTypeError, LifeCycleError
from graphpress.config import ArgumentError, SpecError, UnmatchedConfigError, UnmatchedConfigWarning
from graphpress.export_backend import ExportBackendError
from graphpress.ir import ExportError, ParseError, StorageError, from_module, load_graph, save_graph
from graphpress.ir.torch.emitted_module import CallError
from graphpress.ir.torch.model_checks import ModelError
from graphpress.modules.mapping import MappingError
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig, PalettizationSpec
from graphpress.passes.weights.errors import PalettizationError
from graphpress.pruning import MagnitudePruner
from graphpress.quantization import (
    ModuleQuantizerConfig,
    QuantizationSpec,
    Quantizer,
    QuantizerConfig,
    UncalibratedWarning,
)

torch.set_num_threads(1)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


class Branching(nn.Module):
    """Control flow that depends on data, which torch.export refuses."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        if x.sum() > 0:
            return self.linear(x)
        return x


def small() -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small().eval()


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*(shape or (2, 3, 8, 8)), generator=torch.Generator().manual_seed(seed))


def calibrated(config: QuantizerConfig | None = None) -> Quantizer:
    quantizer = Quantizer(small(), config)
    prepared = quantizer.prepare((image(),))
    with quantizer.calibration_mode():
        prepared(image(seed=1))
        prepared(image(seed=2))
    return quantizer


def weights_alone(**spec: Any) -> QuantizerConfig:
    each = ModuleQuantizerConfig(
        op_state_spec={"weight": QuantizationSpec(**spec)}, op_input_spec=None, op_output_spec=None
    )
    return QuantizerConfig(global_config=each)


def activations_alone(**spec: Any) -> QuantizerConfig:
    one = QuantizationSpec(**spec)
    each = ModuleQuantizerConfig(op_state_spec=None, op_input_spec={"*": one}, op_output_spec={"*": one})
    return QuantizerConfig(global_config=each)


def files(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


# models and example inputs


def test_a_model_with_control_flow_on_data_is_named_with_its_line():
    quantizer = Quantizer(Branching())
    with pytest.raises(ExportError, match=r"cannot export Branching at .*test_bad_input\.py:\d+: `if x.sum\(\) > 0:`"):
        quantizer.prepare((image(2, 4),))
    assert not quantizer.is_prepared


BAD_EXAMPLES = {
    "channels": ((image(2, 4, 8, 8),), "expected input.*to have 3 channels, but got 4"),
    "rank": ((image(3, 8),), "conv2d"),
    "dtype": ((image().double(),), "double"),
    "integers": ((image().long(),), "long"),
    "too many": ((image(), image()), "too many positional arguments"),
    "none": ((), "missing a required argument: 'x'"),
    "no tensor": (("image.png",), "invalid combination of arguments"),
    "a list": (([image()],), "invalid combination of arguments"),
    "a name": ({"y": image()}, "missing a required argument: .x.; forward takes \\(x\\), got y by name"),
    "a number": (3, "example_inputs is a int; accepted: a tensor, a tuple of .*, or a dict"),
}


@pytest.mark.parametrize("case", BAD_EXAMPLES)
def test_example_inputs_that_do_not_fit_are_named_and_others_may_follow(case):
    inputs, message = BAD_EXAMPLES[case]
    quantizer = Quantizer(small(), QuantizerConfig.presets.w8())
    with pytest.raises(ExportError, match=message) as caught:
        quantizer.prepare(inputs)
    assert len(str(caught.value)) < 1000
    quantizer.prepare((image(),))
    assert quantizer.finalize()(image()).shape == (2, 5)


def test_a_palettizer_says_that_the_model_does_not_run_on_its_example_and_may_be_tried_again():
    palettizer = KMeansPalettizer(small())
    with pytest.raises(PalettizationError, match=r"Small does not run on the example inputs: .*3 channels, but got 4"):
        palettizer.prepare((image(2, 4, 8, 8),))
    palettizer.prepare((image(),))
    assert palettizer.finalize()(image()).shape == (2, 5)


WITHOUT_CODE_OR_DATA = {
    "scripted": (lambda: torch.jit.script(small()), "the model is a TorchScript module .*scripted or traced from"),
    "traced": (lambda: torch.jit.trace(small(), (image(),)), "the model is a TorchScript module"),
    "partly scripted": (lambda: with_head(torch.jit.script(nn.Linear(4, 5))), "head is a TorchScript module"),
    "meta": (lambda: small().to("meta"), "conv.weight of Small is on the meta device, without data; .*to_empty"),
    "lazy": (lambda: with_head(nn.LazyLinear(5)), "head.weight of Small has no shape yet; accepted: .* called once"),
    "fake": (lambda: fake(), "conv.weight of Small is a fake tensor, without data"),
    "fake program": (lambda: torch.export.export(small().to("meta"), (image().to("meta"),)), "on the meta device"),
}


def with_head(head: nn.Module) -> nn.Module:
    model = small()
    model.head = head
    return model


def fake() -> nn.Module:
    with FakeTensorMode():
        return Small().eval()


@pytest.mark.parametrize("kind", [Quantizer, KMeansPalettizer, MagnitudePruner])
@pytest.mark.parametrize("case", WITHOUT_CODE_OR_DATA)
def test_a_model_without_code_or_data_is_refused_with_what_is_accepted(case, kind):
    make, message = WITHOUT_CODE_OR_DATA[case]
    with pytest.raises(ModelError, match=message):
        kind(make()).prepare((image(),))


@pytest.mark.parametrize("case", ["scripted", "meta"])
def test_the_converters_refuse_models_without_code_or_data(case, tmp_path):
    make, message = WITHOUT_CODE_OR_DATA[case]
    for backend, name in ((coreai, "a.aimodel"), (coreml, "a.mlpackage")):
        with pytest.raises(ModelError, match=message):
            backend.convert(make(), tmp_path / name, (image(),))
    assert not files(tmp_path)


@pytest.mark.parametrize("backend", [coreai, coreml])
def test_example_inputs_in_place_of_a_path_are_named(backend):
    for call in (backend.convert, backend.check):
        with pytest.raises(AssetError, match=r"the path of an asset is a str or a pathlib\.Path, not a tuple"):
            call(small(), (image(),), (image(),)) if call is backend.convert else call((image(),), small(), image())


@pytest.mark.parametrize(("backend", "name"), [(coreai, "a.aimodel"), (coreml, "a.mlpackage")])
def test_a_check_with_inputs_or_a_model_that_do_not_fit_says_so(backend, name, tmp_path):
    backend.convert(small(), tmp_path / name, (image(),))
    with pytest.raises(ModelInputError):
        backend.check(tmp_path / name, small(), (image(2, 4, 8, 8),))
    with pytest.raises(ModelInputError, match="Linear does not run on these inputs"):
        backend.check(tmp_path / name, nn.Linear(3, 5), (image(),))
    with pytest.raises(ExportError, match="example_inputs is a int"):
        backend.check(tmp_path / name, small(), 3)
    with pytest.raises(ModelError, match="expected a module or an ExportedProgram to compare with, got a dict"):
        backend.check(tmp_path / name, dict(small().state_dict()), (image(),))


# configs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuantizerConfig(global_cfg=None), "takes no 'global_cfg'.*did you mean 'global_config'"),
        (lambda: ModuleQuantizerConfig(op_state_specs={}), "takes no 'op_state_specs'.*did you mean 'op_state_spec'"),
        (lambda: QuantizationSpec(granuarity="per_tensor"), "did you mean 'granularity'"),
        (lambda: PalettizationSpec(nbits=4), "did you mean 'n_bits'"),
        (lambda: KMeansPalettizerConfig(n_bits=4), "takes no 'n_bits'.*accepted: global_config"),
    ],
)
def test_an_unknown_key_is_an_error_with_near_names(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


DOCUMENTS = {
    "misspelt": (
        "quantization_config: {global_config: {op_state_sepc: {}}}",
        "global_config.op_state_sepc: .*did you mean 'op_state_spec'",
    ),
    "misspelt in a spec": (
        "quantization_config: {global_config: {op_state_spec: {weight: {dtyp: int8}}}}",
        "global_config.op_state_spec.weight.dtyp: .*did you mean 'dtype'",
    ),
    "bad dtype": (
        "quantization_config: {global_config: {op_state_spec: {weight: {dtype: int9}}}}",
        "global_config.op_state_spec.weight.dtype: no element type 'int9'; did you mean 'int8'",
    ),
    "of another shape": ("quantization_config: {global_config: 3}", "3 is not a ModuleQuantizerConfig"),
    "of another technique": ("kmeans_palettization_config: {}", "no 'quantization_config' at the top"),
    "a list": ("- quantization_config: {}", "at its top, not a dictionary"),
    "empty": ("", "None at its top"),
    "no yaml": ("quantization_config: {", "is not valid YAML"),
    "code": ("quantization_config: !!python/object/apply:os.getcwd []", "is not valid YAML"),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_config_file_that_cannot_be_meant_is_refused_with_the_path_inside_it(case, tmp_path):
    text, message = DOCUMENTS[case]
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises((ArgumentError, SpecError), match=message):
        QuantizerConfig.from_yaml(path)


def test_a_config_file_that_cannot_be_read_or_written_is_named(tmp_path):
    path = tmp_path / "config.yaml"
    with pytest.raises(SpecError, match=r"config\.yaml' cannot be read: No such file"):
        QuantizerConfig.from_yaml(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match=r"config\.yaml' is not UTF-8 text"):
        QuantizerConfig.from_yaml(path)
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        QuantizerConfig.from_yaml(tmp_path)
    for place in (tmp_path / "missing" / "config.yaml", path / "config.yaml", tmp_path):
        before = files(tmp_path)
        with pytest.raises(SpecError, match="cannot be written"):
            QuantizerConfig().to_yaml(place)
        assert files(tmp_path) == before


@pytest.mark.parametrize("config", ["w8a8", {}, 8, KMeansPalettizerConfig(), ModuleQuantizerConfig()])
def test_a_config_of_another_type_is_refused(config):
    with pytest.raises(ArgumentTypeError, match=f"takes a QuantizerConfig or None, not a {type(config).__name__}"):
        Quantizer(small(), config)


def test_entries_that_match_nothing_are_reported_by_name_as_an_error_and_by_type_as_a_warning():
    quantizer = Quantizer(small(), QuantizerConfig(module_name_configs={"haed": ModuleQuantizerConfig()}))
    with pytest.raises(UnmatchedConfigError, match=r"module_name_configs\['haed'\] matches no module; did you mean 'h"):
        quantizer.prepare((image(),))
    with pytest.warns(UnmatchedConfigWarning, match="'Conv9d'.*did you mean 'Conv2d'"):
        Quantizer(small(), QuantizerConfig(module_type_configs={"Conv9d": None})).prepare((image(),))


@pytest.mark.parametrize("dtype", ["int5", "uint5", "int16", "float16", "bogus", None, 8])
def test_a_dtype_that_no_code_has_is_refused_by_the_spec(dtype):
    with pytest.raises(SpecError, match=r"dtype: .*accepted: int8, int6, int4"):
        QuantizationSpec(dtype=dtype)


@pytest.mark.parametrize("bits", [0, 5, 7, 9, -1, "4", 4.5, True, None])
def test_a_table_size_that_nothing_stores_is_refused_by_the_spec(bits):
    with pytest.raises(SpecError, match=r"n_bits: .*accepted: 1, 2, 3, 4, 6, 8"):
        PalettizationSpec(n_bits=bits)


# what the backend cannot store is found when the backend is known: at finalize

UNSTORABLE = {
    "int3 weights": (weights_alone, {"dtype": "int3"}, "no weights of int3; accepted: .*int2, int4, int8"),
    "int6 weights": (weights_alone, {"dtype": "int6"}, "no weights of int6; accepted: .*int2, int4, int8"),
    "uint6 weights": (weights_alone, {"dtype": "uint6"}, "no weights of uint6; accepted: .*uint2, uint4, uint8"),
    "int2 activations": (activations_alone, {"dtype": "int2"}, "no activations of int2; accepted: .*int4, int8"),
    "int6 activations": (activations_alone, {"dtype": "int6"}, "no activations of int6; accepted: .*int4, int8"),
    "float4 activations": (
        activations_alone,
        {"dtype": "float4_e2m1fn"},
        "no activations of float4_e2m1fn; accepted: float8_e4m3fn, float8_e5m2, int4",
    ),
    "activations in blocks": (
        activations_alone,
        {"granularity": {"type": "per_block", "axis": 1, "block_size": 1}},
        "per tensor or per channel, not in blocks",
    ),
}


@pytest.mark.parametrize("case", UNSTORABLE)
def test_a_spec_that_the_backend_cannot_store_is_refused_with_node_module_and_what_is_accepted(case):
    config, spec, message = UNSTORABLE[case]
    quantizer = calibrated(config(**spec))
    prepared = quantizer.prepared_model
    before = prepared(image())
    with pytest.raises(LoweringError, match=rf"conv.*\(conv \(Conv2d\) at .*test_bad_input\.py:\d+\): .*{message}"):
        quantizer.finalize()
    assert torch.equal(prepared(image()), before)


def test_an_unknown_backend_is_refused():
    quantizer = calibrated()
    with pytest.raises(ExportBackendError, match="did you mean 'coreai'"):
        quantizer.finalize(backend="core-ai")
    assert quantizer.finalize()(image()).shape == (2, 5)


# order and calibration


@pytest.mark.parametrize("make", [Quantizer, KMeansPalettizer])
def test_finalize_before_prepare_says_what_comes_first(make):
    compressor = make(small())
    with pytest.raises(LifeCycleError, match=r"has not prepared a model yet: call prepare\(...\) first"):
        compressor.finalize()
    compressor.prepare((image(),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        assert compressor.finalize()(image()).shape == (2, 5)


@pytest.mark.parametrize("data", [[], [image(0, 3, 8, 8)]], ids=["no data", "empty batches"])
def test_calibration_without_data_is_told_with_the_quantizers_it_concerns(data):
    quantizer = Quantizer(small())
    prepared = quantizer.prepare((image(),))
    with quantizer.calibration_mode():
        for batch in data:
            prepared(batch)
    with pytest.warns(UncalibratedWarning, match=r"conv2d_input.*calibration_mode\(\) before finalize\(\)"):
        quantizer.finalize()
    with quantizer.calibration_mode():
        prepared(image(seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncalibratedWarning)
        quantizer.finalize()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_calibration_data_that_is_no_number_is_left_out_and_told(value):
    quantizer = calibrated()
    clean = quantizer.finalize()(image())
    with quantizer.calibration_mode() as prepared:
        prepared(torch.full((2, 3, 8, 8), value))
    with pytest.warns(UserWarning, match="not finite"):
        finalized = quantizer.finalize()
    assert torch.equal(finalized(image()), clean)


BAD_CALIBRATION = {
    "channels": ((image(2, 4, 8, 8),), r"x was float32\[2, 3, 8, 8\], is float32\[2, 4, 8, 8\]"),
    "dtype": ((image().double(),), r"x was float32\[2, 3, 8, 8\], is float64\[2, 3, 8, 8\]"),
    "half": ((image().half(),), r"x was float32.*, is float16"),
    "integers": ((image().long(),), r"x was float32.*, is int64"),
    "rank": ((image(3, 8, 8),), r"x was float32\[2, 3, 8, 8\], is float32\[3, 8, 8\]"),
    "no tensor": (("image.png",), "x was float32.*, is a str"),
    "none": ((), r"it takes 1 \(x\), got 0"),
    "too many": ((image(), image()), r"it takes 1 \(x\), got 2"),
}


@pytest.mark.parametrize("case", BAD_CALIBRATION)
def test_calibration_data_unlike_the_example_is_named_beside_the_example_and_the_rest_goes_on(case):
    inputs, message = BAD_CALIBRATION[case]
    quantizer = calibrated()
    before = copy.deepcopy(quantizer.prepared_model.state_dict())
    with pytest.raises(CallError, match=message), quantizer.calibration_mode() as prepared:
        prepared(*inputs)
    with quantizer.calibration_mode() as prepared:
        prepared(image(seed=3))
    assert quantizer.finalize()(image()).shape == (2, 5)
    assert before.keys() == quantizer.prepared_model.state_dict().keys()


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (5, 3, 8, 8), (2, 3, 10, 13)])
def test_calibration_data_of_another_size_works_where_the_model_does(shape):
    quantizer = calibrated()
    with quantizer.calibration_mode() as prepared:
        assert prepared(image(*shape)).shape == (shape[0], 5)
    assert quantizer.finalize()(image(*shape)).shape == (shape[0], 5)


# files that cannot be written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file in it, below which nothing can be written, not even by root."""
    (tmp_path / "file").write_text("precious")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file/model.aimodel", "file is a file, not a directory"),
        ("file/below/model.aimodel", "file is a file, not a directory"),
        ("model.bin", "must end in '.aimodel'"),
        ("taken.aimodel", "is a file, but an asset is a directory; it is left alone"),
        ("photos.aimodel", "is a directory that holds no asset; it is left alone"),
    ],
)
def test_an_asset_that_cannot_be_written_is_refused_before_any_work(folder, name, message):
    (folder / "taken.aimodel").write_text("precious")
    (folder / "photos.aimodel").mkdir()
    (folder / "photos.aimodel" / "photo.png").write_text("precious")
    before = files(folder)
    with pytest.raises(AssetError, match=message):
        coreai.convert(Branching(), folder / name, (image(2, 4),))  # which could not even be exported
    assert files(folder) == before


def test_a_conversion_that_fails_leaves_no_trace_and_an_old_asset_whole(folder):
    path = folder / "new" / "deep" / "model.aimodel"
    with pytest.raises(ConversionError, match="Branching"):
        coreai.convert(Branching(), path, (image(2, 4),))
    assert sorted(files(folder)) == ["file"]
    coreai.convert(small(), path, (image(),))
    before = files(folder)
    with pytest.raises(ConversionError):
        coreai.convert(Branching(), path, (image(2, 4),))
    assert files(folder) == before


def test_packed_weights_that_cannot_be_written_leave_the_quantizer_usable(folder):
    quantizer = calibrated()
    before = files(folder)
    for place in ("file", "file/below"):
        with pytest.raises(MappingError, match=f"cannot write packed weights to .*{place}"):
            quantizer.finalize(mmap_dir=str(folder / place))
    assert files(folder) == before
    in_memory, mapped = quantizer.finalize(), quantizer.finalize(mmap_dir=str(folder / "packed"))
    assert torch.equal(in_memory(image()), mapped(image()))


def test_a_graph_that_cannot_be_saved_leaves_nothing(folder):
    graph = from_module(small(), (image(),))
    (folder / "taken.gir").mkdir()
    (folder / "half.safetensors").mkdir()
    before = files(folder)
    for name, message in {
        "file/model.gir": "Not a directory",
        "missing/model.gir": "No such file",
        "taken.gir": "is a folder",
        "half.gir": "half.safetensors is a folder",
        "model.txt": r"called \*\.gir",
    }.items():
        with pytest.raises(StorageError, match=message):
            save_graph(graph, folder / name)
        assert files(folder) == before


# files that cannot be read


def _cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("suffix", [".gir", ".safetensors"])
def test_a_truncated_graph_is_noticed(tmp_path, suffix, keep):
    path = tmp_path / "model.gir"
    save_graph(from_module(small(), (image(),)), path)
    _cut(path.with_suffix(suffix), keep)
    with pytest.raises((ParseError, StorageError), match=r"model\.(gir|safetensors)"):
        load_graph(path)


@pytest.fixture(scope="module")
def asset(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("asset") / "model.aimodel"
    coreai.convert(small(), path, (image(),))
    return path


DAMAGE = {
    "a cut program": (lambda path: _cut(path / "main.mlirb", 0.5), "is damaged: main.mlirb"),
    "an empty program": (lambda path: _cut(path / "main.mlirb", 0), "is damaged: main.mlirb"),
    "no program": (lambda path: (path / "main.mlirb").unlink(), "is not a complete asset"),
    "no digest": (lambda path: (path / "main.hash").unlink(), "is not a complete asset"),
    "bad metadata": (lambda path: (path / "metadata.json").write_text("{"), "cannot be opened"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_asset_is_refused_by_everything_that_reads_it(asset, tmp_path, damage):
    spoil, message = DAMAGE[damage]
    path = tmp_path / "model.aimodel"
    shutil.copytree(asset, path)
    spoil(path)
    readers = (coreai.read, coreai.load, coreai.weight_bytes, lambda p: coreai.check(p, small(), (image(),)))
    for reader in readers:
        with pytest.raises(AssetError, match=message):
            reader(path)


def test_what_is_no_asset_is_refused(tmp_path):
    (tmp_path / "file.aimodel").write_text("x")
    for name in ("missing.aimodel", "file.aimodel"):
        with pytest.raises(AssetError, match=name):
            coreai.load(tmp_path / name)


def test_every_error_here_is_one_of_ours():
    ours = (ArgumentError, ArgumentTypeError, AssetError, CallError, ConversionError, ExportBackendError, ExportError)
    ours += (LifeCycleError, LoweringError, MappingError, PalettizationError, ParseError, SpecError, StorageError)
    assert all(issubclass(error, GraphpressError) for error in (*ours, UnmatchedConfigError))
