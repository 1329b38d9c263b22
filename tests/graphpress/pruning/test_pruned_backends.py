"""Pruned weights, alone and jointly, in the Core AI runtime and as Core ML programs: to the bit and to the byte."""

import pytest
import torch
from torch import nn

from graphpress import ExportBackend, pipelines
from graphpress.backends import coreai, coreml
from graphpress.backends.errors import LoweringError
from graphpress.inspection import bits_per_weight
from graphpress.ir import from_module, run
from graphpress.ir.dtypes import DType
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationError,
    PalettizationSpec,
)
from graphpress.palettization.spec import (
    PerGroupedChannelGranularity,
    StraightThroughTrainingSpec,
    TableTrainingSpec,
)
from graphpress.passes.framework import Runner
from graphpress.pruning import (
    ChannelStructured,
    MagnitudePruner,
    MagnitudePrunerConfig,
    ModuleMagnitudePrunerConfig,
    PruningSpec,
    PruningWarning,
)
from graphpress.quantization import ExecutionMode, ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.spec import PerChannelGranularity

INPUTS, OUTPUTS = 32, 64
EYE = torch.eye(INPUTS)  # a linear layer gives its weight, transposed, without rounding
COUNT, KEPT = INPUTS * OUTPUTS, INPUTS * OUTPUTS // 4
MASK = COUNT // 8  # bytes


def layer():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, OUTPUTS, bias=False)).eval()


def pruner(model=None, **spec):
    each = ModuleMagnitudePrunerConfig(op_state_spec={"weight": PruningSpec(**{"target_sparsity": 0.75, **spec})})
    return MagnitudePruner(model or layer(), MagnitudePrunerConfig(global_config=each))


def pruned(backend=ExportBackend.CoreAI, model=None, inputs=EYE, **spec):
    made = pruner(model, **spec)
    made.prepare((inputs,))
    return made.finalize(backend=backend)


def quantizer(model, inputs=EYE, **spec):
    spec = {"granularity": PerChannelGranularity(), **spec}
    each = ModuleQuantizerConfig(
        op_state_spec={"weight": QuantizationSpec(**spec)}, op_input_spec=None, op_output_spec=None
    )
    made = Quantizer(model, QuantizerConfig(global_config=each))
    made.prepare((inputs,))
    return made


def palettizer(model, **spec):
    each = ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(**spec)})
    made = KMeansPalettizer(model, KMeansPalettizerConfig(global_config=each))
    made.prepare((EYE,))
    return made


