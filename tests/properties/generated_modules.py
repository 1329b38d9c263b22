"""Random modules of nested submodules, with their inputs: plans that hypothesis draws, and what they build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.properties.generated_layers import DOMAINS, ELEMENTWISE, LENGTH, SIDE, WIDTH

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


# bodies


@attrs.frozen
class Layer:
    """A layer of the catalog."""

    name: str

    def build(self, domain: str) -> nn.Module:
        return DOMAINS[domain][self.name]()


@attrs.frozen
class Chain:
    parts: tuple[Body, ...]

    def build(self, domain: str) -> nn.Module:
        return nn.Sequential(*[part.build(domain) for part in self.parts])


@attrs.frozen
class Skip:
    """A residual connection."""

    inner: Body

    def build(self, domain: str) -> nn.Module:
        return _Skip(self.inner.build(domain))


@attrs.frozen
class Join:
    """Two branches, joined by a sum, a product, a concatenation, a condition or a maximum."""

    how: str
    left: Body
    right: Body

    def build(self, domain: str) -> nn.Module:
        return _Join(self.how, self.left.build(domain), self.right.build(domain), domain)


@attrs.frozen
class Twice:
    """The same submodule, called twice: the second time under another name, and on other values."""

    inner: Body

    def build(self, domain: str) -> nn.Module:
        return _Twice(self.inner.build(domain))


@attrs.frozen
class Tied:
    """Two copies of a body whose weights of two axes or more are the same parameters."""

    inner: Body

    def build(self, domain: str) -> nn.Module:
        return _tied(self.inner.build(domain), self.inner.build(domain))


@attrs.frozen
class Within:
    """A body of another domain."""

    domain: str
    inner: Body

    def build(self, domain: str) -> nn.Module:
        return _Within(domain, self.domain, self.inner.build(self.domain))


Body = Layer | Chain | Skip | Join | Twice | Tied | Within
HOWS = ("sum", "product", "cat", "difference", "maximum", "cond")


class _Skip(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class _Join(nn.Module):
    def __init__(self, how: str, left: nn.Module, right: nn.Module, domain: str) -> None:
        super().__init__()
        self.how, self.left, self.right = how, left, right
        self.axis = 2 if domain == "tokens" else 1
        if how == "cat":
            kinds = {"tokens": nn.Linear, "signals": nn.Conv1d, "images": nn.Conv2d}
            self.mixed = kinds[domain](2 * WIDTH, WIDTH, *([] if domain == "tokens" else [1]))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "cond":
            return torch.cond(x.abs().sum() > 1e-3, self.left, self.right, (x,))
        left, right = self.left(x), self.right(x)
        if self.how == "cat":
            return self.mixed(torch.cat([left, right], self.axis))
        joined: Tensor = {
            "sum": torch.add,
            "product": lambda a, b: a * torch.tanh(b),
            "difference": torch.sub,
            "maximum": torch.maximum,
        }[self.how](left, right)
        return joined


class _Twice(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = self.again = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.tanh(self.inner(x)))


def _tied(first: nn.Module, second: nn.Module) -> nn.Module:
    sources = dict(first.named_modules())
    for path, module in second.named_modules():
        for name, held in list(module._parameters.items()):
            if held is not None and held.ndim > 1:
                module._parameters[name] = sources[path]._parameters[name]
    return nn.Sequential(first, nn.Tanh(), second)


class _Within(nn.Module):
    def __init__(self, outer: str, domain: str, inner: nn.Module) -> None:
        super().__init__()
        self.outer, self.domain, self.inner = outer, domain, inner

    def forward(self, x: Tensor) -> Tensor:
        return moved(self.inner(moved(x, self.outer, self.domain)), self.domain, self.outer)


def moved(x: Tensor, source: str, target: str) -> Tensor:
    """Rearrange a value of one domain as one of another."""
    if source == target:
        return x
    signal = x.transpose(1, 2) if source == "tokens" else x.flatten(2)
    return signal.transpose(1, 2) if target == "tokens" else signal.reshape(x.shape[0], WIDTH, *SHAPES[target][1:])


SHAPES = {"tokens": (LENGTH, WIDTH), "signals": (WIDTH, LENGTH), "images": (WIDTH, SIDE, SIDE)}


# signatures


class _Root(nn.Module):
    """Takes and returns what a signature and a result form say, around a body of one domain."""

    def __init__(self, domain: str, body: nn.Module, result: str) -> None:
        super().__init__()
        self.domain, self.body, self.result = domain, body, result
        self.head = nn.Linear(WIDTH, 5)

    def _returned(self, x: Tensor) -> Any:
        y = moved(self.body(x), self.domain, "tokens")
        return RESULTS[self.result](self.head, x, y)


RESULTS: dict[str, Callable[[nn.Module, Tensor, Tensor], Any]] = {
    "value": lambda head, x, y: y,
    "head": lambda head, x, y: head(y.mean(1)),
    "pair": lambda head, x, y: (y, head(y)),
    "nested": lambda head, x, y: [y, {"pooled": y.amax(1), "logits": (head(y[:, 0]),)}],
    "twice": lambda head, x, y: (y, y),
    "with_none": lambda head, x, y: {"value": y, "loss": None},
    "with_input": lambda head, x, y: (x, y),
    "with_dtypes": lambda head, x, y: (y.float(), head(y).half(), (y > -1e3).all(-1), torch.arange(3) + x.shape[1]),
    "view": lambda head, x, y: (y, y.transpose(1, 2), y[:, 0]),
}


class One(_Root):
    def forward(self, x: Tensor) -> Any:
        return self._returned(x)


class Two(_Root):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self._returned(x + 0.5 * y)


class Listed(_Root):
    def forward(self, parts: list[Tensor]) -> Any:
        return self._returned(parts[0] * torch.sigmoid(parts[1]))


class Batch(_Root):
    def forward(self, batch: dict[str, Tensor]) -> Any:
        return self._returned(batch["value"] - batch["mean"])


class Optional(_Root):
    def forward(self, x: Tensor, extra: Tensor | None = None, scale: float = 0.5) -> Any:
        return self._returned(x * scale if extra is None else x + extra * scale)


class Ids(_Root):
    def __init__(self, domain: str, body: nn.Module, result: str) -> None:
        super().__init__(domain, body, result)
        self.embedding = nn.Embedding(12, WIDTH, padding_idx=0)

    def forward(self, ids: Tensor) -> Any:
        return self._returned(moved(self.embedding(ids), "tokens", self.domain))


class TiedHead(Ids):
    """A head that shares the embedding's weight."""

    def __init__(self, domain: str, body: nn.Module, result: str) -> None:
        super().__init__(domain, body, result)
        self.head = nn.Linear(WIDTH, 12, bias=False)
        self.head.weight = self.embedding.weight


