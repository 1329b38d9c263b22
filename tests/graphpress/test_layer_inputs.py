"""A layer as a product of matrices, against the layer itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from graphpress.layer_inputs import LayerMatrix

LAYERS = {
    "linear": ("linear", (5, 8), (3, 4, 8), {}),
    "linear without a batch": ("linear", (5, 8), (8,), {}),
    "convolution": ("conv2d", (6, 4, 3, 3), (2, 4, 7, 6), {"padding": (1, 1)}),
    "strided": ("conv2d", (6, 4, 3, 2), (2, 4, 9, 8), {"stride": (2, 3), "padding": (1, 0)}),
    "dilated": ("conv2d", (6, 4, 3, 3), (2, 4, 9, 8), {"dilation": (2, 1), "padding": (2, 1)}),
    "grouped": ("conv2d", (6, 2, 3, 3), (2, 4, 7, 7), {"groups": 2}),
    "depthwise": ("conv2d", (8, 1, 3, 3), (2, 4, 7, 7), {"groups": 4, "padding": (1, 1)}),
    "same padding": ("conv2d", (6, 4, 4, 2), (2, 4, 7, 7), {"padding": "same"}),
    "one axis": ("conv1d", (6, 2, 5), (2, 4, 11), {"groups": 2, "stride": 2, "padding": 2}),
    "three axes": ("conv3d", (4, 3, 2, 3, 2), (1, 3, 4, 5, 4), {"stride": (1, 2, 1), "padding": (0, 1, 1)}),
    "without a batch": ("conv2d", (6, 4, 3, 3), (4, 7, 6), {"padding": (1, 1)}),
    "transposed": ("conv_transpose2d", (4, 6, 3, 3), (2, 4, 5, 4), {"stride": (2, 2), "padding": (1, 1)}),
    "transposed, all at once": (
        "conv_transpose2d",
        (4, 3, 3, 2),
        (2, 4, 5, 4),
        {"stride": (3, 2), "padding": (1, 2), "output_padding": (1, 0), "groups": 2, "dilation": (2, 3)},
    ),
    "transposed, one axis": ("conv_transpose1d", (4, 2, 4), (2, 4, 5), {"stride": 2}),
    "transposed, three axes": ("conv_transpose3d", (2, 3, 2, 3, 2), (1, 2, 3, 3, 3), {"stride": (2, 1, 1)}),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    op, shape, input_shape, arguments = LAYERS[request.param]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    data = torch.randn(input_shape, generator=generator, dtype=torch.float64)
    return LayerMatrix.of(op, shape, arguments), weight, data, getattr(functional, op)(data, weight, **arguments)


def test_rows_times_matrices_is_what_the_layer_computes(layer):
    matrix, weight, data, expected = layer
    product = matrix.rows(data) @ matrix.to_matrices(weight).transpose(1, 2)  # [groups, rows, outputs]
    axis = expected.ndim - 1 - matrix.spatial
    by_row = expected.movedim(axis, -1).reshape(-1, expected.shape[axis])
    torch.testing.assert_close(product.transpose(0, 1).reshape(by_row.shape), by_row)


def test_matrices_go_back_to_the_weight(layer):
    matrix, weight, _, _ = layer
    assert torch.equal(matrix.from_matrices(matrix.to_matrices(weight)), weight)
    assert matrix.to_matrices(weight).shape[-1] == matrix.columns


def test_some_rows_are_rows_of_all(layer):
    matrix, _, data, _ = layer
    every, some = matrix.rows(data), matrix.rows(data, 3)
    assert some.shape[1] == min(3, every.shape[1])
    for row in some.transpose(0, 1):
        assert (every.transpose(0, 1) == row).flatten(1).all(1).any()
    assert torch.equal(some, matrix.rows(data, 3))


def test_energies_are_the_diagonal_of_the_second_moments(layer):
    matrix, _, data, _ = layer
    rows = matrix.rows(data)
    moments = rows.transpose(1, 2) @ rows
    torch.testing.assert_close(matrix.column_energies(data), moments.diagonal(dim1=1, dim2=2), rtol=1e-5, atol=1e-5)