INT8 = QuantizationSpec(dtype="int8")
SCALES = 4 * OUTPUTS
# What is done to the pruned weight; bytes of its parts in Core AI and in Core ML; the oldest target.
JOINT = {
    "floats": (lambda model: None, MASK + 4 * KEPT, MASK + 4 * KEPT, "iOS16"),
    "int8": (lambda m: quantizer(m, dtype="int8"), MASK + KEPT + SCALES, MASK + KEPT + SCALES, "iOS18"),
    # Core AI has no places for kept elements of less than 8 bits: all of them, or 8 bits for each, take less.
    "int4": (lambda m: quantizer(m, dtype="int4"), MASK + KEPT + SCALES, MASK + KEPT // 2 + SCALES, "iOS18"),
    "table of 4 bits": (lambda m: palettizer(m, n_bits=4), MASK + KEPT // 2 + 64, MASK + KEPT // 2 + 64, "iOS18"),
    "table of 3 bits": (lambda m: palettizer(m, n_bits=3), MASK + KEPT * 3 // 8 + 32, None, "iOS18"),
    "int8 table": (
        lambda m: palettizer(m, n_bits=4, lut_qspec=INT8),
        MASK + KEPT // 2 + 16,
        None,
        "iOS18",
    ),
    "table with a scale per channel": (
        lambda m: palettizer(m, n_bits=4, enable_per_channel_scale=True),
        MASK + KEPT // 2 + 64 + SCALES,
        MASK + KEPT // 2 + 64 + SCALES,
        "iOS18",
    ),
    "int8 table with a scale per channel": (
        lambda m: palettizer(m, n_bits=4, lut_qspec=INT8, enable_per_channel_scale=True),
        MASK + KEPT // 2 + 16 + SCALES,
        None,
        "iOS18",
    ),
}

QUICK = ("floats", "int8", "int8 table with a scale per channel")
EVERY = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in JOINT]


def joint(name, backend=ExportBackend.CoreAI):
    made = JOINT[name][0](pruned())
    return pruned(backend) if made is None else made.finalize(backend=backend)


def weight_of(model):
    with torch.no_grad():
        return model(EYE).T


def kept_places(model):
    return weight_of(pruned()) != 0


@pytest.mark.parametrize("name", EVERY)
def test_core_ai_computes_with_the_same_weight_from_so_many_bytes(name, tmp_path):
    model = joint(name)
    info = coreai.convert(model, tmp_path / "m.aimodel", EYE)
    found = coreai.load(tmp_path / "m.aimodel")(EYE)
    assert torch.equal(found.T, weight_of(model))
    assert not weight_of(model)[~kept_places(model)].any()
    assert info.operations["build_sparse_with_bitmask"] == 1
    weight_bytes = sum(c.stored_bytes for c in info.constants if c.used_by != ("transpose.1",))
    assert weight_bytes == JOINT[name][1]


@pytest.mark.parametrize("target", ["iOS18", pytest.param("iOS26", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EVERY)
def test_a_package_computes_with_the_same_weight_from_so_many_bytes(name, target, tmp_path):
    model = joint(name)
    info = coreml.convert(model, tmp_path / "m.mlpackage", EYE, target=target)
    _, (found,) = coreml.evaluate(tmp_path / "m.mlpackage", [EYE])
    assert torch.equal(found.T, weight_of(model))
    assert info.operations["constexpr_sparse_to_dense"] == 1
    assert info.weight_file_bytes == info.weight_bytes_by_law
    if JOINT[name][2] is not None:
        assert sum(c.stored_bytes for c in info.constants if c.used_by != ("linear.bias",)) == JOINT[name][2]


@pytest.mark.parametrize("name", EVERY)
def test_what_a_target_cannot_hold_is_refused_before_conversion(name, tmp_path):
    model, lowest = joint(name), JOINT[name][3]
    for target in ("iOS15", "iOS16", "iOS17"):
        if target >= lowest:
            coreml.convert(model, tmp_path / "m.mlpackage", EYE, target=target)
            _, (found,) = coreml.evaluate(tmp_path / "m.mlpackage", [EYE])
            assert torch.equal(found.T, weight_of(model))
        else:
            with pytest.raises(LoweringError, match=f"{target} cannot store .*\n(.*\n)*{lowest} can store all of it"):
                coreml.convert(model, tmp_path / "no.mlpackage", EYE, target=target)


@pytest.mark.parametrize("name", EVERY)
def test_what_coremltools_makes_of_the_metadata_computes_with_the_same_weight(name, tmp_path):
    ct = pytest.importorskip("coremltools")
    model = joint(name, ExportBackend.CoreML)
    assert not weight_of(model)[~kept_places(model)].any()
    traced = torch.jit.trace(model, EYE)
    converted = ct.convert(
        traced,
        inputs=[ct.TensorType(shape=EYE.shape)],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    converted.save(str(tmp_path / "m.mlpackage"))
    _, (found,) = coreml.evaluate(tmp_path / "m.mlpackage", [EYE])
    assert torch.allclose(found.T, weight_of(model), rtol=1e-6, atol=0)
    operations = coreml.read(tmp_path / "m.mlpackage").operations
    # The metadata has no words for zeros beside tables that are quantized or scaled; these are stored dense.
    assert ("constexpr_sparse_to_dense" in operations) == (
        name in ("floats", "int8", "int4", "table of 4 bits", "table of 3 bits")
    )


def test_tables_of_groups_keep_exact_zeros_and_are_stored_dense_for_core_ai(tmp_path):
    groups = PerGroupedChannelGranularity(axis=0, group_size=16)
    model = palettizer(pruned(), n_bits=4, granularity=groups).finalize()
    info = coreai.convert(model, tmp_path / "m.aimodel", EYE)
    found = coreai.load(tmp_path / "m.aimodel")(EYE)
    assert torch.equal(found.T, weight_of(model))
    assert not weight_of(model)[~kept_places(model)].any()
    assert "build_sparse_with_bitmask" not in info.operations


def test_asymmetric_codes_have_a_code_for_zero_and_are_stored_dense(tmp_path):
    model = quantizer(pruned(), dtype="uint8", qscheme="asymmetric").finalize()
    assert not weight_of(model)[~kept_places(model)].any()
    assert "constexpr_sparse_to_dense" not in coreml.convert(model, tmp_path / "m.mlpackage", EYE).operations


@pytest.mark.slow
def test_whole_channels_are_stored_as_any_zeros(tmp_path):
    model = pruned(pruning_scheme=ChannelStructured(axis=0))
    coreai.convert(model, tmp_path / "m.aimodel", EYE)
    found = coreai.load(tmp_path / "m.aimodel")(EYE)
    assert torch.equal(found.T, weight_of(model))
    assert int((weight_of(model) == 0).all(1).sum()) == OUTPUTS * 3 // 4


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_take_16_bits_for_each_kept_element(dtype, tmp_path):
    model = pruned(model=layer().to(dtype), inputs=EYE.to(dtype))
    info = coreai.convert(model, tmp_path / "m.aimodel", EYE.to(dtype))
    found = coreai.load(tmp_path / "m.aimodel")(EYE.to(dtype))
    assert torch.equal(found, model(EYE.to(dtype)))
    assert sum(c.stored_bytes for c in info.constants if c.bits in (1, 16)) == MASK + 2 * KEPT


@pytest.mark.slow
def test_a_weight_of_zeros_only_and_one_without_zeros_are_constants(tmp_path):
    for sparsity in (0.0, 1.0):
        model = pruned(target_sparsity=sparsity)
        info = coreai.convert(model, tmp_path / "m.aimodel", EYE)
        found = coreai.load(tmp_path / "m.aimodel")(EYE)
        assert torch.equal(found.T, weight_of(model))
        assert "build_sparse_with_bitmask" not in info.operations


def test_small_kept_elements_are_not_lost_in_the_metadata(tmp_path):
    tiny = layer()
    tiny[0].weight.data *= 1e-3
    with pytest.warns(PruningWarning, match=r"stored dense.*0\.weight"):
        model = pruned(ExportBackend.CoreML, model=tiny)
    assert int((model[0].weight != 0).sum()) == KEPT
    assert "_COREML_/weight/compression_type" not in dict(model[0].named_buffers())


def convolutions():
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(6)]
    for norm in norms:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.running_mean), nn.init.uniform_(norm.running_var, 0.5, 2)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), norms[0], nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, stride=2), norms[1]
    ).eval()


