"""Float16 models as packages: every op computes what torch does, and none widens what follows it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphpress.backends import coreml
from graphpress.casting import cast_to_16_bit_precision
from graphpress.quantization import Quantizer, QuantizerConfig

pytest.importorskip("coremltools")

X = torch.tensor([[-2.5, 0.25, 1.5, -0.125], [3.0, -1.0, 2.0, 0.75]]).half()
OPS = {
    "sum with a number": lambda x: x + 0.3,
    "product with a number": lambda x: x * 0.3,
    "difference from a number": lambda x: 1.5 - x,
    "scaled sum": lambda x: torch.add(x, x.flip(0), alpha=0.3),
    "scaled difference": lambda x: torch.rsub(x, x.flip(0), alpha=3),
    "quotient by a number": lambda x: x / 3,
    "quotient": lambda x: x / (1 + x.abs()),
    "reciprocal": lambda x: 1 / (x.abs() + 1),
    "floor division": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "remainder": lambda x: x % 0.75,
    "remainder with the sign": lambda x: torch.fmod(x, 0.75) + torch.fmod(x, x.flip(0)),
    "power": lambda x: x.abs() ** 1.5 + x**2 + 2**x,
    "comparison": lambda x: torch.where(x > 0.3, x, 0.1 * x),
    "clamp": lambda x: x.clamp(-0.3, 0.7),
    "clamp from one side": lambda x: x.clamp(max=0.7) + x.clamp_min(0.1),
    "hardtanh": F.hardtanh,
    "threshold": lambda x: F.threshold(x, 0.1, 0.2),
    "selu": F.selu,
    "celu": F.celu,
    "softsign": F.softsign,
    "log sigmoid": F.logsigmoid,
    "slopes": lambda x: F.prelu(x[None, ..., None], torch.tensor([0.1, -0.2]).half()),
    "variance": lambda x: x.var(-1) + x.std(-1),
    "logarithms": lambda x: torch.log2(x.abs() + 1) + torch.expm1(x),
    "norm": lambda x: F.batch_norm(x[None], torch.zeros(2).half(), torch.ones(2).half()),
    "layer norm": lambda x: F.layer_norm(x, (4,), 1 + X[0], X[1]) + F.layer_norm(x, (4,), X[1]) + F.layer_norm(x, (4,)),
    "reflected edges": lambda x: F.pad(x[None, None], (2, 1, 1, 1), mode="reflect"),
    "replicated edges": lambda x: F.pad(x[None, None], (2, 0, 1, 3), mode="replicate"),
    "zeros": lambda x: x + torch.zeros(2, 4, dtype=torch.float16),
    "scaled product": lambda x: torch.addmm(x[:, :2], x, x.mT, beta=0.5, alpha=2),
    "batched product": lambda x: torch.baddbmm(x[None, :, :2], x[None], x[None].mT, beta=0.5, alpha=0.3),
    "length": lambda x: x.norm(p=1, dim=-1) + x.norm(dim=-1),
    "direction": F.normalize,
    "cosine": lambda x: F.cosine_similarity(x, x + 1, dim=-1),
    "triangle": lambda x: x.triu() + x.tril(),
}


class Ops(nn.Module):
    def forward(self, x):
        return tuple(function(x) for function in OPS.values())


def test_every_output_is_float16_and_what_torch_computes(tmp_path):
    coreml.convert(Ops().eval(), tmp_path / "m.mlpackage", X)
    _, found = coreml.evaluate(tmp_path / "m.mlpackage", [X])
    assert len(found) == len(OPS)
    for name, output, wanted in zip(OPS, found, Ops()(X), strict=True):
        assert output.dtype is torch.float16, name
        torch.testing.assert_close(output, wanted, rtol=4e-3, atol=4e-3, msg=lambda text, name=name: f"{name}: {text}")


class Blend(nn.Module):
    def forward(self, x, y):
        return torch.relu(x + 0.5 * y)


def test_a_quantized_model_that_multiplies_by_a_number_converts_in_float16(tmp_path):
    inputs = torch.randn(2, 4), torch.randn(2, 4)
    quantizer = Quantizer(Blend().eval(), QuantizerConfig())
    prepared = quantizer.prepare(inputs)
    with quantizer.calibration_mode():
        prepared(*inputs)
    program = cast_to_16_bit_precision(torch.export.export(quantizer.finalize(), inputs))
    coreml.convert(program, tmp_path / "m.mlpackage")
    assert coreml.check(tmp_path / "m.mlpackage", program, [each.half() for each in inputs]).ok
