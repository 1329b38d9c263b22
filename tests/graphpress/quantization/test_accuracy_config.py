"""The options that buy accuracy: how a config spells them."""

import pytest

from graphpress.config import SpecError
from graphpress.quantization import QuantizerConfig
from graphpress.quantization.spec import AdaptiveRounding, BiasCorrection, GPTQRounding, NearestRounding


def test_they_are_off_by_default():
    config = QuantizerConfig()
    assert config.weight_rounding == NearestRounding()
    assert config.bias_correction is BiasCorrection.NONE
    assert not config.equalize_layers
    assert config.smooth_layers is None
    assert not config.rotate_residual
    assert not config.learns_from_calibration


@pytest.mark.parametrize(
    "config",
    [
        QuantizerConfig(weight_rounding="gptq"),
        QuantizerConfig(weight_rounding=GPTQRounding(damping=0.1, activation_order=True), equalize_layers=True),
        QuantizerConfig(weight_rounding={"type": "adaptive", "iterations": 10}, bias_correction="empirical"),
        QuantizerConfig(smooth_layers=0.7),
        QuantizerConfig(smooth_layers=0),
    ],
)
def test_they_survive_yaml(config):
    assert QuantizerConfig.from_yaml(config.to_yaml()) == config
    assert config.learns_from_calibration


def test_a_document_spells_them_by_name():
    config = QuantizerConfig.from_yaml("""
quantization_config:
  weight_rounding: {type: gptq, activation_order: true}
  equalize_layers: true
  smooth_layers: true
  bias_correction: analytic
""")
    assert config.smooth_layers == 0.5
    assert config.weight_rounding == GPTQRounding(activation_order=True)
    assert config.bias_correction is BiasCorrection.ANALYTIC
    assert QuantizerConfig(weight_rounding="adaptive").weight_rounding == AdaptiveRounding()


@pytest.mark.parametrize(
    ("arguments", "path", "accepted"),
    [
        ({"weight_rounding": "gptqq"}, "weight_rounding", "gptq"),
        ({"weight_rounding": {"type": "gptq", "damping": 2}}, "weight_rounding", "from 0 to 1"),
        ({"weight_rounding": {"type": "adaptive", "iterations": 0}}, "weight_rounding", ">= 1"),
        ({"equalize_layers": "yes"}, "equalize_layers", "True or False"),
        ({"smooth_layers": 1.5}, "smooth_layers", "from 0 to 1, nor True, False or None"),
        ({"rotate_residual": 1}, "rotate_residual", "True or False"),
        ({"smooth_layers": "yes"}, "smooth_layers", "from 0 to 1"),
        ({"bias_correction": "empiric"}, "bias_correction", "'empirical'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(arguments, path, accepted):
    with pytest.raises(SpecError) as caught:
        QuantizerConfig(**arguments)
    assert path in str(caught.value)
    assert accepted in str(caught.value)
