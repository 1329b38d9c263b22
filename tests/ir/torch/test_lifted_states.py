"""States that a model reaches through other objects than the buffers that register them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from graphpress.ir import from_exported_program, to_graph_module
from graphpress.quantization import Quantizer, QuantizerConfig

torch.set_num_threads(1)


class Cache:
    """A plain object with tensors, as the cache objects of transformers."""

    def __init__(self):
        self.rows = torch.zeros(8, 4)
        self.count = torch.zeros((), dtype=torch.int64)


class Registered(nn.Module):
    """Buffers that are the memory of a cache's tensors, and a forward that reads the cache."""

    def __init__(self):
        super().__init__()
        self.linear, self.cache = nn.Linear(4, 4), Cache()
        self.register_buffer("rows", self.cache.rows, persistent=False)
        self.register_buffer("count", self.cache.count, persistent=False)

    def forward(self, x, position):
        self.cache.count.copy_(position[0])
        place = self.cache.count.to(torch.int64) + torch.arange(1)
        self.cache.rows.index_copy_(0, place, self.linear(x))
        self.cache.count.add_(1)
        return self.cache.rows.cumsum(0) * self.cache.count


class Unregistered(nn.Module):
    """A tensor attribute that is written to through a view."""

    def __init__(self):
        super().__init__()
        self.linear, self.total = nn.Linear(4, 4), torch.zeros(1, 4)

    def forward(self, x, position):
        self.total.view(-1).add_(self.linear(x).sum(0))
        return self.total + position


def calls(model, count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return [
            model(torch.randn(1, 4, generator=generator), torch.tensor([number])).clone() for number in range(count)
        ]


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


@pytest.mark.parametrize("kind", [Registered, Unregistered])
@pytest.mark.parametrize("strict", [False, True])
def test_a_lifted_state_lives_from_call_to_call(kind, strict):
    if strict and kind is Unregistered:
        pytest.skip("torch refuses unregistered tensors in strict mode")
    program = torch.export.export(made(kind), (torch.randn(1, 4), torch.tensor([0])), strict=strict)
    signature = copy.deepcopy(program.graph_signature)
    graph = from_exported_program(program)
    assert signature == program.graph_signature, "the program was changed"
    for before, after in zip(calls(made(kind)), calls(to_graph_module(graph, copy_constants=True)), strict=True):
        assert torch.equal(before, after)


def test_a_lifted_state_has_the_name_of_its_buffer():
    program = torch.export.export(made(Registered), (torch.randn(1, 4), torch.tensor([0])), strict=False)
    graph = from_exported_program(program)
    written = {output.target.constant.name for output in graph.outputs if output.kind == "buffer_mutation"}
    assert written == {"rows", "count"}


@pytest.mark.parametrize("kind", [Registered, Unregistered])
def test_a_model_with_lifted_states_is_quantized(kind):
    prepared = Quantizer(made(kind), QuantizerConfig.presets.w8()).prepare((torch.randn(1, 4), torch.tensor([0])))
    for before, after in zip(calls(made(kind)), calls(prepared), strict=True):
        assert torch.allclose(before, after, atol=0.05)
    assert not torch.equal(calls(prepared, 1)[0], calls(made(kind), 1)[0]), "the state was lost or nothing quantized"
