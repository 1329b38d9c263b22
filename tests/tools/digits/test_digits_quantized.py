"""The trained digits classifiers hold an accuracy bar in each headline configuration, in both execution modes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.tools.digits import NETWORKS, accuracy, digits, load_trained, train

PRESETS = QuantizerConfig.presets
MODES = ["graph", "eager"]


def per_block():
    """Blocks of 32 where they divide the inputs; the stem, depthwise convolutions and rows of pixels in int8."""
    return PRESETS.w4_per_block().set_module_name(r"stem\.0|.*depthwise\.0|rows", ModuleQuantizerConfig.presets.w8())


def microscaling():
    """Linear layers in float4, but for rows of pixels, which are shorter than a block; convolutions in int4."""
    config = PRESETS.mxfp4().set_module_name("rows", ModuleQuantizerConfig.presets.w8())
    return config.set_module_type(nn.Conv2d, ModuleQuantizerConfig.presets.w4())


HEADLINES = {
    "W8A8": PRESETS.w8a8,
    "W8": PRESETS.w8,
    "W4 per block": per_block,
    "fp8": PRESETS.fp8,
    "MXFP4": microscaling,
}
# In shares of the held-out images: three of 897 where 8 bits are kept, nine where weights have 4.
BARS = {"W8A8": 0.0034, "W8": 0.0034, "W4 per block": 0.01, "fp8": 0.0034, "MXFP4": 0.01}


def held_out(model):
    data = digits()
    return accuracy(model, data.test_images, data.test_labels)


def calibrated(network, config, mode):
    config.on_unmatched = "ignore"  # one config serves both networks
    quantizer = Quantizer(load_trained(network), config.set_execution_mode(mode))
    images = digits().train_images
    prepared = quantizer.prepare((images[:32],))
    with quantizer.calibration_mode():
        for batch in images[:256].split(64):
            prepared(batch)
    return quantizer, prepared


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("headline", HEADLINES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_headline_configuration_holds_its_bar_prepared_and_finalized(network, headline, mode):
    bar = held_out(load_trained(network)) - BARS[headline]
    quantizer, prepared = calibrated(network, HEADLINES[headline](), mode)
    assert held_out(prepared) >= bar
    assert held_out(quantizer.finalize()) >= bar


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", NETWORKS)
def test_training_at_four_bit_weights_and_eight_bit_activations_holds_the_bar_of_eight_bits(network, mode):
    quantizer, prepared = calibrated(network, PRESETS.w4a8(), mode)
    torch.manual_seed(0)
    with quantizer.training_mode():
        train(prepared, epochs=1, learning_rate=3e-4, after_step=quantizer.step)
    bar = held_out(load_trained(network)) - 0.0034
    assert held_out(prepared) >= bar
    assert held_out(quantizer.finalize()) >= bar


# training at four bits


def four_bits():
    activation = QuantizationSpec(dtype="int4", fake_quantize_cls="learnable")
    weight = QuantizationSpec(dtype="int4", granularity="per_channel", fake_quantize_cls="learnable")
    return QuantizerConfig(
        global_config=ModuleQuantizerConfig(
            op_input_spec={"*": activation}, op_output_spec={"*": activation}, op_state_spec={"weight": weight}
        )
    )


def trained_at_four_bits(mode, **training):
    """What calibration loses, the share of it that two epochs regain, and what was trained."""
    quantizer, prepared = calibrated("conv_net", four_bits(), mode)
    before, whole = held_out(prepared), held_out(load_trained("conv_net"))
    torch.manual_seed(0)
    with quantizer.training_mode():
        train(prepared, epochs=2, after_step=quantizer.step, **training)
    return whole - before, (held_out(prepared) - before) / (whole - before), quantizer


def test_two_epochs_in_graph_mode_end_nearer_to_the_float_network_than_calibration():
    # Graph mode loses five of 897 images, which is too few for a share; `test_training_table` measures one.
    lost, regained, quantizer = trained_at_four_bits("graph", learning_rate=1e-3)
    assert 0.005 < lost < 0.01
    assert regained > 0
    assert held_out(quantizer.finalize()) > held_out(load_trained("conv_net")) - lost


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_epochs_of_labels_alone_regain_three_quarters_where_much_is_lost(seed):
    lost, regained, _ = trained_at_four_bits("eager", learning_rate=7e-3, batch=8, seed=seed)
    assert lost > 0.15
    assert regained > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_training_at_four_bits_repeats_bit_for_bit_by_seed(mode):
    first, second, other = (
        trained_at_four_bits(mode, learning_rate=1e-3, seed=seed)[2].prepared_model.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())
