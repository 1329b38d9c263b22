"""Palettize, finalize, quantize activations, calibrate, finalize: one model with both, and no norm left."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from graphpress.backends.coreai import check, convert, read, weight_bytes
from graphpress.ir import from_module
from graphpress.ir.dtypes import DType
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from graphpress.palettization.spec import PalettizationSpec, PerGroupedChannelGranularity
from graphpress.quantization import ModuleQuantizerConfig, QuantizerConfig
from graphpress.quantization.quantizer import Quantizer

ACTIVATIONS = QuantizerConfig(global_config=ModuleQuantizerConfig(op_state_spec=None))


def image(seed=0, batch=2):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def network(transposed_groups=1):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Dropout(),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(8, 8, 2, stride=2, groups=transposed_groups),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(2048, 16),
        nn.BatchNorm1d(16),
    )
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.4, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def palettized(model, **spec):
    config = KMeansPalettizerConfig(
        global_config=ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(**spec)})
    )
    palettizer = KMeansPalettizer(model, config)
    palettizer.prepare((image(),))
    return palettizer.finalize()


def joint(model, **spec):
    quantizer = Quantizer(palettized(model, **spec), ACTIVATIONS)
    prepared = quantizer.prepare((image(),))
    with quantizer.calibration_mode():
        for seed in range(3):
            prepared(image(seed))
    return quantizer, prepared


SPECS = {
    "float table": {"n_bits": 4},
    "int8 table": {"n_bits": 4, "lut_qspec": "int8"},
    "tables of channel groups": {"n_bits": 4, "granularity": PerGroupedChannelGranularity(axis=0, group_size=2)},
    "a scale for each channel": {"n_bits": 4, "enable_per_channel_scale": True},
    "six bits": {"n_bits": 6, "lut_qspec": "int8"},
}


def spec_of(case):
    spec = dict(SPECS[case])
    if "lut_qspec" in spec:
        from graphpress.quantization import QuantizationSpec

        spec["lut_qspec"] = QuantizationSpec(dtype=spec["lut_qspec"])
    return spec


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("case", SPECS)
def test_norms_fold_through_the_tables_and_weights_stay_packed(case, groups):
    model = network(groups)
    quantizer, prepared = joint(model, **spec_of(case))
    finalized = quantizer.finalize()
    names = [node.op.short_name for node in from_module(finalized, (image(),)).nodes]
    assert not {"batch_norm", "mul", "div", "sub", "add"} & set(names), names
    assert names.count("conv2d") == 2
    assert names.count("conv_transpose2d") == names.count("linear") == 1
    assert names.count("lut_to_dense") == 4
    assert (finalized(image()) - prepared(image())).abs().max() < 1e-5
    expected = palettized(model, **spec_of(case))(image())
    error = (finalized(image()) - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 0.05


def test_the_joint_model_is_one_convolution_per_pair_in_the_asset_too(tmp_path):
    quantizer, _ = joint(network(), **spec_of("int8 table"))
    finalized = quantizer.finalize()
    path = tmp_path / "joint.aimodel"
    convert(finalized, path, (image(),))
    report = check(path, finalized, (image(1),))
    assert report.ok, report
    large = [constant for constant in read(path).constants if math.prod(constant.shape) >= 100]
    assert {constant.dtype for constant in large} == {DType.UINT4}
    weights = 8 * 3 * 9 + 8 * 4 * 9 + 8 * 8 * 4 + 2048 * 16
    assert weight_bytes(path) < weights / 2 + 1500


def test_finalizing_the_joint_model_twice_gives_the_same():
    quantizer, _ = joint(network(), **spec_of("int8 table"))
    assert torch.equal(quantizer.finalize()(image()), quantizer.finalize()(image()))


def test_the_palettized_model_is_untouched_by_quantizing_it():
    model = palettized(network(), n_bits=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    output = model(image())
    quantizer = Quantizer(model, ACTIVATIONS)
    prepared = quantizer.prepare((image(),))
    with quantizer.calibration_mode():
        prepared(image())
    quantizer.finalize()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(image()), output)


def test_weights_that_were_palettized_are_not_quantized_again():
    quantizer = Quantizer(palettized(network(), n_bits=4))
    prepared = quantizer.prepare((image(),))
    assert not [module for module in prepared.modules() if getattr(module, "is_state", False)]
