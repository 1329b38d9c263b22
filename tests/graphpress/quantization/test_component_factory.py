"""Components created from a spec by themselves."""

import pytest
import torch

from graphpress.passes.config import AxisError
from graphpress.quantization import QuantizationSpec
from graphpress.quantization.calculators import (
    MinMaxRangeCalculator,
    MovingAverageQParamsCalculator,
    StaticQParamsCalculator,
)
from graphpress.quantization.spec import (
    PerChannelGranularity,
    QuantizationComponentFactory,
    fp4_forward,
    resolve_block_sizes,
)

W = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def test_the_role_decides_the_default_calculator():
    create = QuantizationComponentFactory.create_qparams_calculator
    assert isinstance(create(QuantizationSpec(), "weight"), StaticQParamsCalculator)
    assert isinstance(create(QuantizationSpec(), "activation"), MovingAverageQParamsCalculator)
    assert isinstance(QuantizationComponentFactory.create_range_calculator(QuantizationSpec()), MinMaxRangeCalculator)


def test_a_fake_quantizer_rounds_by_its_spec():
    spec = QuantizationSpec(dtype="int4", granularity=PerChannelGranularity(axis=0))
    quantizer = QuantizationComponentFactory.construct(spec, "weight", shape=W.shape)
    scale = W.abs().amax(1, keepdim=True) / 7.5
    assert ((quantizer(W) - W).abs() <= 0.51 * scale).all()
    assert all(len(row.unique()) <= 8 for row in quantizer(W))
    assert QuantizationComponentFactory.construct(None, "weight") is None
    with pytest.raises(AxisError, match="out of range"):
        QuantizationComponentFactory.create_fake_quantizer(spec, "weight")


def test_fp4_rounds_as_the_peer_does():
    values = torch.tensor([0.1, 0.24, 0.25, 0.26, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 7, -1.3, 6.5])
    expected = [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0, -1.5, 6.0]  # of coreai-opt 0.4.0
    assert fp4_forward(values).tolist() == expected


def test_block_sizes_are_resolved_by_shape():
    assert resolve_block_sizes((4, 8), (2, -1)) == [2, 8]
