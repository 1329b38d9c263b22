"""What scripts for coreai-opt read from prepared models: fake-quantizers by module, and torch's parametrizations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from graphpress.config import CompressionTargetTensor
from graphpress.export_backend import ExportBackend
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.palettization.spec import PerGroupedChannelGranularity
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.spec import (
    PerBlockGranularity,
    PerChannelGranularity,
    QuantizationFormulation,
    QuantizationScheme,
)

EXAMPLE = (torch.randn(2, 32),)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8)).eval()


def _quantized(mode: str, **spec: Any) -> tuple[Quantizer, nn.Module]:
    module_config = ModuleQuantizerConfig(
        op_state_spec={"weight": QuantizationSpec(**spec)}, op_input_spec=None, op_output_spec=None
    )
    quantizer = Quantizer(_model(), QuantizerConfig(global_config=module_config, execution_mode=mode))
    return quantizer, quantizer.prepare(EXAMPLE)


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_a_fake_quantizer_tells_the_fields_of_its_spec_and_the_axis_that_was_chosen(mode: str) -> None:
    granularity = PerBlockGranularity(block_size=8)
    quantizer, _ = _quantized(mode, dtype="int4", qscheme="asymmetric", granularity=granularity)
    found = quantizer._get_fake_quantize_modules()
    assert [*found] == ["0", "2"]
    for (each,) in found.values():
        assert each.quantization_target is CompressionTargetTensor.WEIGHT
        assert (each.dtype, each.n_bits, each.quant_min, each.quant_max) == (torch.int4, 4, -8, 7)
        assert each.qscheme is QuantizationScheme.ASYMMETRIC
        assert each.qformulation is QuantizationFormulation.ZP
        assert each.granularity == PerBlockGranularity(axis=1, block_size=8)
        assert each.qparams_calculator.granularity == each.granularity


def test_quantizers_of_activations_say_so_and_a_switched_off_one_is_disabled() -> None:
    quantizer = Quantizer(_model())
    quantizer.prepare(EXAMPLE)
    targets = {each.quantization_target for found in quantizer._get_fake_quantize_modules().values() for each in found}
    assert targets == {CompressionTargetTensor.WEIGHT, CompressionTargetTensor.ACTIVATION}
    one = quantizer._get_fake_quantize_modules()["0"][0]
    assert not one.is_disabled()
    one.disable_fake_quant()
    assert one.is_disabled()
    one.enable_observer()
    assert not one.is_disabled()


def test_a_weight_quantized_in_eager_mode_is_parametrized_by_its_fake_quantizer() -> None:
    quantizer, prepared = _quantized("eager", dtype="int8", granularity=PerChannelGranularity())
    layer = prepared.get_submodule("0")
    assert parametrize.is_parametrized(layer, "weight")
    assert not parametrize.is_parametrized(layer, "bias")
    (found,) = layer.parametrizations["weight"]
    assert found is quantizer._get_fake_quantize_modules()["0"][0]
    assert found.qparams_calculator.granularity == PerChannelGranularity(axis=0)
    assert torch.equal(found(layer._parameters["weight"]), layer.weight)


def _palettized() -> tuple[KMeansPalettizer, nn.Module]:
    spec = PalettizationSpec(
        n_bits=2, granularity=PerGroupedChannelGranularity(group_size=4), enable_per_channel_scale=True
    )
    config = KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec}))
    palettizer = KMeansPalettizer(_model(), config)
    return palettizer, palettizer.prepare(EXAMPLE)


def test_a_palettized_weight_is_parametrized_by_its_palettization() -> None:
    _, prepared = _palettized()
    layer = prepared.get_submodule("2")
    assert parametrize.is_parametrized(layer, "weight")
    (found,) = layer.parametrizations["weight"]
    assert (found.n_bits, found.cluster_dim, found.enable_per_channel_scale, found.lut_qspec) == (2, 1, True, None)
    assert found.granularity == PerGroupedChannelGranularity(axis=0, group_size=4)
    assert torch.equal(found(layer._parameters["weight"]), layer.weight)
    assert parametrize.type_before_parametrizations(layer) is nn.Linear


def test_parametrizations_add_no_module_and_no_entry_to_the_state_dict_and_vanish_when_finalized() -> None:
    palettizer, prepared = _palettized()
    assert not any("parametrizations" in name for name, _ in prepared.named_modules())
    assert not any("parametrizations" in name for name in prepared.state_dict())
    assert parametrize.is_parametrized(copy.deepcopy(prepared).get_submodule("0"), "weight")
    for backend in ExportBackend:
        finalized = palettizer.finalize(backend=backend)
        assert not any(parametrize.is_parametrized(each) for each in finalized.modules())


def test_a_layer_with_a_parametrization_of_torch_keeps_it_beside_a_palettized_weight() -> None:
    model = nn.Sequential(nn.Linear(32, 16))
    parametrize.register_parametrization(model[0], "bias", nn.Tanh())
    prepared = KMeansPalettizer(model).prepare(EXAMPLE)
    layer = prepared.get_submodule("0")
    assert [*layer.parametrizations] == ["bias"]
    assert isinstance(layer.parametrizations["bias"][0], nn.Tanh)
