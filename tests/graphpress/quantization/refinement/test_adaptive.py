"""Rounding by gradient descent, against the paper's objective by autograd, and against trying everything."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from graphpress.layer_inputs import InputMoments, fitted_weight, output_error
from graphpress.passes.config import AdaptiveRounding
from graphpress.quantization.refinement import rounding
from graphpress.quantization.refinement.rounding import adaptive_places
from tests.graphpress.quantization.refinement.test_gptq import grid_for


def problem(columns, outputs, rows=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator)
    inputs = torch.randn(1, rows, columns, generator=generator) @ mixing
    exact = inputs + 0.05 * torch.randn(1, rows, columns, generator=generator)
    moments = InputMoments()
    for part in (slice(0, 77), slice(77, None)):
        moments.add(inputs[:, part], exact[:, part])
    return torch.randn(1, outputs, columns, generator=generator), inputs, exact, moments


def mean_squared(weight, quantized, inputs, exact):
    got, wanted = inputs.double() @ quantized.double().mT, exact.double() @ weight.double().mT
    return (got - wanted).square().mean(1), wanted.square().mean(1)


def test_moments_give_the_output_error():
    weight, inputs, exact, moments = problem(8, 5)
    quantized = grid_for(weight[0], "int2", ()).values(grid_for(weight[0], "int2", ()).places(weight))
    error, energy = mean_squared(weight, quantized, inputs, exact)
    torch.testing.assert_close(output_error(weight, quantized, moments) + energy, error, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("damping", [0.01, 0.1])
def test_the_fitted_weight_is_the_least_squares_solution(damping):
    weight, inputs, exact, moments = problem(8, 5)
    x, y, w = inputs[0].double(), exact[0].double(), weight[0].double()
    ridge = (damping * x.square().mean(0).mean() * len(x)).sqrt() * torch.eye(8, dtype=torch.float64)
    solution = torch.linalg.lstsq(torch.cat([x, ridge]), torch.cat([y @ w.T, ridge @ w.T])).solution.T
    torch.testing.assert_close(fitted_weight(weight, moments, damping)[0], solution, rtol=1e-4, atol=1e-4)


def by_autograd(weight, inputs, exact, scale, iterations, rate, regularization):
    """The objective of the paper on the data itself, with torch's Adam; symmetric int4."""
    low = torch.floor(weight / scale)
    fraction = (weight / scale - low).clamp(0, 1)
    v = torch.nn.Parameter(-torch.log(1.2 / (fraction + 0.1) - 1))
    wanted = (exact.double() @ weight.double().mT).float()
    optimizer = torch.optim.Adam([v], lr=rate)
    nearest = (weight / scale).round().clamp(-8, 7) * scale
    nearest_error = mean_squared(weight, nearest, inputs, exact)[0] - mean_squared(weight, weight, inputs, exact)[0]
    for iteration in range(iterations):
        h = (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)
        quantized = (low + h).clamp(-8, 7) * scale
        loss = (inputs @ quantized.mT - wanted).square().mean(1).sum() * weight.numel() / nearest_error.sum()
        progress = iteration / iterations
        if progress >= 0.2:
            beta = 2 + 9 * (1 + math.cos(math.pi * (progress - 0.2) / 0.8))
            loss = loss + regularization * (1 - (2 * h - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (low + (v >= 0)).clamp(-8, 7).int()


def test_codes_are_those_of_the_papers_objective(monkeypatch):
    weight, inputs, exact, moments = problem(12, 6)
    grid = grid_for(weight[0], "int4", ())
    how = AdaptiveRounding(iterations=100, learning_rate=0.05)
    monkeypatch.setattr(rounding, "turned_one_by_one", lambda is_up, *_: is_up)
    ours = adaptive_places(weight, moments, grid, how)
    theirs = by_autograd(weight, inputs, exact, grid.scale, 100, 0.05, how.regularization)
    assert (ours != grid.places(weight)).float().mean() > 0.05, "nothing was chosen"
    assert (ours == theirs).float().mean() > 0.97


def test_no_single_turn_would_lower_the_error():
    weight, _, _, moments = problem(24, 5)
    grid = grid_for(weight[0], "int4", (1, -1))
    places = adaptive_places(weight, moments, grid, AdaptiveRounding(iterations=20))
    error = output_error(weight, grid.values(places), moments)
    lower = torch.where(grid.values(grid.places(weight)) <= weight, grid.places(weight), grid.places(weight) - 1)
    other = grid.clamped(lower) + grid.clamped(lower + 1) - places
    for column in range(24):
        turned = places.clone()
        turned[..., column] = other[..., column]
        assert (output_error(weight, grid.values(turned), moments) >= error - 1e-6).all()


def test_the_error_is_near_that_of_the_best_choice():
    weight, _, _, moments = problem(10, 4)
    grid = grid_for(weight[0], "int4", ())
    places = adaptive_places(weight, moments, grid, AdaptiveRounding())
    lower = torch.floor(weight / grid.scale).int()
    best = torch.full((1, 4), torch.inf, dtype=torch.float64)
    for ups in itertools.product([0, 1], repeat=10):
        best = torch.minimum(best, output_error(weight, grid.values(grid.clamped(lower + torch.tensor(ups))), moments))
    floor = output_error(weight, weight, moments).sum()
    ours, nearest = (output_error(weight, grid.values(p), moments).sum() - floor for p in (places, grid.places(weight)))
    assert ours - (best.sum() - floor) < 0.5 * (nearest - (best.sum() - floor))


@pytest.mark.parametrize("dtype", ["uint2", "int4", "int8", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"])
@pytest.mark.parametrize("block", [(), (1, -1), (1, 4)])
def test_every_code_is_one_of_the_two_next_to_the_weight(dtype, block):
    weight, _, _, moments = problem(16, 6)
    grid = grid_for(weight[0], dtype, block)
    values = grid.values(adaptive_places(weight, moments, grid, AdaptiveRounding(iterations=50)))
    nearest = grid.places(weight)
    closest = torch.minimum(*((grid.values(grid.clamped(nearest + step)) - values).abs() for step in (-1, 1)))
    assert ((values == grid.values(nearest)) | (closest == 0)).all()


def test_the_same_data_gives_the_same_codes():
    weight, _, _, moments = problem(16, 6)
    grid = grid_for(weight[0], "int4", ())
    how = AdaptiveRounding(iterations=50)
    assert torch.equal(adaptive_places(weight, moments, grid, how), adaptive_places(weight, moments, grid, how))
