"""Small models that are hard to capture, by name: (build, args, kwargs, dynamic_shapes). All are built in eval mode."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from graphpress.ir import from_module
from graphpress.ir.graph import Graph

Case = tuple[Callable[[], nn.Module], tuple[Any, ...], dict[str, Any], Any]
ZOO: dict[str, Case] = {}


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(*args: Any, dynamic_shapes: Any = None, **kwargs: Any) -> Callable[[type], type]:
    def add(cls: type) -> type:
        def build() -> nn.Module:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return cls().eval()

        ZOO[cls.__name__] = (build, args, kwargs, dynamic_shapes)
        return cls

    return add


IMAGE = tensor(2, 3, 8, 8)
ROWS = tensor(4, 6)


@case(IMAGE)
class ConvBnInplaceRelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.ReLU6(inplace=True)
        )
        with torch.no_grad():
            self.features[1].running_mean.uniform_(-1, 1)
            self.features[1].running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.features(x)


@case(IMAGE)
class InplaceReluOfResidualBranch(nn.Module):
    """The tensor before the activation is read again, so it must see the activation's write."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        z = y.relu_()
        return y + z + x


@case(ROWS)
class AssignColumn(nn.Module):
    def forward(self, x):
        x = x.clone()
        x[:, 0] = 1.0
        x[1:3, 2] += x[1:3, 3]
        return x * 2


@case(ROWS)
class WriteThroughView(nn.Module):
    def forward(self, x):
        y = x * 2
        v = y.view(-1)
        v.add_(1)
        v[3:5].mul_(2)
        return y, v


@case(ROWS)
class ViewThatDiesBeforeTheWrite(nn.Module):
    def forward(self, x):
        y = x + 1
        total = y.view(-1).sum()
        y.mul_(2)
        return y + total


@case(ROWS)
class WriteToChunk(nn.Module):
    def forward(self, x):
        y = x + 1
        a, b = y.chunk(2, dim=1)
        a.sigmoid_()
        return y, b


@case(ROWS)
class InplaceOfManyKinds(nn.Module):
    def forward(self, x):
        y = x.clone()
        y.add_(1, alpha=2).mul_(torch.full((6,), 2.0)).clamp_(min=-1)
        y.unsqueeze_(0).squeeze_(0)
        y.masked_fill_(y > 2, 0.5)
        y.lt_(1.0)
        n = torch.zeros(4, 6, dtype=torch.int32)
        n.add_(3).fill_(2)
        half = x.to(torch.float16)
        half.mul_(torch.full((4, 6), 1.5))
        return y, n, half, x.exp().zero_()


@case(torch.arange(6).reshape(2, 3))
class TiedEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.body(self.embed(ids))))


@case(ROWS)
class CountingBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("offset", torch.ones(6), persistent=False)

    def forward(self, x):
        self.calls += 1
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return x - self.mean + self.offset, self.calls


@case(tensor(1, 2, 4), torch.tensor([3]))
class KeyValueCache(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.zeros(1, 8, 4))
        self.register_buffer("last", torch.zeros(1, 2, 4))

    def forward(self, new, position):
        index = position + torch.arange(2)
        self.keys.copy_(self.keys.index_copy(1, index, new))
        self.last.copy_(new[:, :1])
        return F.scaled_dot_product_attention(new, self.keys, self.keys), self.last.sum()


@case(tensor(1, 2, 4))
class CacheWrittenThroughSlice(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.zeros(1, 8, 4))

    def forward(self, new):
        self.keys[:, 2:4] = new
        return self.keys.mean(1)


@case(ROWS)
class SwappedBuffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("a", torch.zeros(3))
        self.register_buffer("b", torch.ones(3))

    def forward(self, x):
        old = self.a.clone()
        self.a.copy_(self.b)
        self.b.copy_(old)
        return x + self.a.sum(), old


@case(tensor(4))
class WritesToInput(nn.Module):
    def forward(self, x):
        y = x * 2
        x.add_(1)
        return y + x


@case({"a": ROWS, "b": [ROWS, (tensor(6, seed=1), None)]}, scale=tensor(6, seed=2), flag=True)
class NestedInputsAndOutputs(nn.Module):
    def forward(self, data, *, scale, flag):
        x = data["a"] + data["b"][0]
        y = x * scale if flag else x
        return {"y": y, "parts": [x, (data["b"][1][0], None, 3, "name")], "empty": ()}


@case(ROWS, None, 3)
class NoneAndNumbers(nn.Module):
    def forward(self, x, mask=None, count=2, name="unused"):
        if mask is not None:
            x = x * mask
        return F.layer_norm(x, (6,), None, None) * count, count


