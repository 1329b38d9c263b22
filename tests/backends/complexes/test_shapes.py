"""Complex tensors that are moved, joined, cast and made in saved files, held to torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.backends.complexes.saved import BACKENDS, differing

torch.set_num_threads(1)
_GENERATOR = torch.Generator().manual_seed(0)
INPUTS = tuple(torch.randn(shape, generator=_GENERATOR) for shape in ((2, 4, 6, 2), (2, 4, 6, 2), (2, 4, 6)))


def with_row(x, row):
    """Return `x` with another row, which is written in place."""
    x = x.clone()
    x[:, 1] = row
    return x


def with_real_part(x, part):
    """Return `x` with another real part, which is written in place."""
    x = x.clone()
    x.real = part
    return x


FUNCTIONS = {
    "to c": lambda a, b, r: r.to(torch.complex64),
    "to real": lambda a, b, r: a.real.to(torch.complex64) * a,
    "cdouble": lambda a, b, r: a.to(torch.complex128).to(torch.complex64),
    "reshape": lambda a, b, r: a.reshape(8, 6),
    "view perm": lambda a, b, r: a.permute(2, 0, 1).reshape(6, 8),
    "transpose": lambda a, b, r: a.transpose(0, 2),
    "slice": lambda a, b, r: a[:, 1:3, ::2],
    "select": lambda a, b, r: a[:, 1],
    "last element": lambda a, b, r: a[..., -1],
    "cat": lambda a, b, r: torch.cat([a, b], 1),
    "cat mixed": lambda a, b, r: torch.cat([r.to(a.dtype), b], 1),
    "cat real": lambda a, b, r: torch.cat([r, b], 1),
    "stack": lambda a, b, r: torch.stack([a, b], 1),
    "expand": lambda a, b, r: a[:, :1].expand(2, 4, 6),
    "unsqueeze": lambda a, b, r: a.unsqueeze(1),
    "squeeze": lambda a, b, r: a[:1].squeeze(0),
    "index": lambda a, b, r: a[:, torch.tensor([2, 0, 1])],
    "index bool where": lambda a, b, r: torch.where(r > 0, a, b),
    "where s": lambda a, b, r: torch.where(r > 0, a, 0.0),
    "where cs": lambda a, b, r: torch.where(r > 0, a, 1j),
    "index_select": lambda a, b, r: a.index_select(1, torch.tensor([2, 0, 1])),
    "gather": lambda a, b, r: a.gather(1, torch.zeros(2, 1, 6, dtype=torch.long)),
    "take_along": lambda a, b, r: torch.take_along_dim(a, torch.zeros(2, 1, 6, dtype=torch.long), 1),
    "flip": lambda a, b, r: a.flip(-1),
    "roll": lambda a, b, r: a.roll(2, -1),
    "fftshift": lambda a, b, r: torch.fft.fftshift(a),
    "ifftshift": lambda a, b, r: torch.fft.ifftshift(a, dim=-1),
    "repeat": lambda a, b, r: a.repeat(1, 2, 1),
    "tile": lambda a, b, r: a.tile(2),
    "repeat_interleave": lambda a, b, r: a.repeat_interleave(2, 1),
    "unbind": lambda a, b, r: a.unbind(1)[2],
    "split": lambda a, b, r: a.split(2, 1)[1],
    "chunk": lambda a, b, r: a.chunk(3, -1)[1],
    "chunk2": lambda a, b, r: sum(a.chunk(2, -1)),
    "sum": lambda a, b, r: a.sum(-1),
    "sum all": lambda a, b, r: a.sum(),
    "mean": lambda a, b, r: a.mean(1),
    "mean all": lambda a, b, r: a.mean(),
    "cumsum": lambda a, b, r: a.cumsum(-1),
    "masked_fill": lambda a, b, r: a.masked_fill(r > 0, 0),
    "masked_fill c": lambda a, b, r: a.masked_fill(r > 0, 1 + 2j),
    "tril": lambda a, b, r: a.tril(),
    "diagonal": lambda a, b, r: a.diagonal(0, 1, 2),
    "pad": lambda a, b, r: F.pad(a, [1, 2]),
    "pad reflect": lambda a, b, r: F.pad(a, [1, 2], mode="reflect"),
    "pad circular": lambda a, b, r: F.pad(a, [1, 2], mode="circular"),
    "assigned": lambda a, b, r: with_row(a, b[:, 2]),
    "assigned real": lambda a, b, r: with_row(a, r[:, 2]),
    "assigned zero": lambda a, b, r: with_row(a, torch.zeros(())),
    "index_put": lambda a, b, r: a.index_put((torch.tensor([0, 1]),), b),
    "scatter": lambda a, b, r: a.scatter(1, torch.zeros(2, 1, 6, dtype=torch.long), b),
    "slice_scatter": lambda a, b, r: torch.slice_scatter(a, b[:, :2], 1, 1, 3),
    "select_scatter": lambda a, b, r: torch.select_scatter(a, b[:, 0], 1, 1),
    "zeros": lambda a, b, r: torch.zeros(2, 4, 6, dtype=a.dtype) + a,
    "ones_like": lambda a, b, r: torch.ones_like(a) * a,
    "full": lambda a, b, r: torch.full((2, 4, 6), 1 + 2j) * a,
    "zeros_like r": lambda a, b, r: torch.zeros_like(r, dtype=a.dtype) + a,
    "new_zeros": lambda a, b, r: torch.cat([a, a.new_zeros(2, 1, 6)], 1),
    "eye": lambda a, b, r: a @ torch.eye(6, dtype=a.dtype),
    "tensor const": lambda a, b, r: a * torch.tensor([1j, 2, 3, 4, 5, 6]),
    "inplace": lambda a, b, r: a.clone().mul_(b).add_(1),
    "flatten": lambda a, b, r: a.flatten().unflatten(0, (8, 6)),
    "movedim": lambda a, b, r: a.movedim(0, -1),
    "squeeze all": lambda a, b, r: a[:1].squeeze(),
    "squeeze nothing": lambda a, b, r: a.squeeze(),
    "view_as_real slice": lambda a, b, r: torch.view_as_real(a)[..., 1],
    "swap": lambda a, b, r: torch.view_as_complex(torch.view_as_real(a).flip(-1)),
    "trace": lambda a, b, r: a[0].trace(),
    "differences": lambda a, b, r: a.diff(dim=-1),
    "real setter": lambda a, b, r: with_real_part(a, r),
    "unfold": lambda a, b, r: a.unfold(-1, 3, 1),
    "hstack": lambda a, b, r: torch.hstack([a, b]),
    "meshgrid": lambda a, b, r: torch.meshgrid(a[0, 0], b[0, 0], indexing="ij")[0],
    "clone": lambda a, b, r: a.clone().contiguous(),
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_saved_files_move_and_make_complex_numbers_as_torch_does(backend, tmp_path):
    assert differing(backend, tmp_path, FUNCTIONS, INPUTS, complex_inputs=2) == {}
