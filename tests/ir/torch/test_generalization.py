"""Graphs of several inputs and of whole models, for every batch, from a capture at one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn import functional as F

from graphpress.ir import from_module, verify
from graphpress.ir.graph import Graph
from graphpress.ir.interpreter import run
from graphpress.ir.torch.generalization import NotProven, prove
from graphpress.ir.types import SymDim
from graphpress.tools.models import MODELS


class Model(nn.Module):
    """Layers to choose from; `compute(model, *inputs)` is the forward."""

    def __init__(self, compute: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.compute = compute
        self.linear = nn.Linear(4, 4)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.seen: list[int] = []
        self.eval()

    def forward(self, *inputs: Any) -> Any:
        return self.compute(self, *inputs)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@torch.library.custom_op("generalization::doubling", mutates_args=())
def doubling(x: Tensor) -> Tensor:
    """Return every row twice."""
    return torch.cat([x, x])


@doubling.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(2 * x.shape[0], *x.shape[1:])


@torch.library.custom_op("generalization::in_pairs", mutates_args=())
def in_pairs(x: Tensor) -> Tensor:
    """Return the rows, padded to an even number."""
    return torch.cat([x, x[: x.shape[0] % 2]])


@in_pairs.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0] + x.shape[0] % 2, *x.shape[1:])


def rows(m: Model, x: Tensor) -> Tensor:
    return m.linear(x).view(x.shape[0], -1)


def captured(model: nn.Module, inputs: tuple[Any, ...]) -> Graph:
    with torch.no_grad():
        return from_module(model, inputs)


def assert_holds(model: nn.Module, graph: Graph, inputs: tuple[Any, ...]) -> None:
    with torch.no_grad():
        wanted = pytree.tree_leaves(model(*inputs))
    found = run(graph, pytree.tree_leaves(inputs))
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def scan(x: Tensor) -> Tensor:
    states, state = torch.zeros_like(x), torch.zeros(x.shape[0], x.shape[2])
    for step in range(x.shape[1]):
        state = state * 0.5 + x[:, step]
        states[:, step] = state
        states[:, step].mul_(2)
    return states


def padded(x: Tensor) -> Tensor:
    wide = torch.ones(x.shape[0], 3, 4)
    wide[:, :2] = x
    wide[:, 2, 1:].copy_(x[:, 0, :1])
    return wide


def windows(m: Model, x: Tensor) -> Tensor:
    parts = x.view(x.shape[0], 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4)
    batch = parts.shape[0] // 4
    return m.linear(parts).view(batch, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(batch, 4, 4, 4)


# Name: the forward, the inputs at some batches, and the symbol of each input.
CASES: dict[str, tuple[Callable[..., Any], Callable[..., tuple[Any, ...]], list[str | None]]] = {
    "a mask of the same batch": (
        lambda m, x, k: rows(m, x).masked_fill(k[:, :1] == 0, 0.0),
        lambda b: (noise(b, 3, 4), torch.ones(b, 3)),
        ["s0", "s0"],
    ),
    "a padding mask inside torch": (
        lambda m, x, k: m.encoder(x, src_key_padding_mask=k),
        lambda b: (noise(b, 3, 4), torch.zeros(b, 3, dtype=torch.bool)),
        ["s0", "s0"],
    ),
    "batches that are compared": (
        lambda m, x, y: rows(m, x) + rows(m, y) if x.shape[0] == y.shape[0] else x,
        lambda b: (noise(b, 3, 4), noise(b, 3, 4)),
        ["s0", "s0"],
    ),
    "a state that is written step by step": (
        lambda m, x: rows(m, scan(x)),
        lambda b: (noise(b, 3, 4),),
        ["s0"],
    ),
    "padded in place, with a cast": (
        lambda m, x: rows(m, padded(x)),
        lambda b: (noise(b, 2, 4).double(),),
        ["s0"],
    ),
    "a view by the size of another input": (
        lambda m, x, y: rows(m, x) + m.linear(y).view(x.shape[0], -1),
        lambda b: (noise(b, 3, 4), noise(b, 3, 4)),
        ["s0", "s0"],
    ),
    "two batches that never meet": (
        lambda m, x, y: (rows(m, x), rows(m, y)),
        lambda b, c=1: (noise(b, 3, 4), noise(b + c, 5, 4)),
        ["s0", "s1"],
    ),
    "two batches that span a matrix": (
        lambda m, x, y: (x.flatten(1) @ y.flatten(1).T).view(x.shape[0], y.shape[0]),
        lambda b: (noise(b, 3, 4), noise(b + 1, 3, 4)),
        ["s0", "s1"],
    ),
    "positions as an input": (
        lambda m, x, p: rows(m, x + p[None, :, None]),
        lambda b: (noise(b, 3, 4), noise(3)),
        ["s0", None],
    ),
    "a nested input with a number and a scale": (
        lambda m, d: rows(m, d["x"]) * d["n"][0] + d["n"][1],
        lambda b: ({"x": noise(b, 3, 4), "n": [noise(1), 3]},),
        ["s0", None, None],
    ),
    "None and a scalar tensor": (
        lambda m, x, none, t: rows(m, x) * t,
        lambda b: (noise(b, 3, 4), None, torch.tensor(2.0)),
        ["s0", None, None],
    ),
    "an axis that is no batch": (lambda m, x: m.attention(x, x, x)[0], lambda b: (noise(b, 2, 4),), ["s0"]),
    "a recurrent layer": (
        lambda m, x: m.lstm(x)[0].reshape(x.shape[0], -1),
        lambda b: (noise(b, 3, 4),),
        ["s0"],
    ),
    "windows": (windows, lambda b: (noise(b, 4, 4, 4),), ["s0"]),
    "a constant made on the way": (
        lambda m, x: rows(m, x) + torch.tensor([1.0, 2.0, 3.0]).repeat(4),
        lambda b: (noise(b, 3, 4),),
        ["s0"],
    ),
    "an op that no rule knows": (
        lambda m, x: (
            rows(m, x) * torch.histc(x.sum((1, 2)), bins=4, min=-9, max=9).sum() + doubling(x)[: x.shape[0]].sum()
        ),
        lambda b: (noise(b, 3, 4),),
        ["s0"],
    ),
    "channels last": (
        lambda m, x: F.interpolate(x, scale_factor=2.0, mode="bilinear").reshape(x.shape[0], -1),
        lambda b: (noise(b, 3, 4, 4).to(memory_format=torch.channels_last),),
        ["s0"],
    ),
}


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_each_input_has_the_batch_it_should_and_the_graph_holds_at_every_one(name, batch):
    compute, inputs, symbols = CASES[name]
    model = Model(compute)
    graph = captured(model, inputs(batch))
    found = prove(graph, model, inputs(batch))
    assert found.symbols == symbols
    found.apply()
    verify(graph)
    for other in (1, 2, 4, 7):
        assert_holds(model, graph, inputs(other))


NOT_PROVEN: dict[str, tuple[Callable[..., Any], str]] = {
    "returns it": (lambda m, x: (rows(m, x), x.shape[0]), "returns the size"),
    "branches by it": (lambda m, x: rows(m, x) if x.shape[0] > 5 else rows(m, x) * 2, "compares the size"),
    "uses it as a key": (lambda m, x: rows(m, x) * {2: 3.0}[x.shape[0]], "TypeError|unhashable"),
    "names something by it": (lambda m, x: getattr(m, f"linear{str(x.shape[0])[1:]}")(x), "prints the size"),
    "asks whether memory is in order": (
        lambda m, x: rows(m, x) if x.transpose(0, 1).is_contiguous() else rows(m, x) * 2,
        "calls is_contiguous",
    ),
    "calls an op that rounds its batch": (lambda m, x: rows(m, x) * in_pairs(x).sum(), "in_pairs.*irregularly"),
    "takes every second row": (lambda m, x: rows(m, x) * x[::2].sum(), "aten.slice.*irregularly"),
    "has a batch of its own": (lambda m, x: rows(m, x) + torch.arange(24.0).view(2, 12), "does not run at other"),
    "writes to a buffer": (lambda m, x: rows(m, x) + m.linear.bias.add_(0).sum(), "writes to"),
}


@pytest.mark.parametrize("name", NOT_PROVEN)
def test_a_model_that_decides_by_its_batch_is_left_alone(name):
    compute, message = NOT_PROVEN[name]
    model = Model(compute)
    model.requires_grad_(False)
    inputs = (noise(2, 3, 4),)
    graph = captured(model, inputs)
    before = graph.clone()
    with pytest.raises(NotProven, match=message):
        prove(graph, model, inputs)
    assert graph == before


def test_the_run_takes_the_path_that_models_take_in_an_export():
    model = Model(lambda m, x: rows(m, x) if torch.compiler.is_exporting() else x.nonzero())
    graph = captured(model, (noise(2, 3, 4),))
    prove(graph, model, (noise(2, 3, 4),)).apply()
    assert torch.equal(run(graph, [noise(5, 3, 4)])[0], rows(model, noise(5, 3, 4)))
    assert not torch.compiler.is_exporting()


def test_the_model_is_left_as_it_was():
    def compute(m: Model, x: Tensor) -> Tensor:
        m.kept = x
        m.linear.extra = x.shape[0]
        return rows(m, x)

    model = Model(compute).train()
    graph = captured(model, (noise(2, 3, 4),))
    prove(graph, model, (noise(2, 3, 4),))
    assert model.training
    assert not hasattr(model, "kept")
    assert not hasattr(model.linear, "extra")


@pytest.mark.parametrize("name", ["gpt_small", "small_transformer"])
def test_the_graph_of_a_model_is_the_one_that_torch_captures_with_a_dynamic_batch(name):
    entry = MODELS[name]
    model, (tokens,) = entry.build(), entry.example_inputs()
    graph = captured(model, (tokens,))
    prove(graph, model, (tokens,)).apply()
    with torch.no_grad():
        dynamic = from_module(model, (torch.cat([tokens, tokens]),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    (theirs,) = dynamic.symbols
    renamed = str(dynamic).replace(theirs, "s0").replace("sym_size_int_1", "sym_size")
    assert str(graph) == renamed
    assert graph.inputs[0].value.tensor_type.shape[0] == SymDim("s0")
