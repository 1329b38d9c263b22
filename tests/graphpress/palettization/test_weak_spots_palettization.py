"""Where other palettizers are weak, ours is not: one test for each spot."""

from __future__ import annotations

import kmeans1d
import numpy as np
import pytest
import torch
from torch import nn

from graphpress import ExportBackend
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.quantization import ModuleQuantizerConfig, Quantizer, QuantizerConfig

torch.set_num_threads(1)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def palettized(model, *inputs, **spec):
    """A palettizer that has prepared the model, with one spec for every weight."""
    each = ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(**spec)})
    palettizer = KMeansPalettizer(model.eval(), KMeansPalettizerConfig(global_config=each))
    palettizer.prepare(inputs)
    return palettizer


# tables


def decibels(weight, approximation):
    signal, noise = weight.double().square().sum(), (weight.double() - approximation.double()).square().sum()
    return 10 * float(torch.log10(signal / noise))


def linear_of(weight):
    layer = nn.Linear(*weight.shape[::-1], bias=False)
    layer.weight.data = weight
    return layer


@pytest.mark.parametrize("spread", [1e6, 1.0, 1e-4, 2e-5, 1e-12])
def test_tables_are_as_near_as_can_be_whatever_the_scale_of_the_weights(spread):
    weight = random(64, 80) * spread
    # The optimum is found for weights of a usual size: multiplying by a spread multiplies all errors alike.
    values = random(64, 80).double().numpy().ravel()
    nearest, table = kmeans1d.cluster(values, 16)
    best = 10 * np.log10((values**2).sum() / ((values - np.array(table)[nearest]) ** 2).sum())
    finalized = palettized(linear_of(weight), random(2, 80), n_bits=4).finalize()
    assert decibels(weight, finalized.weight) == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("spec", [{"cluster_dim": 2}, {"enable_per_channel_scale": True}], ids=str)
def test_vectors_and_scaled_tables_do_not_depend_on_the_scale_of_the_weights_either(spec):
    found = []
    for spread in (1.0, 1e-4, 2e-5):
        weight = random(64, 80) * spread
        finalized = palettized(linear_of(weight), random(2, 80), n_bits=4, **spec).finalize()
        found.append(decibels(weight, finalized.weight))
    assert found == pytest.approx(found[:1] * 3, abs=0.05)


def test_scales_of_transposed_convolutions_are_those_of_output_channels():
    layer = nn.ConvTranspose2d(4, 6, 3)
    palettizer = palettized(layer, random(1, 4, 5, 5), n_bits=4, enable_per_channel_scale=True)
    scales = [tensor for name, tensor in palettizer.finalize().state_dict().items() if name.endswith("scale")]
    assert [tuple(scale.shape) for scale in scales] == [(1, 6, 1, 1)]


def test_finalizing_a_joint_model_twice_for_core_ml_keeps_its_tables():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    x = random(2, 3, 8, 8)
    tables = palettized(model, x, n_bits=4).finalize(backend=ExportBackend.CoreML)
    quantizer = Quantizer(tables, QuantizerConfig(global_config=ModuleQuantizerConfig(op_state_spec=None)))
    prepared = quantizer.prepare((x,))
    with quantizer.calibration_mode():
        prepared(x)
    once, twice = (quantizer.finalize(backend=ExportBackend.CoreML) for _ in range(2))
    described = [name for name, _ in once.named_buffers() if "_COREML_" in name and "lut" in name]
    assert described
    assert once.state_dict().keys() == twice.state_dict().keys()
    assert all(torch.equal(tensor, twice.state_dict()[name]) for name, tensor in once.state_dict().items())
    assert torch.equal(once(x), twice(x))
