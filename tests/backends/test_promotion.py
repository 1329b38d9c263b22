"""Dtypes in converted programs: promotion, dtype arguments and casts, held to what torch computes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from graphpress.backends import coreai, coreml

A = {
    "f": torch.tensor([[-2.5, 0.0, 1.5], [3.0, -1.0, 2.0]]),
    "i": torch.tensor([[-3, 0, 5], [7, -1, 2]], dtype=torch.int32),
    "l": torch.tensor([[901, -2, 3], [1, 4, -5]]),
    "b": torch.tensor([[True, False, True], [False, True, True]]),
}
B = {
    "f": torch.tensor([[1.5, -2.0, 0.5], [-1.0, 3.0, 2.0]]),
    "i": torch.tensor([[2, -4, 3], [5, 7, -2]], dtype=torch.int32),
    "l": torch.tensor([[2, 3, -5], [4, 1, 6]]),
    "b": torch.tensor([[True, True, False], [False, True, False]]),
}
DTYPES = {"f": torch.float32, "i": torch.int32, "l": torch.int64, "b": torch.bool}

TWO = {
    "add": torch.add,
    "mul": torch.mul,
    "sub": torch.sub,
    "div": torch.div,
    "floor": lambda a, b: torch.div(a, b.abs() + 1, rounding_mode="floor"),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "less": torch.lt,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "where": lambda a, b: torch.where(a > 0, a, b),
    "cat": lambda a, b: torch.cat([a, b]),
}
ONE = {
    "plus float": lambda a: a + 0.0123,
    "times float": lambda a: a * 0.0123,
    "over float": lambda a: a / 3.0,
    "float minus": lambda a: 1.5 - a,
    "plus int": lambda a: a + 3,
    "over int": lambda a: a / 4,
    "modulo int": lambda a: a % 3,
    "modulo float": lambda a: a % 2.5,
    "squared": lambda a: a**2,
    "above float": lambda a: a > 0.5,
    "equals float": lambda a: a == 1.0,
    "where float": lambda a: torch.where(a > 0, 1.5, a),
    "where int": lambda a: torch.where(a > 0, a, 0),
    "where of scalars": lambda a: torch.where(a.sum() > 0, a.sum(), a.float().mean()),
    "clamped by floats": lambda a: a.clamp(-1.5, 1.5),
    "masked": lambda a: a.float().masked_fill(a > 0, float("-inf")),
    "sin": torch.sin,
    "exp": lambda a: torch.exp(a / 1000),
    "sqrt": lambda a: torch.sqrt(a.abs()) if a.dtype is not torch.bool else torch.sqrt(a),
    "sum": lambda a: a.sum(-1),
    "sum as float": lambda a: a.sum(-1, dtype=torch.float32),
    "mean as float": lambda a: a.mean(-1, dtype=torch.float32),
    "cumulative sum": lambda a: a.cumsum(-1),
    "softmax as float": lambda a: torch.softmax(a, -1, dtype=torch.float32),
    "count of truths": lambda a: (a > 0).sum(-1),
    "product of truths": lambda a: (a > 0) * (a < 2),
    "inverted mask": lambda a: (1.0 - a.to(torch.float32)) * -1e4,
    "inverted whole mask": lambda a: (1 - a.long()) * -100.0,
    "arange": lambda a: torch.arange(3) * 0.25 + a,
    "arange of floats": lambda a: torch.arange(0, 1.5, 0.5) * a,
    "where between bools": lambda a: (~torch.where(a > 0, torch.ones(2, 3, dtype=torch.bool), a > 5)).float() + 0.25,
    "triangle of bools": lambda a: (~torch.tril(torch.ones(2, 3, dtype=torch.bool), -1)).float() + a,
    "causal mask": lambda a: torch.triu(torch.full((3, 3), float("-inf")), diagonal=1)[:2] + a,
    **{
        f"{name} as {kind}": (lambda a, make=make, dtype=dtype: make(a, dtype).float() + 0.25)
        for (name, make), (kind, dtype) in itertools.product(
            {
                "zeros_like": lambda a, dtype: torch.zeros_like(a, dtype=dtype),
                "ones_like": lambda a, dtype: torch.ones_like(a, dtype=dtype),
                "full_like": lambda a, dtype: torch.full_like(a, 2.75, dtype=dtype),
                "new_zeros": lambda a, dtype: a.new_zeros((2, 3), dtype=dtype),
                "zeros": lambda a, dtype: torch.zeros(2, 3, dtype=dtype) / 2 + a,
                "ones": lambda a, dtype: torch.ones(2, 3, dtype=dtype) // 2 + a,
                "no bits": lambda a, dtype: (~torch.zeros(2, 3, dtype=dtype)).float() + a,
                "sum of ones": lambda a, dtype: (torch.ones(2, 3, dtype=dtype) + torch.ones(2, 3, dtype=dtype)) + a,
                "full": lambda a, dtype: torch.full((2, 3), 2.0, dtype=dtype),
                "to": lambda a, dtype: a.to(dtype),
                "masked zeros": lambda a, dtype: torch.zeros_like(a, dtype=dtype).masked_fill(a > 0, 1),
            }.items(),
            DTYPES.items(),
        )
    },
}


def cases() -> dict[str, tuple[Any, tuple[torch.Tensor, ...], torch.Tensor]]:
    """By name: a function, its operands, and what torch makes of them; those that torch refuses are left out."""
    every = [(f"{name} {x} {y}", f, (A[x], B[y])) for (name, f), x, y in itertools.product(TWO.items(), A, B)]
    every += [(f"{name} {x}", f, (A[x],)) for (name, f), x in itertools.product(ONE.items(), A)]
    found = {}
    for name, function, operands in every:
        try:
            found[name] = function, operands, function(*operands)
        except (RuntimeError, TypeError):
            continue
    return found


CASES = cases()
CHUNK = 24
CHUNKS = [list(CASES)[start : start + CHUNK] for start in range(0, len(CASES), CHUNK)]


class Cases(nn.Module):
    """Every function of a chunk, on inputs of every dtype."""

    def __init__(self, names):
        super().__init__()
        self.names = names

    def forward(self, *inputs):
        by_identity = dict(zip(map(id, (*A.values(), *B.values())), inputs, strict=True))
        return tuple(CASES[name][0](*[by_identity[id(each)] for each in CASES[name][1]]) for name in self.names)


def outputs(backend, path, inputs):
    return coreai.load(path)(*inputs) if backend is coreai else coreml.evaluate(path, inputs)[1]


@pytest.mark.matrix
@pytest.mark.parametrize("names", CHUNKS, ids=range(len(CHUNKS)))
@pytest.mark.parametrize("backend", [coreai, coreml], ids=["coreai", "coreml"])
def test_converted_programs_promote_and_cast_as_torch_does(backend, names, tmp_path):
    path = tmp_path / ("model.aimodel" if backend is coreai else "model.mlpackage")
    inputs = (*A.values(), *B.values())
    backend.convert(Cases(names).eval(), path, inputs)
    found = outputs(backend, path, inputs)
    found = list(found.values()) if isinstance(found, dict) else list(found) if len(names) > 1 else [found]
    assert len(found) == len(names)
    for name, output in zip(names, found, strict=True):
        wanted = CASES[name][2]
        torch.testing.assert_close(
            torch.as_tensor(output).double(), wanted.double(), rtol=1e-5, atol=1e-6, equal_nan=True, msg=name
        )


class PaddingMask(nn.Module):
    """The float mask that `nn.TransformerEncoderLayer` makes of a bool one."""

    def forward(self, scores, mask):
        added = torch.zeros_like(mask, dtype=torch.float32).masked_fill_(mask, float("-inf"))
        return torch.softmax(scores + added, -1)


class TimeEmbedding(nn.Module):
    def forward(self, steps):
        return torch.sin(steps * 0.0123)


@pytest.mark.parametrize("backend", [coreai, coreml], ids=["coreai", "coreml"])
@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (PaddingMask(), (torch.tensor([[0.5, -1.0, 2.0]] * 2), torch.tensor([[0, 0, 1], [0, 1, 1]]).bool())),
        (TimeEmbedding(), (torch.tensor([3, 17, 901]),)),
    ],
    ids=["padding mask", "time embedding"],
)
def test_masks_and_time_embeddings_mean_the_same_in_the_saved_file(backend, model, inputs, tmp_path):
    path = tmp_path / ("model.aimodel" if backend is coreai else "model.mlpackage")
    backend.convert(model.eval(), path, inputs)
    found = outputs(backend, path, inputs)
    output = (
        found if isinstance(found, torch.Tensor) else next(iter(found.values() if isinstance(found, dict) else found))
    )
    torch.testing.assert_close(torch.as_tensor(output), model(*inputs), rtol=1e-5, atol=1e-6)


def test_an_encoder_layer_with_a_padding_mask_is_the_same_as_a_package(tmp_path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    inputs = (torch.randn(2, 5, 16), torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]).bool())

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, padding):
            return self.layer(x, src_key_padding_mask=padding)

    with torch.no_grad():
        wanted = Encoder().eval()(*inputs)
    coreml.convert(Encoder().eval(), tmp_path / "model.mlpackage", inputs)
    (found,) = coreml.evaluate(tmp_path / "model.mlpackage", inputs)[1]
    kept = ~inputs[1]
    torch.testing.assert_close(torch.as_tensor(found)[kept], wanted[kept], rtol=1e-4, atol=1e-4)
