"""What palettization in coreai-opt 0.4.0 added: detected zeros, the effort for vectors, and codes without tables."""

import zipfile

import pytest
import torch
from torch import nn

from graphpress import ExportBackend, pipelines
from graphpress.inspection import bits_per_weight
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationError,
    PalettizationSpec,
)
from graphpress.palettization.config import OpKMeansPalettizerConfig, VectorKMeansConfig
from graphpress.palettization.spec import PerGroupedChannelGranularity
from graphpress.passes.config import SpecError
from graphpress.quantization import QuantizationSpec

X = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
MINVAL = QuantizationSpec(dtype="uint8", qscheme="asymmetric", qformulation="minval")


def sparse(share=0.6):
    torch.manual_seed(0)
    layer = nn.Linear(64, 32, bias=False)
    with torch.no_grad():
        layer.weight[torch.rand_like(layer.weight) < share] = 0
    return nn.Sequential(layer)


def palettizer(model, vectors=None, **options):
    module = ModuleKMeansPalettizerConfig(
        op_state_spec={"weight": PalettizationSpec(**options)}, vector_kmeans_config=vectors
    )
    made = KMeansPalettizer(model, KMeansPalettizerConfig(global_config=module))
    made.prepare(X)
    return made


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lut_qspec": QuantizationSpec()},
        {"enable_per_channel_scale": True},
        {"granularity": PerGroupedChannelGranularity(axis=0, group_size=8)},
        {"granularity": PerGroupedChannelGranularity(axis=1, group_size=8)},
    ],
)
def test_zeros_above_the_threshold_stay_exact(options):
    zeros = sparse()[0].weight == 0
    made = palettizer(sparse(), n_bits=4, sparsity_detection_threshold=0.5, **options)
    weights = [made.prepared_model[0].weight, *(made.finalize(backend=each)[0].weight for each in ExportBackend)]
    assert all(not weight[zeros].any() for weight in weights)
    assert all(torch.equal(weight, weights[0]) for weight in weights)


def test_at_most_the_threshold_nothing_is_detected():
    zeros = sparse()[0].weight == 0
    share = float(zeros.double().mean())
    for threshold in (None, share, 0.7, 1.0):
        made = palettizer(sparse(), n_bits=4, sparsity_detection_threshold=threshold)
        assert "weight_mask" not in made.prepared_model[0]._buffers
    made = palettizer(sparse(), n_bits=4, sparsity_detection_threshold=share - 1e-6)
    assert torch.equal(made.prepared_model[0].weight_mask, ~zeros)


def test_mask_indices_and_tables_are_stored_and_counted():
    made = palettizer(sparse(), n_bits=4, sparsity_detection_threshold=0.5)
    kept = int((sparse()[0].weight != 0).sum())
    finalized = made.finalize()
    parts = {name: tuple(tensor.shape) for name, tensor in finalized.state_dict().items() if "mask" in name}
    assert (32, 64) in parts.values()
    bits = (kept * 4 + 32 * 64 + 16 * 32) / (32 * 64)
    assert bits_per_weight(made.prepared_model) == pytest.approx(bits)
    assert bits_per_weight(finalized) == pytest.approx(bits)


def test_a_state_dict_says_whether_zeros_were_detected():
    made = palettizer(sparse(), n_bits=4, sparsity_detection_threshold=0.5)
    state = made.prepared_model.state_dict()
    torch.manual_seed(1)
    again = KMeansPalettizer(nn.Sequential(nn.Linear(64, 32, bias=False)), made.config)
    assert torch.equal(again.prepare(X, state_dict=state)(X), made.prepared_model(X))


@pytest.mark.parametrize("wrong", [{"cluster_dim": 2}, {"lut_qspec": MINVAL}])
def test_zeros_that_have_no_form_are_refused(wrong):
    with pytest.raises(SpecError, match=r"sparsity_detection_threshold: .*accepted"):
        PalettizationSpec(sparsity_detection_threshold=0.5, **wrong)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, "much"])
def test_a_threshold_is_a_fraction(wrong):
    with pytest.raises(SpecError, match="sparsity_detection_threshold"):
        PalettizationSpec(sparsity_detection_threshold=wrong)