@pytest.mark.parametrize("tables", [pytest.param(False, marks=pytest.mark.slow), True])
def test_norms_are_folded_into_what_is_kept_when_activations_are_quantized(tables, tmp_path):
    image = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    model = pruned(model=convolutions(), inputs=image)
    if tables:
        each = ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(lut_qspec=INT8)})
        tabled = KMeansPalettizer(model, KMeansPalettizerConfig(global_config=each))
        tabled.prepare((image,))
        model = tabled.finalize()
    made = Quantizer(model, QuantizerConfig.presets.w8a8())
    prepared = made.prepare((image,))
    with made.calibration_mode():
        prepared(image)
    finalized = made.finalize()
    assert torch.equal(finalized(image), prepared(image))
    info = coreai.convert(finalized, tmp_path / "m.aimodel", image)
    assert info.operations["build_sparse_with_bitmask"] == 2
    assert "broadcasting_sub" not in info.operations  # of a norm
    assert coreai.check(tmp_path / "m.aimodel", finalized, image).ok
    coreml.convert(finalized, tmp_path / "m.mlpackage", image)
    assert coreml.check(tmp_path / "m.mlpackage", finalized, image).ok


def test_kept_elements_learn_while_quantized_and_zeros_stay():
    made = quantizer(pruned(), dtype="int8")
    prepared = made.prepared_model
    places = kept_places(None)
    before = weight_of(prepared).clone()
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1)
    with made.training_mode():
        for _ in range(3):
            optimizer.zero_grad()
            prepared(EYE).square().sum().backward()
            optimizer.step()
    after = weight_of(made.finalize())
    assert not torch.equal(before, after)
    assert not after[~places].any()


