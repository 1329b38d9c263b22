"""A model whose code caches tensors works after a capture as before."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from graphpress.backends.exporting import export
from graphpress.ir import from_module
from graphpress.ir.torch.cached_results import fake_results_dropped
from graphpress.quantization import Quantizer

torch.set_num_threads(1)


@functools.lru_cache(maxsize=4)
def positions(size: int) -> torch.Tensor:
    return torch.arange(size, dtype=torch.float32)


@functools.cache
def pair(size: int) -> tuple[str, list[torch.Tensor]]:
    return "nested", [torch.ones(size)]


@functools.cache
def name(size: int) -> list[int]:
    return [size]


class Positioned(nn.Module):
    """Caches at module level, of a method and of an object."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def scale(self, size: int) -> torch.Tensor:
        return torch.full((size,), 2.0)

    def forward(self, x):
        name(1)
        rows = x.reshape(x.shape[0], -1)
        return self.linear(rows) * self.scale(4) + positions(4) * pair(4)[1][0]


@pytest.fixture(autouse=True)
def empty_caches():
    for cache in (positions, pair, name, Positioned.scale):
        cache.cache_clear()


@pytest.mark.parametrize(
    "capture",
    [
        lambda model, x: from_module(model, (x,)),
        lambda model, x: Quantizer(model).prepare((x,)),
        lambda model, x: Quantizer(model).prepare((x,), strict=True),
        lambda model, x: export(model, (x,)),
    ],
    ids=["capture", "prepare", "strict", "conversion"],
)
def test_a_model_with_cached_tensors_runs_after_a_capture(capture):
    torch.manual_seed(0)
    model, x = Positioned().eval(), torch.randn(2, 4)
    expected = model.linear(x) * 2 + torch.arange(4.0)
    capture(model, x)
    got = model(x)
    assert type(got) is torch.Tensor
    assert torch.equal(got, expected)
    got.sum().backward()


def test_results_without_fake_tensors_stay_cached():
    kept = name(1)
    model = Positioned()
    from_module(model, (torch.randn(2, 4),))
    assert name(1) is kept
    warm = positions(4)
    model(torch.randn(2, 4))
    from_module(model, (torch.randn(2, 4),))
    assert positions(4) is warm


def test_a_cache_made_after_the_first_capture_is_found_for_a_model_of_a_new_class():
    from_module(Positioned(), (torch.randn(2, 4),))
    late = functools.cache(lambda size: torch.ones(size))

    class Late(nn.Module):
        def forward(self, x):
            return x + late(4)

    model = Late()
    with fake_results_dropped(model):
        assert model(torch.zeros(4)).sum() == 4
    assert late.cache_info().currsize == 1
    late.cache_clear()
    from_module(model, (torch.randn(4),))
    assert late.cache_info().currsize == 0