def test_a_pass_detects_zeros_too():
    spec = PalettizationSpec(n_bits=4, sparsity_detection_threshold=0.5)
    config = KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec}))
    from graphpress.ir.torch.capture import from_module
    from graphpress.passes.framework import Runner

    graph = Runner().run(from_module(sparse(), (X,)), pipelines.palettize(config)).graph
    assert [node.op.name for node in graph.nodes_of(lambda op: op.name.startswith("quant."))] == [
        "quant.lut_to_dense",
        "quant.sparse_to_dense",
    ]


def test_effort_of_vectors_changes_the_search():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    weight = model[0].weight.detach()

    def error(vectors):
        made = palettizer(model, vectors, n_bits=6, cluster_dim=2)
        return float((made.prepared_model[0].weight - weight).square().sum())

    least = error(VectorKMeansConfig(n_local_trials=1, n_init=1, max_iter=1, tol=1.0))
    assert error(VectorKMeansConfig(n_init=8)) < least
    assert error(VectorKMeansConfig(n_init=8)) == error(VectorKMeansConfig(n_init=8))


def test_an_effort_without_vectors_is_refused():
    with pytest.raises(SpecError, match=r"vector_kmeans_config: no spec .*cluster_dim > 1"):
        ModuleKMeansPalettizerConfig(vector_kmeans_config=VectorKMeansConfig())
    vectors = OpKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(cluster_dim=2)})
    config = ModuleKMeansPalettizerConfig(op_name_config={"a": vectors}, vector_kmeans_config={"n_init": 2})
    assert config.vector_kmeans_config == VectorKMeansConfig(n_init=2)
    for wrong in ({"n_init": 0}, {"tol": -1}, {"n_local_trials": 0}, {"max_iter": 0}):
        with pytest.raises(SpecError):
            VectorKMeansConfig(**wrong)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_full_tables_of_eight_bits_are_stored_as_codes_with_a_scale(dtype):
    made = palettizer(sparse(0), n_bits=8, lut_qspec=QuantizationSpec(dtype=dtype))
    finalized = made.finalize()
    names = {name.partition("_")[2]: tensor for name, tensor in finalized[0].state_dict().items()}
    assert set(names) <= {"codes", "scale", "zero_point"}
    assert names["codes"].dtype is getattr(torch, dtype)
    assert names["codes"].shape == (32, 64)
    assert torch.equal(finalized(X), made.prepared_model(X))
    exported = torch.export.export(finalized, (X,))
    targets = [str(node.target) for node in exported.graph.nodes if "coreai" in str(node.target)]
    assert targets == ["coreai.constexpr_blockwise_shift_scale.default"]
    zero = 8 if "zero_point" in names else 0
    assert bits_per_weight(finalized).total_bits == 8 * 32 * 64 + 32 + zero
    assert bits_per_weight(made.prepared_model) == bits_per_weight(finalized)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ""])
def test_sensitivities_are_read_in_the_form_of_either_package(suffix, tmp_path):
    path = tmp_path / f"sensitivities{suffix}"
    first = KMeansPalettizer(small())
    prepared = first.prepare(X[:, :16])
    with first.calibration_mode(loss_fn=nn.functional.mse_loss, sensitivity_path=path) as calibration:
        calibration.step(prepared(X[:, :16]), torch.zeros(2, 4))
    assert zipfile.is_zipfile(path) is (suffix in (".pt", ".pth"))
    if zipfile.is_zipfile(path):  # as coreai-opt 0.4.0 names them, which loads this file
        expected = {"0.parametrizations.weight.original", "2.parametrizations.weight.original"}
        assert set(torch.load(path, weights_only=True)) == expected
    again = KMeansPalettizer(small()).prepare(X[:, :16], sensitivity_path=path)
    assert all(torch.equal(a, b) for a, b in zip(again.buffers(), prepared.buffers(), strict=True))


@pytest.mark.parametrize("content", [{"0.weight": 3}, [torch.zeros(2)], {"a": {"b": torch.zeros(2)}}])
def test_other_files_of_torch_are_no_sensitivities(content, tmp_path):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(PalettizationError, match="holds no sensitivities"):
        KMeansPalettizer(small()).prepare(X[:, :16], sensitivity_path=path)


def test_sensitivities_run_no_code(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"0.weight": nn.Linear(2, 2)}, path)
    with pytest.raises(PalettizationError, match="cannot read sensitivities"):
        KMeansPalettizer(small()).prepare(X[:, :16], sensitivity_path=path)
