"""Random modules that do things with their batch: some that every batch allows, some that only look so at a few."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 4  # even, and a batch that occurs


class Steps(nn.Module):
    """Runs steps one after the other: `(batch, 3, 4)` to whatever they make of it."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        generator = torch.Generator().manual_seed(0)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH, generator=generator))
        self.table = nn.Parameter(torch.randn(WIDTH, WIDTH, generator=generator))
        self.rows = nn.Parameter(torch.randn(64, WIDTH, generator=generator))
        self.two = torch.tensor(2.0)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = STEPS[name](self, x)
        return x


@st.composite
def batch_modules(draw: st.DrawFn, longest: int = 4) -> Steps:
    """A module of up to `longest` steps."""
    return Steps(draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=longest)))


STEPS: dict[str, Callable[[Steps, Tensor], Tensor]] = {}


def _step(function: Callable[[Steps, Tensor], Tensor]) -> Callable[[Steps, Tensor], Tensor]:
    STEPS[function.__name__.strip("_")] = function
    return function


@_step
def _linear(m: Steps, x: Tensor) -> Tensor:
    return F.linear(x, m.table)


@_step
def _spell_out_the_batch(m: Steps, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1, WIDTH)


@_step
def _heads(m: Steps, x: Tensor) -> Tensor:
    batch = x.size(0)
    return x.reshape(batch, -1, 2, 2).transpose(1, 2).reshape(batch * 2, -1, 2).reshape(batch, -1, WIDTH)


