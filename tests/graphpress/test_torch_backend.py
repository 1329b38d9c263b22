"""`ExportBackend.Torch`: plain torch models with the values of the prepared ones."""

import pytest
import torch
from torch import nn

from graphpress import ExportBackend
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig
from graphpress.passes.store_dense import StoreDense
from graphpress.pruning import MagnitudePruner
from graphpress.quantization import ExecutionMode, Quantizer, QuantizerConfig
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase, FixedFakeQuantize

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def tied():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 4))
    model[2].weight = model[0].weight
    return model.eval()


def convolutional():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()


def levels(weight):
    return [len(row.unique()) for row in weight.flatten(1)]


def is_plain(model, example):
    """Return True if only aten ops and `getitem` are exported."""
    program = torch.export.export(model, (example,))
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return all(getattr(target, "namespace", "aten") == "aten" for target in targets)


@pytest.mark.parametrize("mode", [*ExecutionMode])
def test_a_quantized_model_computes_what_the_prepared_one_does_with_dense_weights(mode):
    quantizer = Quantizer(tied(), QuantizerConfig.presets.w4a8().set_execution_mode(mode))
    prepared = quantizer.prepare(X)
    with quantizer.calibration_mode():
        prepared(2 * X)
    finalized = quantizer.finalize(backend=ExportBackend.Torch)
    assert torch.equal(finalized(3 * X), prepared(3 * X))
    modules = [*finalized.modules()]
    assert not any(isinstance(module, FakeQuantizeImplBase) for module in modules)
    activations = [module for module in prepared.modules() if isinstance(module, FakeQuantizeImplBase)]
    kept = [module for module in modules if isinstance(module, FixedFakeQuantize)]
    assert len(kept) == sum(not quantizer.is_state for quantizer in activations)
    weights = {name: tensor for name, tensor in finalized.state_dict().items() if name.endswith(".weight")}
    assert {"0.weight", "2.weight", "3.weight"} <= set(weights)
    assert all(level <= 16 for weight in weights.values() for level in levels(weight))
    assert weights["0.weight"].data_ptr() == weights["2.weight"].data_ptr()
    assert is_plain(finalized, X)


@pytest.mark.parametrize("mode", [*ExecutionMode])
def test_folded_norms_are_in_the_weights(mode):
    quantizer = Quantizer(convolutional(), QuantizerConfig(execution_mode=mode))
    prepared = quantizer.prepare(IMAGE)
    with quantizer.calibration_mode():
        prepared(IMAGE)
    finalized = quantizer.finalize(backend="torch")
    torch.testing.assert_close(finalized(IMAGE), prepared(IMAGE), rtol=1e-5, atol=1e-6)


def test_palettized_weights_are_dense_and_stay_tied():
    palettizer = KMeansPalettizer(tied(), KMeansPalettizerConfig())
    prepared = palettizer.prepare(X)
    finalized = palettizer.finalize(backend=ExportBackend.Torch)
    assert torch.equal(finalized(X), prepared(X))
    assert finalized[0].weight is finalized[2].weight
    assert type(finalized[0]) is nn.Linear
    assert finalized[0].weight.unique().numel() <= 16
    assert set(finalized.state_dict()) == set(tied().state_dict())


def test_pruned_weights_are_dense_with_zeros_and_learn_on():
    pruner = MagnitudePruner(tied())
    prepared = pruner.prepare(X)
    finalized = pruner.finalize(backend=ExportBackend.Torch)
    assert torch.equal(finalized(X), prepared(X))
    assert int((finalized[0].weight == 0).sum()) == 32
    assert finalized[0].weight is finalized[2].weight
    assert finalized[0].weight.requires_grad
    assert set(finalized.state_dict()) == set(tied().state_dict())


def test_palettized_and_quantized_models_become_dense():
    palettizer = KMeansPalettizer(convolutional(), KMeansPalettizerConfig())
    palettizer.prepare(IMAGE)
    quantizer = Quantizer(palettizer.finalize(), QuantizerConfig())
    prepared = quantizer.prepare(IMAGE)
    with quantizer.calibration_mode():
        prepared(IMAGE)
    finalized = quantizer.finalize(backend=ExportBackend.Torch)
    torch.testing.assert_close(finalized(IMAGE), prepared(IMAGE), rtol=1e-5, atol=1e-6)
    assert is_plain(finalized, IMAGE)


def test_the_pass_is_known_by_name():
    assert StoreDense().name == "store-dense"
