"""Every way of compressing a model that a backend may hold: how it is made, and who holds it from which target on.

The tables of `docs/backends.md` are written from these rows, and the tests of this folder convert each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from attrs import evolve, field, frozen
from torch import nn

from graphpress import ExportBackend
from graphpress.backends import coreai, coreml
from graphpress.backends.coreml import Target
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.palettization.spec import PerGroupedChannelGranularity
from graphpress.pruning import MagnitudePruner, MagnitudePrunerConfig, ModuleMagnitudePrunerConfig, PruningSpec
from graphpress.quantization import ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.spec import PerBlockGranularity, PerChannelGranularity, PerTensorGranularity

IMAGE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
IOS15, IOS16, IOS17, IOS18 = Target.iOS15, Target.iOS16, Target.iOS17, Target.iOS18


def network(norm: bool = True) -> nn.Module:
    """A convolution with a norm, a transposed and a grouped one, and two linear layers."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(4, 16, 4, stride=2, padding=1),
        nn.BatchNorm2d(16) if norm else nn.Identity(),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 2, stride=2),
        nn.Conv2d(16, 16, 2, stride=2, groups=4),
        nn.Flatten(),
        nn.Linear(16 * 16, 32),
        nn.GELU(),
        nn.Linear(32, 8),
    )
    return nn.Sequential(*layers).eval()


@frozen
class Feature:
    """One way of storing weights or activations.

    Attributes:
        coreai: whether Core AI holds it.
        package: the oldest target whose package holds it, converted by graphpress; None when none does.
        described: the same for models that coremltools converts by what their metadata says.
        tables: options of the palettization of the weights.
        spec: of the quantization of the weights or activations.
        sparse: whether three quarters of each weight are pruned before.
    """

    coreai: bool = True
    package: Target | None = None
    described: Target | None = None
    tables: Mapping[str, object] | None = field(default=None, kw_only=True)
    spec: QuantizationSpec | None = field(default=None, kw_only=True)
    sparse: bool = field(default=False, kw_only=True)


def weights(coreai: bool, package: Target | None, described: Target | None, dtype: str, **options: object) -> Feature:
    """Quantized weights, per channel where not said otherwise."""
    spec = QuantizationSpec(dtype=dtype, **{"granularity": PerChannelGranularity(), **options})
    return Feature(coreai, package, described, spec=spec)


def tables(coreai: bool, package: Target | None, described: Target | None, n_bits: int, **options: object) -> Feature:
    """Palettized weights."""
    return Feature(coreai, package, described, tables={"n_bits": n_bits, **options})


def activations(coreai: bool, package: Target | None, described: Target | None, dtype: str, **more: object) -> Feature:
    """Quantized activations."""
    return Feature(coreai, package, described, spec=QuantizationSpec(dtype=dtype, **more))


TENSOR, GROUPS = PerTensorGranularity(), PerGroupedChannelGranularity(axis=0, group_size=4)
BLOCKS = {size: PerBlockGranularity(block_size=size) for size in (2, 4)}
INT8 = QuantizationSpec(dtype="int8")
UINT8 = QuantizationSpec(dtype="uint8", qscheme="asymmetric")
E4M3, E5M2 = QuantizationSpec(dtype="float8_e4m3fn"), QuantizationSpec(dtype="float8_e5m2")

