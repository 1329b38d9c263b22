"""Graph mode of models that compute weights and tables from their parameters, against torch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphpress.quantization import Quantizer, QuantizerConfig


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class RelativePositionBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(noise(9, 2))
        self.register_buffer("places", torch.arange(16).reshape(4, 4) % 9)

    def forward(self, scores: Tensor) -> Tensor:
        bias = self.table[self.places.view(-1)].view(4, 4, 2).permute(2, 0, 1)
        return torch.softmax(scores + bias, -1)


class Columns(nn.Module):
    """Indices with a gap: all rows, some columns."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(noise(4, 6))
        self.register_buffer("places", torch.tensor([5, 0, 2, 2]))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table[:, self.places]


class TableOfRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(noise(5, 4))
        self.places = nn.Parameter(torch.tensor([[1], [3]]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[self.places]


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.upper = nn.Parameter(noise(2, 4))
        self.lower = nn.Parameter(noise(2, 4, seed=1))


class Cat(Halves):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, torch.cat([self.upper, self.lower]))


class Stack(Halves):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.stack([self.upper, self.lower]).sum(0)


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(noise(8, 4))
        self.bias = nn.Parameter(noise(8, seed=1))


class Split(Whole):
    def forward(self, x: Tensor) -> Tensor:
        query, key = self.weight.split(4)
        return functional.linear(x, query, self.bias[:4]) * functional.linear(x, key, self.bias[4:])


class Chunk(Whole):
    def forward(self, x: Tensor) -> Tensor:
        (query, key), (of_query, of_key) = self.weight.chunk(2), self.bias.chunk(2)
        return functional.linear(x, query, of_query) - functional.linear(x, key, of_key)


class Unbind(Whole):
    def forward(self, x: Tensor) -> Tensor:
        query, key = self.weight.view(2, 4, 4).unbind(0)
        return functional.linear(x, query) - functional.linear(x, key)


class CrossAttention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        other = x.flip(1)
        result: Tensor = self.attention(x, other, other)[0]
        return result


MODELS = {
    "relative position bias": (RelativePositionBias, (1, 2, 4, 4)),
    "columns of a table": (Columns, (2, 4)),
    "table of rows": (TableOfRows, (2, 1, 4)),
    "cat": (Cat, (2, 4)),
    "stack": (Stack, (2, 4)),
    "split": (Split, (2, 4)),
    "chunk": (Chunk, (2, 4)),
    "unbind": (Unbind, (2, 4)),
    "cross attention": (CrossAttention, (1, 3, 4)),
}
CONFIGS = {"default": QuantizerConfig, "weights only": QuantizerConfig.presets.w8}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_computes_from_its_parameters_is_near_the_float_model_in_both_forms(name, config):
    build, shape = MODELS[name]
    model, x = build().eval(), noise(*shape, seed=2)
    quantizer = Quantizer(model, CONFIGS[config]())
    prepared = quantizer.prepare((x,))
    with quantizer.calibration_mode():
        assert torch.equal(prepared(x), model(x))
    finalized = quantizer.finalize()
    reference = model(x)
    scale = float(reference.detach().abs().max())
    with torch.no_grad():
        assert prepared(x).shape == finalized(x).shape == reference.shape
        assert torch.allclose(prepared(x), reference, atol=0.05 * scale)
        assert torch.allclose(prepared(x), finalized(x), atol=1e-6 * scale)


@pytest.mark.parametrize("name", ["relative position bias", "split", "unbind"])
def test_gradients_reach_the_parameter_through_indices_and_parts(name):
    build, shape = MODELS[name]
    model, x = build().eval(), noise(*shape, seed=2)
    quantizer = Quantizer(model, QuantizerConfig.presets.w8())
    prepared = quantizer.prepare((x,))
    with quantizer.training_mode():
        prepared(x).square().sum().backward()
    model(x).square().sum().backward()
    parameters = dict(prepared.named_parameters())
    for key, expected in model.named_parameters():
        if expected.grad is not None:
            found = parameters[key].grad
            assert found is not None
            assert torch.allclose(found, expected.grad, atol=0.1 * float(expected.grad.abs().max()))


def test_a_prepared_model_with_computed_weights_can_be_copied():
    model, x = CrossAttention().eval(), noise(1, 3, 4)
    prepared = Quantizer(model).prepare((x,))
    assert torch.equal(copy.deepcopy(prepared)(x), prepared(x))
