"""GPTQ of layers that are too wide for a solve of all columns."""

import time

import pytest
import torch
from torch import nn

from graphpress.quantization import Quantizer, QuantizerConfig
from graphpress.quantization.refinement import column_blocks
from graphpress.quantization.refinement.column_blocks import ColumnBlocks


@pytest.mark.parametrize(
    ("columns", "count", "size"), [(2048, 1, 2048), (8192, 8, 1024), (2049, 3, 683), (2050, 3, 684)]
)
def test_wide_layers_have_blocks_of_equal_size(columns, count, size):
    blocks = ColumnBlocks.of(columns)
    assert (blocks.count, blocks.size) == (count, size)
    matrices = torch.randn(2, 5, columns)
    split = blocks.split(matrices)
    assert split.shape == (2 * count, 5, size)
    assert torch.equal(blocks.join(split), matrices)
    assert torch.equal(split[count], matrices[1, :, :size])


def test_inputs_of_repeated_columns_are_zero():
    blocks = ColumnBlocks.of(2050)
    split = blocks.split_inputs(torch.ones(2, 4, 2050))
    assert split.sum() == 2 * 4 * 2050
    assert not split[[2, 5], :, -2:].any()


def correlated(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) + 2 * torch.randn(rows, 1, generator=generator)


def lost(rounding, columns):
    torch.manual_seed(0)
    model = nn.Linear(columns, 16).eval()
    config = QuantizerConfig.presets.w4()
    config.weight_rounding = rounding
    quantizer = Quantizer(model, config)
    prepared = quantizer.prepare((correlated(4, columns, 0),))
    start = time.process_time()
    with quantizer.calibration_mode():
        for seed in range(2):
            prepared(correlated(256, columns, seed))
    seconds = time.process_time() - start
    x = correlated(64, columns, 9)
    with torch.no_grad():
        return float((prepared(x) - model(x)).square().mean()), seconds


def test_blocks_of_columns_are_still_better_than_rounding_to_nearest(monkeypatch):
    whole = lost("gptq", 96)[0]
    monkeypatch.setattr(column_blocks, "WHOLE", 32)
    monkeypatch.setattr(column_blocks, "MOST", 32)
    blocks, nearest = lost("gptq", 96)[0], lost("nearest", 96)[0]
    assert whole < blocks < 0.5 * nearest


@pytest.mark.slow
def test_the_time_is_linear_in_the_columns():
    lost("gptq", 4096)
    assert lost("gptq", 8192)[1] < 3 * lost("gptq", 4096)[1]
