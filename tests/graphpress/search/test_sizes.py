from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graphpress.backends import coreai
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.palettization.spec import PerGroupedChannelGranularity
from graphpress.quantization import QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.search import stored_bytes
from tests.graphpress.search.models import DATA, Pictures

INPUTS = (DATA[:2],)
FLOAT = KMeansPalettizerConfig(global_config=None)
TABLE = QuantizationSpec(dtype="uint8", qscheme="asymmetric")


def palettized(**spec: Any) -> nn.Module:
    states = {"weight": PalettizationSpec(**spec)}
    config = KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec=states))
    palettizer = KMeansPalettizer(Pictures().eval(), config)
    palettizer.prepare(INPUTS)
    return palettizer.finalize()


def quantized(config: QuantizerConfig) -> nn.Module:
    quantizer = Quantizer(Pictures().eval(), config)
    prepared = quantizer.prepare(INPUTS)
    with quantizer.calibration_mode():
        prepared(DATA)
    return quantizer.finalize()


@pytest.mark.parametrize(
    "model",
    [
        lambda: Pictures().eval(),
        lambda: palettized(n_bits=3),
        lambda: palettized(n_bits=6, granularity=PerGroupedChannelGranularity(axis=0, group_size=2)),
        lambda: palettized(n_bits=2, lut_qspec=TABLE),
        lambda: palettized(n_bits=4, enable_per_channel_scale=True),
        lambda: palettized(n_bits=4, cluster_dim=2),
        lambda: quantized(QuantizerConfig.presets.w4()),
        lambda: quantized(QuantizerConfig()),
    ],
    ids=["float", "3 bits", "groups", "uint8 tables", "channel scales", "vectors", "int4", "int8 and activations"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_module_takes_what_its_asset_takes(model: Any, tmp_path: Path) -> None:
    finalized = model()
    info = coreai.convert(finalized, tmp_path / "model.aimodel", INPUTS)
    # The asset also spells out shapes and axes, as small integers that belong to no weight.
    shapes = sum(constant.stored_bytes for constant in info.constants if constant.dtype.value in ("i32", "i64", "u32"))
    assert stored_bytes(finalized, INPUTS) == info.weight_bytes - shapes


def test_what_is_the_same_everywhere_takes_nothing() -> None:
    layer = nn.Linear(4, 4)
    before = stored_bytes(layer)
    nn.init.zeros_(layer.bias)
    assert (before, stored_bytes(layer)) == (80, 64)


def test_shared_weights_are_counted_once() -> None:
    layer = nn.Linear(4, 4, bias=False)
    other = nn.Linear(4, 4, bias=False)
    other.weight = layer.weight
    assert stored_bytes(nn.Sequential(layer, other, nn.Linear(4, 4, bias=False))) == 128
    assert torch.equal(layer.weight, other.weight)
