"""The column by column rounding, against the algorithm as the paper derives it."""

from __future__ import annotations

import pytest
import torch

from graphpress.ir import reference
from graphpress.passes.config import QuantizationSpec
from graphpress.quantization.refinement.rounding import BLOCK, Grid, gptq_places

CODES = ["int2", "uint2", "int4", "uint4", "int8", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"]
BLOCKS = {"per tensor": (), "per channel": (1, -1), "blocks": (1, 4), "blocks both ways": (2, 8)}


def problem(columns: int = 16, outputs: int = 6, rows: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(columns + outputs)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(rows, columns, generator=generator, dtype=torch.float64) @ mixing
    return torch.randn(outputs, columns, generator=generator), inputs.T @ inputs / rows


def grid_for(weight: torch.Tensor, dtype: str, block: tuple[int, ...], qscheme: str = "symmetric") -> Grid:
    spec = QuantizationSpec(dtype=dtype, qscheme=qscheme)
    low, high = reference.block_range(weight, block)
    bounds = {} if spec.element_type.is_floating else {"quant_min": spec.quant_min, "quant_max": spec.quant_max}
    symmetric = qscheme == "symmetric"
    qparams = reference.qparams_from_range(low, high, dtype=spec.element_type, symmetric=symmetric, **bounds)
    return Grid.of(spec, qparams, tuple(weight.shape), lambda tensor: tensor[None])


def plain_gptq(weight, hessian, grid, damping, activation_order=False):
    """Optimal brain quantization in a fixed order (arXiv 2210.17323, equations 2 and 3), without any factorization."""
    columns = weight.shape[1]
    hessian = hessian.clone()
    order = sorted(range(columns), key=lambda c: -float(hessian[c, c])) if activation_order else range(columns)
    dead = [c for c in range(columns) if hessian[c, c] == 0]
    hessian += damping * hessian.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    for column in dead:
        hessian[column, column] = 1.0
    inverse = torch.linalg.inv(hessian)
    weight = weight.double().clone()[None]
    places = torch.zeros(weight.shape, dtype=torch.int32)
    for column in order:
        one = grid.columns(slice(column, column + 1))
        place = one.places(weight[..., column : column + 1])
        places[..., column : column + 1] = place
        error = (weight[..., column] - one.values(place).double()[..., 0]) / inverse[column, column]
        weight -= error[..., None] * inverse[column]
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return places


def error_of(weight, places, hessian, grid):
    lost = weight.double() - grid.values(places)[0].double()
    return float(((lost @ hessian) * lost).sum())


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("activation_order", [False, True])
def test_codes_are_those_of_the_plain_algorithm(dtype, block, activation_order):
    weight, hessian = problem()
    grid = grid_for(weight, dtype, block)
    places = gptq_places(weight[None], hessian[None], grid, damping=0.01, activation_order=activation_order)
    assert torch.equal(places, plain_gptq(weight, hessian, grid, 0.01, activation_order))


@pytest.mark.parametrize("dtype", ["int4", "uint8"])
def test_asymmetric_codes_are_those_of_the_plain_algorithm(dtype):
    weight, hessian = problem()
    grid = grid_for(weight, dtype, (1, -1), "asymmetric")
    places = gptq_places(weight[None], hessian[None], grid, damping=0.0, activation_order=False)
    assert torch.equal(places, plain_gptq(weight, hessian, grid, 0.0))


def test_more_columns_than_are_updated_at_once():
    weight, hessian = problem(columns=2 * BLOCK + 7, outputs=3, rows=1000)
    grid = grid_for(weight, "int4", (1, -1))
    places = gptq_places(weight[None], hessian[None], grid, damping=0.01, activation_order=False)
    assert torch.equal(places, plain_gptq(weight, hessian, grid, 0.01))


@pytest.mark.parametrize("dtype", ["int2", "int4", "float4_e2m1fn"])
@pytest.mark.parametrize("activation_order", [False, True])
def test_the_output_error_is_below_that_of_rounding_to_nearest(dtype, activation_order):
    weight, hessian = problem(columns=32, outputs=16, rows=200)
    grid = grid_for(weight, dtype, (1, -1))
    places = gptq_places(weight[None], hessian[None], grid, damping=0.01, activation_order=activation_order)
    assert error_of(weight, places, hessian, grid) < 0.8 * error_of(weight, grid.places(weight[None]), hessian, grid)


@pytest.mark.parametrize("activation_order", [False, True])
def test_columns_that_never_get_an_input_are_rounded_to_nearest(activation_order):
    weight, hessian = problem()
    for column in (0, 5):
        hessian[column], hessian[:, column] = 0.0, 0.0
    grid = grid_for(weight, "int4", (1, -1))
    places = gptq_places(weight[None], hessian[None], grid, damping=0.01, activation_order=activation_order)
    assert torch.equal(places, plain_gptq(weight, hessian, grid, 0.01, activation_order))
    assert torch.equal(places[..., [0, 5]], grid.places(weight[None])[..., [0, 5]])


def test_inputs_that_depend_on_each_other_need_no_damping():
    weight, _ = problem(columns=8)
    one = torch.arange(1.0, 9.0, dtype=torch.float64)
    hessian = torch.outer(one, one)  # rank one
    grid = grid_for(weight, "int4", ())
    places = gptq_places(weight[None], hessian[None], grid, damping=0.0, activation_order=False)
    nearest = error_of(weight, grid.places(weight[None]), hessian, grid)
    assert error_of(weight, places, hessian, grid) < 0.5 * nearest


def test_a_layer_without_any_input_is_rounded_to_nearest():
    weight, hessian = problem()
    grid = grid_for(weight, "int4", ())
    places = gptq_places(weight[None], torch.zeros_like(hessian)[None], grid, damping=0.01, activation_order=True)
    assert torch.equal(places, grid.places(weight[None]))


def test_groups_have_nothing_to_do_with_each_other():
    problems = [problem(outputs=6), problem(outputs=6, rows=30)]
    weight = torch.stack([w for w, _ in problems])
    grid = Grid(QuantizationSpec(dtype="int4"), torch.full(weight.shape, 0.25), None, None)
    how = {"damping": 0.01, "activation_order": True}
    together = gptq_places(weight, torch.stack([h for _, h in problems]), grid, **how)
    for group, (one, hessian) in enumerate(problems):
        alone = Grid(grid.spec, grid.scale[:1], None, None)
        assert torch.equal(together[group : group + 1], gptq_places(one[None], hessian[None], alone, **how))