WEIGHTS: dict[str, Feature] = {
    "float": Feature(True, IOS15, IOS15),
    "int8 per tensor": weights(True, IOS16, IOS16, "int8", granularity=TENSOR),
    "int8 per channel": weights(True, IOS16, IOS16, "int8"),
    "uint8 per channel, asymmetric": weights(True, IOS16, IOS16, "uint8", qscheme="asymmetric"),
    "int8 per channel, clipped": weights(True, IOS16, IOS16, "int8", qscheme="symmetric_with_clipping"),
    "int8 per block": weights(True, IOS18, IOS18, "int8", granularity=BLOCKS[2]),
    "int8 with a minimum value": weights(True, None, None, "int8", qscheme="asymmetric", qformulation="minval"),
    "int4 per channel": weights(True, IOS18, IOS18, "int4"),
    "int4 per block": weights(True, IOS18, IOS18, "int4", granularity=BLOCKS[4]),
    "uint4 per tensor, asymmetric": weights(True, IOS18, IOS18, "uint4", qscheme="asymmetric", granularity=TENSOR),
    "int2 per channel": weights(True, None, None, "int2"),
    "float8 e4m3 per channel": weights(True, None, None, "float8_e4m3fn"),
    "float8 e5m2 per channel": weights(True, None, None, "float8_e5m2"),
    "float4 e2m1 per block": weights(True, None, None, "float4_e2m1fn", granularity=BLOCKS[4]),
    "tables of 1 bit": tables(True, IOS16, IOS16, 1),
    "tables of 2 bits": tables(True, IOS16, IOS16, 2),
    "tables of 3 bits": tables(True, IOS18, IOS18, 3),
    "tables of 4 bits": tables(True, IOS16, IOS16, 4),
    "tables of 6 bits": tables(True, IOS16, IOS16, 6),
    "tables of 8 bits": tables(True, IOS16, IOS16, 8),
    "tables per group of channels": tables(True, IOS18, IOS18, 4, granularity=GROUPS),
    "tables of vectors": tables(True, IOS18, IOS18, 4, cluster_dim=2),
    "tables with a scale per channel": tables(True, IOS18, IOS18, 4, enable_per_channel_scale=True),
    "int8 tables": tables(True, IOS18, IOS18, 4, lut_qspec=INT8),
    "uint8 tables per group of channels": tables(True, IOS18, IOS18, 2, lut_qspec=UINT8, granularity=GROUPS),
    "int8 tables with a scale per channel": tables(
        True, IOS18, IOS18, 3, lut_qspec=INT8, enable_per_channel_scale=True
    ),
    "int8 tables of vectors": tables(True, IOS18, None, 4, lut_qspec=INT8, cluster_dim=2),
    "tables of vectors with a scale per channel": tables(
        True, IOS18, IOS18, 4, cluster_dim=2, enable_per_channel_scale=True
    ),
    "float8 e4m3 tables": tables(True, None, None, 4, lut_qspec=E4M3),
    "sparse floats": Feature(True, IOS16, IOS16, sparse=True),
    "sparse int8 per channel": evolve(weights(True, IOS18, IOS18, "int8"), sparse=True),
    "sparse int4 per channel": evolve(weights(True, IOS18, IOS18, "int4"), sparse=True),
    "sparse tables of 4 bits": evolve(tables(True, IOS18, IOS18, 4), sparse=True),
}
"""By what the weights are."""

ACTIVATIONS: dict[str, Feature] = {
    "int8": activations(True, IOS17, IOS17, "int8"),
    "int8 per channel": activations(True, IOS17, None, "int8", granularity=PerChannelGranularity(axis=1)),
    "uint8, asymmetric": activations(True, IOS17, IOS17, "uint8", qscheme="asymmetric"),
    "int4": activations(True, None, None, "int4"),
    "float8 e4m3": activations(True, None, None, "float8_e4m3fn"),
    "float8 e5m2": activations(True, None, None, "float8_e5m2"),
}
"""By what the activations are."""


def compressed(weight: str, activation: str | None, backend: ExportBackend, norm: bool = True) -> nn.Module:
    """The network with its weights, and its activations where asked for, compressed so; finalized for `backend`."""
    model, feature = network(norm), WEIGHTS[weight]
    if feature.sparse:
        kept = ModuleMagnitudePrunerConfig(op_state_spec={"weight": PruningSpec(target_sparsity=0.75)})
        pruner = MagnitudePruner(model, MagnitudePrunerConfig(global_config=kept))
        pruner.prepare((IMAGE,))
        model = pruner.finalize(backend=backend)
    if feature.tables is not None:
        each = ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(**feature.tables)})
        palettizer = KMeansPalettizer(model, KMeansPalettizerConfig(global_config=each))
        palettizer.prepare((IMAGE,))
        model = palettizer.finalize(backend=backend)
    if activation is None and feature.spec is None:
        return model
    quantize = None if activation is None else ACTIVATIONS[activation].spec
    config = ModuleQuantizerConfig(
        op_state_spec=None if feature.spec is None else {"weight": feature.spec},
        op_input_spec=None if quantize is None else {"*": quantize},
        op_output_spec=None if quantize is None else {"*": quantize},
    )
    quantizer = Quantizer(model, QuantizerConfig(global_config=config))
    prepared = quantizer.prepare((IMAGE,))
    with quantizer.calibration_mode():
        prepared(IMAGE)
        prepared(0.9 * IMAGE)
    return quantizer.finalize(backend=backend)


def oldest(weight: str, activation: str | None, form: str) -> Target | None:
    """The oldest target that holds both, as a package or `described` to coremltools; None when none does."""
    asked = [getattr(WEIGHTS[weight], form)]
    if activation is not None:
        asked.append(getattr(ACTIVATIONS[activation], form))
        if WEIGHTS[weight].tables is not None:
            asked.append(IOS18)  # the factor of the norm becomes a scale beside the table
    return None if None in asked else max(asked)


def save_everywhere(model: nn.Module, folder: Path) -> None:
    """Save a model as ``m.aimodel``, ``m.mlpackage`` and ``m.pt2``."""
    coreai.convert(model, folder / "m.aimodel", (IMAGE,))
    coreml.convert(model, folder / "m.mlpackage", (IMAGE,), target="iOS26")
    torch.export.save(torch.export.export(model, (IMAGE,)), folder / "m.pt2")