@_step
def _merge_with_the_batch(m: Steps, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


@_step
def _merge_by_minus_one(m: Steps, x: Tensor) -> Tensor:
    return x.reshape(-1, 2, WIDTH)


@_step
def _two_rows(m: Steps, x: Tensor) -> Tensor:
    return x.reshape(2, -1, WIDTH)


@_step
def _four_rows(m: Steps, x: Tensor) -> Tensor:
    return x.reshape(WIDTH, -1, WIDTH)


@_step
def _class_token(m: Steps, x: Tensor) -> Tensor:
    return torch.cat([m.token.expand(x.shape[0], -1, -1), x], dim=1)


@_step
def _row_more(m: Steps, x: Tensor) -> Tensor:
    return torch.cat([x, torch.zeros(1, *x.shape[1:])])


@_step
def _twice_along_the_batch(m: Steps, x: Tensor) -> Tensor:
    return torch.cat([x, x.flip(0)])


@_step
def _repeat(m: Steps, x: Tensor) -> Tensor:
    return x.repeat(2, *[1] * (x.ndim - 1))


@_step
def _positions(m: Steps, x: Tensor) -> Tensor:
    return x + m.rows[torch.arange(x.shape[-2])]


@_step
def _positions_of_the_batch(m: Steps, x: Tensor) -> Tensor:
    return x + F.embedding(torch.arange(x.shape[0]), m.rows).view(x.shape[0], *[1] * (x.ndim - 2), WIDTH)


@_step
def _slice_by_the_batch(m: Steps, x: Tensor) -> Tensor:
    return x + m.rows[: x.shape[0]].view(-1, *[1] * (x.ndim - 2), WIDTH)


@_step
def _mask(m: Steps, x: Tensor) -> Tensor:
    return x.masked_fill(torch.ones(x.shape[-2:]).tril() == 0, -1.0)


@_step
def _mask_of_the_batch(m: Steps, x: Tensor) -> Tensor:
    mask = torch.arange(x.shape[0]) < x.shape[0] - 1
    return torch.where(mask.view(-1, *[1] * (x.ndim - 1)), x, torch.zeros_like(x))


@_step
def _mean_by_hand(m: Steps, x: Tensor) -> Tensor:
    return x - x.sum(0, keepdim=True) / x.shape[0]


@_step
def _times_the_batch(m: Steps, x: Tensor) -> Tensor:
    return x * (2 * x.shape[0] - 1)


@_step
def _filled_with_the_batch(m: Steps, x: Tensor) -> Tensor:
    return x + torch.full((WIDTH,), x.shape[0])


@_step
def _tensor_of_the_batch(m: Steps, x: Tensor) -> Tensor:
    return x * torch.tensor([1.0, 2.0, 3.0, float(x.ndim)]) + torch.tensor(x.shape[0])


@_step
def _float_of_the_batch(m: Steps, x: Tensor) -> Tensor:
    return x * x.shape[0] ** -0.5


@_step
def _half_of_the_batch(m: Steps, x: Tensor) -> Tensor:
    return x[: x.shape[0] // 2 + 1]


@_step
def _even_half(m: Steps, x: Tensor) -> Tensor:
    doubled = torch.cat([x, x])
    return doubled.reshape(2, doubled.shape[0] // 2, *x.shape[1:]).sum(0)


@_step
def _first_rows(m: Steps, x: Tensor) -> Tensor:
    return x[:2]


@_step
def _but_the_first(m: Steps, x: Tensor) -> Tensor:
    return x[1:]


@_step
def _size_of_first_rows(m: Steps, x: Tensor) -> Tensor:
    return x * x[:3].shape[0]


@_step
def _last_row(m: Steps, x: Tensor) -> Tensor:
    return x[-1].unsqueeze(0)


@_step
def _squeeze(m: Steps, x: Tensor) -> Tensor:
    return x.squeeze().unsqueeze(0)


@_step
def _chunk(m: Steps, x: Tensor) -> Tensor:
    return sum(part.sum(0, keepdim=True) for part in x.chunk(2))


@_step
def _rows_one_by_one(m: Steps, x: Tensor) -> Tensor:
    return torch.stack([row * 2 for row in x])


@_step
def _count(m: Steps, x: Tensor) -> Tensor:
    for _ in range(x.shape[0]):
        x = x + 1
    return x


@_step
def _length(m: Steps, x: Tensor) -> Tensor:
    return x * len(x)


@_step
def _branch(m: Steps, x: Tensor) -> Tensor:
    return x * 2 if x.shape[0] > 3 else x


@_step
def _branch_at_one(m: Steps, x: Tensor) -> Tensor:
    return x.squeeze(0).unsqueeze(0) * 3 if x.shape[0] == 1 else x


@_step
def _branch_in_a_try(m: Steps, x: Tensor) -> Tensor:
    try:
        return x + 1 if x.shape[0] < 5 else x - 1
    except Exception:
        return x + 1


@_step
def _branch_that_is_none(m: Steps, x: Tensor) -> Tensor:
    assert x.shape[0] == x.size()[0]
    return x * 2 if x.shape[0] > 0 else x


@_step
def _smallest(m: Steps, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1) @ m.rows[: min(WIDTH, x.shape[0])].sum() if x.ndim == 1 else x * min(3, x.shape[0])


@_step
def _rows_against_rows(m: Steps, x: Tensor) -> Tensor:
    rows = x.flatten(1)
    return torch.softmax(rows @ rows.T, -1) @ rows.reshape(rows.shape[0], -1, WIDTH)[:, 0]


@_step
def _elements(m: Steps, x: Tensor) -> Tensor:
    return x.reshape(x.numel() // WIDTH, WIDTH)


@_step
def _shape_elements(m: Steps, x: Tensor) -> Tensor:
    return x.reshape(x.shape.numel() // WIDTH, WIDTH)


@_step
def _batch_as_length(m: Steps, x: Tensor) -> Tensor:
    return F.max_pool1d(x.flatten(1).T.unsqueeze(0), 2, ceil_mode=True).squeeze(0).T


@_step
def _convolution(m: Steps, x: Tensor) -> Tensor:
    return F.conv1d(x.reshape(x.shape[0], -1, WIDTH).transpose(1, 2), m.table.unsqueeze(-1)).transpose(1, 2)


@_step
def _in_place(m: Steps, x: Tensor) -> Tensor:
    x = x + 1
    x.relu_()
    return x.add_(0.5)


@_step
def _in_place_through_a_view(m: Steps, x: Tensor) -> Tensor:
    x = x + 1
    seen = x.reshape(x.shape[0], -1)
    x.mul_(2)
    return seen


@_step
def _new_of_the_same_shape(m: Steps, x: Tensor) -> Tensor:
    return x + x.new_zeros(x.shape) + torch.ones(x.shape[0], *x.shape[1:]) * m.two


@_step
def _dead(m: Steps, x: Tensor) -> Tensor:
    _ = x[:2].shape[0] * x
    return x


@_step
def _attention(m: Steps, x: Tensor) -> Tensor:
    x = x.reshape(x.shape[0], -1, WIDTH)
    return F.scaled_dot_product_attention(x, x, x)


@_step
def _einsum(m: Steps, x: Tensor) -> Tensor:
    return torch.einsum("b...c,dc->b...d", x, m.table)


@_step
def _modulo(m: Steps, x: Tensor) -> Tensor:
    return x * (x.shape[0] % 2)