@case(ROWS)
class ManyResults(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True)

    def forward(self, x):
        a, _, c = x.split([1, 2, 3], dim=1)
        values, where = x.max(dim=1)
        sequence, (hidden, cell) = self.lstm(x[None])
        normal = torch.native_layer_norm(x, (6,), None, None, 1e-5)
        top = x.topk(2, dim=1)
        return a + values[:, None], c, where, sequence, hidden, cell, normal, top.indices, torch.cat(x.unbind(1))


@case(ROWS)
class Condition(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 6)
        self.down = nn.Linear(6, 6)

    def forward(self, x):
        y = torch.cond(x.sum() > 0, lambda t: self.up(t), lambda t: self.down(t) - 1, (x,))
        return y.relu()


@case(ROWS)
class WhileLoop(nn.Module):
    def forward(self, x):
        from torch._higher_order_ops.while_loop import while_loop

        count = torch.zeros((), dtype=torch.int64)
        return while_loop(lambda i, t: i < 3, lambda i, t: (i + 1, t * 1.5), (count, x))


@case(ROWS)
class Mapped(nn.Module):
    def forward(self, x):
        from torch._higher_order_ops.map import map as map_over

        return map_over(lambda row, shift: row.cumsum(0) + shift, x, x[0] * 2)


@case(ROWS)
class NoGradRegion(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        with torch.no_grad():
            angle = x.cumsum(1)
            cos, sin = angle.cos(), angle.sin()
        return self.linear(x) * cos + sin


@case(ROWS)
class AutocastRegion(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.linear(x)
        return y.float() + x


@case(ROWS, dynamic_shapes={"x": {0: Dim("batch", min=2, max=64)}})
class DynamicBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        y = self.linear(x)
        return y.reshape(-1), torch.zeros(x.shape[0], 2) + x.shape[0], x.size(0) * 3


@case(tensor(2, 3, 12, 16), dynamic_shapes=({0: Dim.DYNAMIC, 2: Dim("h", min=4, max=128) * 2, 3: Dim.DYNAMIC},))
class DynamicImage(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, x):
        y = self.conv(x).relu_()
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
        return y.flatten(2).transpose(1, 2), y.mean((2, 3))


@case(torch.tensor([0.0, 1.0, 0.0, 2.0, 3.0]))
class DataDependentSize(nn.Module):
    def forward(self, x):
        found = x.nonzero()
        return found * 2, found.shape[0]


@case(ROWS)
class ItemOfTensor(nn.Module):
    def forward(self, x):
        n = x.abs().max().to(torch.int64).item()
        torch._check(n >= 0)
        torch._check(n < 10)
        return x.new_zeros(10) + n


@case(ROWS)
class SameOutputTwice(nn.Module):
    def forward(self, x):
        y = x + 1
        return y, x, y, x.view(6, 4)


@case(ROWS)
class Identity(nn.Module):
    def forward(self, x):
        return x


@case(ROWS)
class ReturnsParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        return self.weight, 5, None


@case(ROWS)
class Dropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.3, inplace=True), nn.Linear(6, 2))

    def forward(self, x):
        return self.net(x + 1)


@case(ROWS)
class PlainTensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.arange(6.0)
        self.add_module("train-step", nn.Linear(6, 6))

    def forward(self, x):
        fresh = torch.tensor([1.0, 2.0])
        return x * self.table + getattr(self, "train-step")(x) + fresh.sum(), fresh


@case(ROWS)
class SharedModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.act = nn.GELU()

    def forward(self, x):
        return self.act(self.linear(self.act(self.linear(x))))


@case(ROWS)
class IndexingWithNone(nn.Module):
    def forward(self, x):
        rows = torch.tensor([0, 2])
        y = x[:, rows]
        y[:, torch.tensor([1])] = 9.0
        return y, x[rows, None, 1:4:2]


@case(tensor(2, 4, 8))
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        y, weights = self.attention(x, x, x, need_weights=True)
        return self.norm(x + y), weights


@case(ROWS)
class NamesThatCollide(nn.Module):
    """Module, buffer and op names that clash with those of generated code."""

    def __init__(self):
        super().__init__()
        self.add_module("0", nn.Linear(6, 6))
        self.register_buffer("add", torch.ones(6))
        self.register_buffer("relu", torch.ones(6))
        self.code = nn.Linear(6, 6)
        self.graph = nn.Linear(6, 6)

    def forward(self, x):
        return torch.relu(getattr(self, "0")(x) + self.add) + self.relu + self.graph(self.code(x))


class Pair(NamedTuple):
    tensor: torch.Tensor
    number: int


@dataclass
class Prediction:
    score: torch.Tensor
    label: torch.Tensor


torch.export.register_dataclass(Prediction)