class Masked(_Root):
    """A bool mask, which becomes an additive one, and lengths of integers."""

    def forward(self, x: Tensor, mask: Tensor, lengths: Tensor) -> Any:
        tokens = moved(x, self.domain, "tokens")
        added = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -4.0)
        inside = torch.arange(LENGTH) < lengths[:, None]
        kept = torch.where(inside[..., None], tokens + added[..., None], torch.zeros_like(tokens))
        return self._returned(moved(kept / lengths[:, None, None].to(x.dtype), "tokens", self.domain))


class Pixels(_Root):
    def forward(self, pixels: Tensor) -> Any:
        return self._returned(pixels.to(self.head.weight.dtype) / 255.0 - 0.5)


CALLS: dict[str, type[_Root]] = {
    "one": One,
    "two": Two,
    "list": Listed,
    "dict": Batch,
    "optional": Optional,
    "none": Optional,
    "ids": Ids,
    "tied": TiedHead,
    "masked": Masked,
    "pixels": Pixels,
}


@attrs.frozen
class Plan:
    """A module and its inputs, as values that print and compare."""

    domain: str
    body: Body
    call: str = "one"
    result: str = "value"
    dtype: str = "float32"
    batch: int = 2
    seed: int = 0

    @property
    def has_conditions(self) -> bool:
        """Return True if there is a `torch.cond`, which the converters do not all take: see docs/backends.md."""
        return "how='cond'" in repr(self.body)

    @property
    def computes_weights(self) -> bool:
        """Return True if a layer reads a weight that is not a parameter of that name, or one with a norm of its groups.

        A grouped transposed convolution has one scale for the channels of all groups, which a norm scales differently.
        """
        return any(part in repr(self.body) for part in ("'computed_", "'product_", "'transposed_grouped'"))

    def build(self) -> nn.Module:
        """Return the module, in eval mode, with the state of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = CALLS[self.call](self.domain, self.body.build(self.domain), self.result)
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    assert module.running_mean is not None
                    assert module.running_var is not None
                    module.running_mean.normal_(0, 0.2)
                    module.running_var.uniform_(0.5, 2)
                if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm) and module.weight is not None:
                    nn.init.normal_(module.weight, 1, 0.3)
                    nn.init.normal_(module.bias, 0, 0.2)
        return model.eval().to(DTYPES[self.dtype])

    def inputs(self, number: int = 0, batch: int | None = None) -> tuple[Any, ...]:
        """Return positional arguments; another number has other values."""
        size, dtype = batch or self.batch, DTYPES[self.dtype]
        random = torch.Generator().manual_seed(1000 * self.seed + number)

        def floats() -> Tensor:
            return torch.randn(size, *SHAPES[self.domain], generator=random).to(dtype)

        if self.call in ("ids", "tied"):
            return (torch.randint(12, (size, LENGTH), generator=random),)
        if self.call == "pixels":
            return (torch.randint(256, (size, *SHAPES[self.domain]), generator=random, dtype=torch.uint8),)
        if self.call == "masked":
            mask = torch.rand(size, LENGTH, generator=random) > 0.3
            return floats(), mask, torch.randint(1, LENGTH, (size,), generator=random, dtype=torch.int32)
        if self.call == "dict":
            return ({"value": floats(), "mean": floats()},)
        if self.call == "list":
            return ([floats(), floats()],)
        return tuple(floats() for _ in range({"two": 2, "optional": 2}.get(self.call, 1)))


# strategies


def bodies(domain: str, depth: int) -> st.SearchStrategy[Body]:
    """Bodies of a domain, nested up to `depth`."""
    structured = st.sampled_from([name for name in sorted(DOMAINS[domain]) if name not in ELEMENTWISE])
    layers = st.one_of(structured, structured, structured, st.sampled_from(sorted(ELEMENTWISE))).map(Layer)
    if not depth:
        return layers
    inner = st.deferred(lambda: bodies(domain, depth - 1))
    within = st.sampled_from([name for name in DOMAINS if name != domain]).flatmap(
        lambda other: st.builds(Within, st.just(other), bodies(other, depth - 1))
    )
    return st.one_of(
        layers,
        st.lists(inner, min_size=2, max_size=3).map(tuple).map(Chain),
        inner.map(Skip),
        st.builds(Join, st.sampled_from(HOWS), inner, inner),
        inner.map(Twice),
        inner.map(Tied),
        within,
    )


@st.composite
def plans(draw: st.DrawFn, depth: int = 2) -> Plan:
    """Modules with up to `depth` levels of nesting."""
    domain = draw(st.sampled_from(sorted(DOMAINS)))
    dtype = draw(st.sampled_from(["float32", "float32", "float32", "float16", "bfloat16"]))
    result = draw(st.sampled_from(list(RESULTS)))
    call = draw(st.sampled_from(list(CALLS)))
    return Plan(domain, draw(bodies(domain, depth)), call, result, dtype, draw(st.sampled_from([2, 1, 3])))