def test_palettized_floats_learn_where_they_are_kept():
    made = palettizer(pruned(), n_bits=4, training_strategy_spec=StraightThroughTrainingSpec())
    prepared = made.prepared_model
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.05)
    before = weight_of(prepared).clone()
    with made.training_mode() as training:
        for _ in range(3):
            optimizer.zero_grad()
            (prepared(EYE) - 1).square().sum().backward()
            optimizer.step()
            training.step()
    after = weight_of(made.finalize())
    assert not torch.equal(before, after)
    assert not after[~kept_places(None)].any()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"cluster_dim": 2}, r"0\.weight is pruned.*cluster_dim is 2, accepted: 1"),
        (
            {"lut_qspec": QuantizationSpec(dtype="int8", qscheme="asymmetric", qformulation="minval")},
            r"0\.weight is pruned.*accepted is 'zp'",
        ),
        ({"training_strategy_spec": TableTrainingSpec()}, r"0\.weight: pruned.*StraightThroughTrainingSpec"),
    ],
)
def test_tables_that_cannot_keep_zeros_are_refused(spec, message):
    with pytest.raises(PalettizationError, match=message):
        palettizer(pruned(), **spec)


@pytest.mark.parametrize("then", ["quantize", "palettize"])
def test_a_model_finalized_for_core_ml_is_compressed_further_with_its_zeros(then):
    first = pruned(ExportBackend.CoreML)
    made = quantizer(first, dtype="int8") if then == "quantize" else palettizer(first, n_bits=4)
    assert torch.equal(
        weight_of(made.finalize()), weight_of(joint("int8" if then == "quantize" else "table of 4 bits"))
    )
    key = "_COREML_/weight/compression_type"
    described = dict(made.finalize(backend=ExportBackend.CoreML).named_buffers())
    assert described[f"0.{key}"].tolist() == [1, 3 if then == "quantize" else 2]
    assert first[0].get_buffer(key).tolist() == [1]


def test_bits_per_weight_count_the_mask():
    assert bits_per_weight(pruned()) == pytest.approx(1 + 32 / 4)
    assert bits_per_weight(joint("int8")) == pytest.approx(1 + 8 / 4 + 8 * SCALES / COUNT)


def test_passes_do_the_same_as_compressors():
    graph = from_module(layer(), (EYE,))
    each = ModuleMagnitudePrunerConfig(op_state_spec={"weight": PruningSpec(target_sparsity=0.75)})
    pipeline = pipelines.prune(MagnitudePrunerConfig(global_config=each))
    assert torch.equal(run(Runner().run(graph, pipeline).graph, (EYE,))[0].T, weight_of(pruned()))


@pytest.mark.parametrize("backend", list(ExportBackend)[:2], ids=lambda backend: backend.name)
def test_eager_mode_quantizes_what_is_kept_too_and_stores_no_more_of_it(backend, tmp_path):
    each = ModuleQuantizerConfig(
        op_state_spec={"weight": QuantizationSpec(granularity=PerChannelGranularity())},
        op_input_spec=None,
        op_output_spec=None,
    )
    made = Quantizer(pruned(backend), QuantizerConfig(global_config=each, execution_mode=ExecutionMode.EAGER))
    prepared = made.prepare((EYE,))
    weight = prepared(EYE).T
    assert not weight[~kept_places(None)].any()
    assert all(len(row.unique()) <= 256 for row in weight)
    info = coreai.convert(made.finalize(), tmp_path / "m.aimodel", (EYE,))
    assert sum(each.stored_bytes for each in info.constants if each.dtype is DType.INT8) == KEPT
    assert coreai.check(tmp_path / "m.aimodel", made.finalize(), (EYE,)).ok