@case(ROWS)
class NamedResults(nn.Module):
    def forward(self, x):
        return Pair(x + 1, 3), Prediction(x.mean(1), x.argmax(1))


@case(ROWS, ROWS, key=ROWS)
class AnyArguments(nn.Module):
    def forward(self, *rows, **named):
        return sum(rows) + named["key"]


@case(ROWS, 5, dynamic_shapes={"x": None, "n": Dim.DYNAMIC})
class NumberAsInput(nn.Module):
    def forward(self, x, n):
        return x * n, torch.ones(n), n + 1


@case(ROWS)
class WritesToParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x):
        with torch.no_grad():
            self.weight.add_(1)
        return x * self.weight


@case(ROWS)
class FillInPieces(nn.Module):
    def forward(self, x):
        y = x.new_zeros(4, 8)
        y[:, 1:7] = x
        y[0] = 0
        y.t_()
        return y


@case(ROWS)
class ReturnsWrittenBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(4, 6, dtype=torch.float64))
        self.register_buffer("state", torch.zeros(4, 6))

    def forward(self, x):
        self.seen.copy_(x)
        self.seen.add_(x[0])
        self.state[0] = x[0]
        self.state = self.state + 1
        return self.seen, self.seen.view(-1), self.seen.t(), self.state.sum()


@case(ROWS)
class BroadcastIntoBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("state", torch.zeros(4, 6))
        self.register_buffer("wide", torch.zeros(4, 6, dtype=torch.float64))

    def forward(self, x):
        y = x.clone()
        y[0] = 1
        self.state.copy_(x[:1])
        self.wide.copy_(x[:1])
        return y, self.state.sum(), self.wide + 0


@case(tensor(6, 4))
class CopyOfTransposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("state", torch.zeros(4, 6))

    def forward(self, x):
        self.state.copy_(x.t())
        return self.state.view(-1) * 2, self.state.sum(1)


@case(ROWS)
class ConditionWithManyResults(nn.Module):
    def forward(self, x):
        def up(t):
            return {"p": t + 1, "q": (t * 2, t.sum())}

        def down(t):
            return {"p": t - 1, "q": (t * 3, t.mean())}

        return torch.cond(x.max() > 0, up, down, (x,))


@case(ROWS)
class Scanned(nn.Module):
    def forward(self, x):
        from torch._higher_order_ops.scan import scan

        return scan(lambda carry, row: (carry + row, (carry * row).clone()), torch.zeros(6), x)


@torch.library.custom_op("graphpress_tests::bump", mutates_args=("x",))
def bump(x: torch.Tensor, by: float) -> torch.Tensor:
    x.add_(by)
    return x.sum(0)


@bump.register_fake
def _(x: torch.Tensor, by: float) -> torch.Tensor:
    return x.new_empty(x.shape[1:])


@case(ROWS)
class CustomOpThatWrites(nn.Module):
    def forward(self, x):
        y = x * 1
        total = bump(y, 2.0)
        return y * 2 + total


@case(tensor(2, 3, 8, 8))
class MemoryFormats(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x.to(memory_format=torch.channels_last))
        return y, y.contiguous().to(torch.float16, copy=True), torch.zeros(3, device=x.device, layout=torch.strided)


@case(ROWS)
class Complex(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).abs(), torch.view_as_real(torch.fft.fft(x))


@cache
def captured(name: str) -> Graph:
    """The graph of a zoo model. Tests share it: it must not be edited, nor what it holds be written to."""
    build, args, kwargs, dynamic_shapes = ZOO[name]
    return from_module(build(), copy.deepcopy(args), copy.deepcopy(kwargs), dynamic_shapes)


def owning_its_tensors(graph: Graph) -> Graph:
    """A copy of the graph whose tensors are its own."""
    graph = graph.clone()
    for constant in graph.constants.values():
        copied = constant.tensor.detach().clone()
        constant._tensor = (
            nn.Parameter(copied, constant.tensor.requires_grad) if constant.kind == "parameter" else copied
        )
    return graph


def flat_inputs(name: str) -> list[Any]:
    """The leaves of the inputs of a zoo model."""
    _, args, kwargs, _ = ZOO[name]
    return pytree.tree_leaves(copy.deepcopy((args, kwargs)))


def assert_same(got: Any, expected: Any) -> None:
    """Nested results are equal, bit for bit, in one structure."""
    got_leaves, got_spec = pytree.tree_flatten(got)
    expected_leaves, expected_spec = pytree.tree_flatten(expected)
    assert got_spec == expected_spec
    for a, b in zip(got_leaves, expected_leaves, strict=True):
        if isinstance(b, torch.Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
        else:
            assert (a, type(a)) == (b, type(b))
