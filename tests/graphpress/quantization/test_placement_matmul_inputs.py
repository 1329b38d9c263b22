"""The placement `matmul-inputs` through `Quantizer`: configs, both execution modes, accuracy and both backends."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.config import SpecError
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.config import OpQuantizerConfig, Placement
from graphpress.quantization.switches import quantizers_of

PRODUCTS = QuantizerConfig(placement="matmul-inputs")


def encoder():
    """A transformer encoder with two channels of its residual stream far wider than the others, as real ones have."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with torch.no_grad():
        model.layers[0].norm1.weight[3] *= 50
        model.layers[0].norm2.weight[7] *= 50
    return model


def batch(seed=0):
    return torch.randn(4, 8, 32, generator=torch.Generator().manual_seed(seed))


def quantized(model, config):
    quantizer = Quantizer(model, config)
    prepared = quantizer.prepare((batch(),))
    with quantizer.calibration_mode():
        for seed in range(2):
            prepared(batch(seed))
    return prepared, quantizer.finalize()


def decibels(wanted, found):
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


def operands_of_activations(prepared):
    return {q.name.rpartition("_")[2] for q in quantizers_of(prepared) if not q.is_state}


# configs


def test_it_is_everywhere_by_default():
    assert QuantizerConfig().placement is Placement.EVERYWHERE
    assert QuantizerConfig.presets.w8a8().placement is Placement.EVERYWHERE


def test_it_survives_yaml():
    assert QuantizerConfig.from_yaml(PRODUCTS.to_yaml()) == PRODUCTS
    assert PRODUCTS.to_dict()["quantization_config"]["placement"] == "matmul-inputs"


def test_a_wrong_one_is_named_with_what_is_accepted():
    with pytest.raises(SpecError, match=r"placement.*'matmul-inputs'"):
        QuantizerConfig(placement="matmul")


@pytest.mark.parametrize("preset", ["w8a8", "w4a8"])
def test_presets_take_it_for_a_whole_model_only(preset):
    made = getattr(QuantizerConfig.presets, preset)(placement="matmul-inputs")
    assert made.placement is Placement.MATMUL_INPUTS
    assert made.global_config == getattr(ModuleQuantizerConfig.presets, preset)()
    with pytest.raises(SpecError, match=r"placement.*QuantizerConfig.presets"):
        getattr(ModuleQuantizerConfig.presets, preset)(placement="matmul-inputs")


# models


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_an_encoder_with_outliers_keeps_its_outputs(mode):
    model, x = encoder(), batch(9)
    everywhere = quantized(model, QuantizerConfig(execution_mode=mode))[1]
    prepared, products = quantized(model, QuantizerConfig(execution_mode=mode, placement="matmul-inputs"))
    with torch.no_grad():
        assert decibels(model(x), products(x)) > decibels(model(x), everywhere(x)) + 4
    assert operands_of_activations(prepared) == {"input", "query", "key", "value"}


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_a_named_op_type_and_a_boundary_are_obeyed(mode):
    config = QuantizerConfig(placement="matmul-inputs", execution_mode=mode, on_unmatched="ignore")
    config.global_config.op_type_config = {"softmax": OpQuantizerConfig()}
    config.set_module_name(
        "1", ModuleQuantizerConfig(op_type_config={"add": None}, module_output_spec={0: QuantizationSpec()})
    )
    model = nn.Sequential(nn.Softmax(-1), nn.Linear(32, 8)).eval()
    quantizer = Quantizer(model, config)
    found = {q.name.rpartition(".")[2] for q in quantizers_of(quantizer.prepare((batch(),))) if not q.is_state}
    if mode == "graph":
        assert found == {"softmax_self", "softmax_output", "linear_output"}
    else:
        assert found == {"softmax_input", "softmax_output", "linear_input", "module_output_0"}


@pytest.mark.parametrize(("backend", "suffix"), [(coreai, "aimodel"), (coreml, "mlpackage")], ids=["coreai", "coreml"])
def test_the_finalized_model_converts_and_runs(tmp_path, backend, suffix):
    finalized = quantized(encoder(), QuantizerConfig(placement="matmul-inputs"))[1]
    path = tmp_path / f"model.{suffix}"
    backend.convert(finalized, path, (batch(),))
    assert backend.check(path, finalized, (batch(9),)).ok
