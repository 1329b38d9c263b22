"""Models compressed in every way that a test of packages wants."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.palettization.spec import PerGroupedChannelGranularity
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.spec import PerBlockGranularity, PerChannelGranularity

IMAGE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    """A convolution with a norm, a transposed and a grouped one, and two linear layers."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(4, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 2, stride=2),
        nn.Conv2d(16, 16, 3, stride=4, groups=4),
        nn.Flatten(),
        nn.Linear(16 * 16, 32),
        nn.GELU(),
        nn.Linear(32, 8),
    )
    return nn.Sequential(*layers).eval()


def palettized(model: nn.Module, **options: object) -> nn.Module:
    """`model` with every weight as a table."""
    weights = ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(**options)})
    palettizer = KMeansPalettizer(model, KMeansPalettizerConfig(global_config=weights))
    palettizer.prepare((IMAGE,))
    return palettizer.finalize()


def quantized(model: nn.Module, weights: QuantizationSpec | None, activations: QuantizationSpec | None) -> nn.Module:
    """`model` with weights and activations quantized."""
    each = ModuleQuantizerConfig(
        op_state_spec=None if weights is None else {"weight": weights},
        op_input_spec=None if activations is None else {"*": activations},
        op_output_spec=None if activations is None else {"*": activations},
    )
    quantizer = Quantizer(model, QuantizerConfig(global_config=each))
    prepared = quantizer.prepare((IMAGE,))
    with quantizer.calibration_mode():
        prepared(IMAGE)
        prepared(0.9 * IMAGE)
    return quantizer.finalize()


def weight(dtype: str, **options: object) -> QuantizationSpec:
    """A spec for weights, per channel where not said otherwise."""
    return QuantizationSpec(dtype=dtype, **{"granularity": PerChannelGranularity(), **options})


INT8 = QuantizationSpec(dtype="int8")
UINT8 = QuantizationSpec(dtype="uint8", qscheme="asymmetric")
GROUPS = PerGroupedChannelGranularity(axis=0, group_size=4)

WEIGHTS: dict[str, tuple[str, Callable[[nn.Module], nn.Module]]] = {
    "float": ("iOS15", lambda model: model),
    "int8 per tensor": ("iOS16", lambda model: quantized(model, QuantizationSpec(dtype="int8"), None)),
    "int8 per channel": ("iOS16", lambda model: quantized(model, weight("int8"), None)),
    "uint8 per channel": ("iOS16", lambda model: quantized(model, weight("uint8", qscheme="asymmetric"), None)),
    "int8 clipped": ("iOS16", lambda model: quantized(model, weight("int8", qscheme="symmetric_with_clipping"), None)),
    "int4 per channel": ("iOS18", lambda model: quantized(model, weight("int4"), None)),
    "uint4 per tensor": (
        "iOS18",
        lambda model: quantized(model, QuantizationSpec(dtype="uint4", qscheme="asymmetric"), None),
    ),
    "int4 per block": (
        "iOS18",
        lambda model: quantized(model, weight("int4", granularity=PerBlockGranularity(block_size=4)), None),
    ),
    "int8 per block": (
        "iOS18",
        lambda model: quantized(model, weight("int8", granularity=PerBlockGranularity(block_size=2)), None),
    ),
    **{
        f"{bits}-bit tables": (
            "iOS18" if bits == 3 else "iOS16",
            lambda model, bits=bits: palettized(model, n_bits=bits),
        )
        for bits in (1, 2, 3, 4, 6)
    },
    "tables per group": ("iOS18", lambda model: palettized(model, n_bits=4, granularity=GROUPS)),
    "tables of vectors": ("iOS18", lambda model: palettized(model, n_bits=4, cluster_dim=2)),
    "scaled tables": ("iOS18", lambda model: palettized(model, n_bits=4, enable_per_channel_scale=True)),
    "int8 tables": ("iOS18", lambda model: palettized(model, n_bits=4, lut_qspec=INT8)),
    "uint8 tables per group": ("iOS18", lambda model: palettized(model, n_bits=2, lut_qspec=UINT8, granularity=GROUPS)),
    "scaled int8 tables": (
        "iOS18",
        lambda model: palettized(model, n_bits=3, lut_qspec=INT8, enable_per_channel_scale=True),
    ),
    "int8 tables of vectors": ("iOS18", lambda model: palettized(model, n_bits=4, lut_qspec=INT8, cluster_dim=2)),
}
"""By what the weights are: the oldest target that stores them, and how they are made."""

ACTIVATIONS: dict[str, QuantizationSpec] = {"int8": INT8, "uint8": UINT8}
