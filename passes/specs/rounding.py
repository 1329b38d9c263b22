"""How the codes of weights are chosen, and how biases make up for what rounding moves."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import attrs

from graphpress.passes.specs.arguments import Tagged, boolean, checked, integer, number, strict_arguments


class WeightRounding(Tagged):
    """Base of the ways to choose the code of each weight."""

    __slots__ = ()


@strict_arguments
@attrs.frozen
class NearestRounding(WeightRounding):
    """Each weight gets the code nearest to it. Needs no data."""

    type_name: ClassVar[str] = "nearest"


@strict_arguments
@attrs.frozen
class GPTQRounding(WeightRounding):
    """Codes are chosen one input feature after the other; the features not yet rounded make up for each error.

    Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers"
    (arXiv 2210.17323).

    Attributes:
        damping: added to the diagonal of the Hessian, as a fraction of its mean, 0 to 1.
        activation_order: round the features with the largest activations first.
        asymmetric: make up also for what layers before have lost: the layer's outputs are held to those of the float
            model on its own inputs (Li et al., "GPTAQ", arXiv 2504.02692, pose the problem so), not to those of the
            float weight on the inputs that the rounded model gives it.
    """

    type_name: ClassVar[str] = "gptq"

    damping: float = attrs.field(default=0.01, converter=checked(number(0.0, 1.0)))
    activation_order: bool = attrs.field(default=False, converter=checked(boolean))
    asymmetric: bool = attrs.field(default=True, converter=checked(boolean))


@strict_arguments
@attrs.frozen
class AdaptiveRounding(WeightRounding):
    """Each weight is rounded up or down, whichever keeps the output of its layer closest to the float layer's.

    Nagel et al., "Up or down? Adaptive rounding for post-training quantization" (arXiv 2004.10568). The error of a
    layer is a quadratic form of its weights, so every step sees all of the calibration data, and none of it is kept. In
    the end single weights are turned for as long as that lowers the error.

    Attributes:
        iterations: gradient steps for each layer.
        learning_rate: of Adam.
        regularization: weight of the term that drives each weight to one of its two codes, beside an error that is 1
            for each weight rounded to nearest.
    """

    type_name: ClassVar[str] = "adaptive"

    iterations: int = attrs.field(default=1000, converter=checked(integer(1)))
    learning_rate: float = attrs.field(default=0.01, converter=checked(number(1e-6, 1.0)))
    regularization: float = attrs.field(default=3.0, converter=checked(number(0.0, 1e3)))


class BiasCorrection(StrEnum):
    """Where the shift comes from that a bias makes up for (Nagel et al., arXiv 1906.04721, section 4.2)."""

    NONE = "none"
    """Biases stay as they are."""
    EMPIRICAL = "empirical"
    """From calibration data: the mean output of each channel, float against quantized."""
    ANALYTIC = "analytic"
    """Without data: from the mean that a batch norm gives the input of a layer."""
