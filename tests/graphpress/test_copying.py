"""Models that torch compiled or that hold computed tensors are compressed as the models that they stand for."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from graphpress.copying import copy_of, uncompiled, unwrapped
from graphpress.palettization import KMeansPalettizer
from graphpress.passes.weights.errors import QuantizationError
from graphpress.pruning import MagnitudePruner
from graphpress.quantization import Quantizer, QuantizerConfig

torch.set_num_threads(1)

X = torch.linspace(-1, 1, 16).reshape(2, 8)


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


class Eager(Quantizer):
    def __init__(self, model):
        super().__init__(model, QuantizerConfig(execution_mode="eager"))


@pytest.mark.parametrize("make", [Quantizer, Eager, KMeansPalettizer, MagnitudePruner])
def test_a_compiled_model_is_compressed_as_the_model_itself(make):
    plain, compiled = layers(), torch.compile(layers())
    results = []
    for model in (plain, compiled):
        compressor = make(model)
        prepared = compressor.prepare(X)
        if isinstance(compressor, Quantizer):
            with compressor.calibration_mode():
                prepared(X)
                prepared(2 * X)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a quantizer that saw no data would warn
            results.append(compressor.finalize()(X))
        names = {name.replace("quantizers.", "") for name, _ in prepared.named_modules()}
        assert not any("_orig_mod" in name for name in names)
    assert torch.equal(*results)
    assert type(compiled).__name__ == "OptimizedModule"


def test_compiled_modules_inside_a_model_are_found_by_eager_mode():
    model = nn.Sequential(torch.compile(nn.Linear(8, 8)), nn.ReLU())
    quantizer = Eager(model)
    prepared = quantizer.prepare(X)
    with quantizer.calibration_mode():
        prepared(X)
        prepared(2 * X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantizer.finalize()
    assert type(model[0]).__name__ == "OptimizedModule", "the model itself is unchanged"


def test_a_compiled_prepared_model_is_finalized_as_the_prepared_model():
    for make in (Quantizer, KMeansPalettizer):
        compressor = make(layers())
        prepared = compressor.prepare(X)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.equal(compressor.finalize(torch.compile(prepared))(X), compressor.finalize()(X))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_hooks_compute_are_copied_and_computed_anew():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 8)))
    assert not model[0].weight.is_leaf
    copied = copy_of(model, QuantizationError)
    assert torch.equal(copied(X), model(X))
    with torch.no_grad():
        copied[0].weight_g.mul_(2)
    assert torch.allclose(copied(X) - copied[0].bias, 2 * (model(X) - model[0].bias))
    for make in (KMeansPalettizer, MagnitudePruner):
        compressor = make(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parameters that the weight is computed from are skipped
            prepared = compressor.prepare(X)
        prepared(X).sum().backward()  # the weight is computed with a gradient again
        assert torch.equal(compressor.finalize()(X), model(X))


def test_a_model_that_cannot_be_copied_is_named_with_the_reason():
    class Single(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("there is one of me")

    with pytest.raises(QuantizationError, match=r"Single cannot be copied \(RuntimeError: there is one of me\); do so"):
        copy_of(Single(2, 2), QuantizationError, "do so")


def test_shared_parameters_stay_shared():
    model = layers()
    copied = copy_of(model, QuantizationError, shared=[model[0].weight])
    assert copied[0].weight is model[0].weight
    assert copied[2].weight is not model[2].weight


def test_wrappers_are_taken_off_at_every_depth():
    inner = nn.Linear(8, 8)
    model = nn.Sequential(nn.Sequential(torch.compile(inner)), nn.ReLU())
    assert unwrapped(torch.compile(inner)) is inner
    assert uncompiled(torch.compile(model))[0][0] is inner
    assert unwrapped(inner) is inner
