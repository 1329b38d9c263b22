"""MXINT8: int8 codes with power-of-two scales, for torch."""

import pytest
import torch
from torch import nn

from graphpress import CoreMLExportError, ExportBackend
from graphpress.backends.errors import LoweringError
from graphpress.passes.config import SpecError
from graphpress.quantization import ExecutionMode, ModuleQuantizerConfig, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.spec import PerBlockGranularity

# Weights of blocks, and the scales and values of coreai-opt 0.4.0.
ROWS = [
    ([1.0, -3.0, 0.5, 2.0], 0.03125, [1.0, -3.0, 0.5, 2.0]),
    ([1.99] * 4, 0.015625, [1.984375] * 4),
    ([2.0] * 4, 0.03125, [2.0] * 4),
    ([-1.999] * 4, 0.015625, [-2.0] * 4),
    ([0.3] * 4, 0.00390625, [0.30078125] * 4),
    ([0.999, 0.013, 0.0, 0.0], 0.0078125, [0.9921875, 0.015625, 0.0, 0.0]),
]


def quantizer(mode):
    layer = nn.Linear(32, len(ROWS), bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, :4] = torch.tensor([row for row, _, _ in ROWS])
    spec = QuantizationSpec(dtype="int8", scale_dtype="float8_e8m0", granularity=PerBlockGranularity(block_size=32))
    module = ModuleQuantizerConfig(op_input_spec=None, op_output_spec=None, op_state_spec={"weight": spec})
    made = Quantizer(nn.Sequential(layer), QuantizerConfig(global_config=module, execution_mode=mode))
    made.prepare(torch.randn(2, 32))
    return made


@pytest.mark.parametrize("mode", [*ExecutionMode])
def test_blocks_have_the_values_of_the_peer(mode):
    finalized = quantizer(mode).finalize(backend=ExportBackend.Torch)
    weight = finalized.state_dict()["0.weight"]
    assert weight[:, :4].tolist() == [values for _, _, values in ROWS]
    for row, (_, scale, _) in zip(weight, ROWS, strict=True):
        codes = row / scale
        assert torch.equal(codes, codes.round())
        assert int(codes.abs().max()) >= 63


@pytest.mark.parametrize("mode", [*ExecutionMode])
def test_other_backends_refuse_them(mode):
    with pytest.raises(LoweringError, match=r"float8_e8m0fnu.*accepted"):
        quantizer(mode).finalize(backend=ExportBackend.CoreAI)
    with pytest.raises(CoreMLExportError, match=r"(?s)float8_e8m0fnu.*accepted"):
        quantizer(mode).finalize(backend=ExportBackend.CoreML)


@pytest.mark.parametrize("wrong", [{"dtype": "int4"}, {"dtype": "uint8"}, {"qscheme": "asymmetric"}])
def test_other_specs_are_refused(wrong):
    with pytest.raises(SpecError, match="scale_dtype"):
        QuantizationSpec(**{"dtype": "int8", "scale_dtype": "float8_e8m0fnu", **wrong})
