"""Fourier transforms as products with constant matrices, held to torch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import fft

from graphpress.backends.complexes import with_real_tensors
from graphpress.backends.complexes.fourier import LONGEST_MATRIX
from tests.backends.complexes.saved import BACKENDS, Each, differing

torch.set_num_threads(1)
_GENERATOR = torch.Generator().manual_seed(0)
REAL = torch.randn(2, 6, 15, generator=_GENERATOR)
COMPLEX = torch.randn(2, 6, 15, 2, generator=_GENERATOR)

FUNCTIONS = {
    **{
        f"{name} {norm} n={n} dim={dim}": lambda z, x, name=name, norm=norm, n=n, dim=dim: getattr(fft, name)(
            x if name in ("rfft", "ihfft") else z, n=n, dim=dim, norm=norm
        )
        for name, (norm, n, dim) in itertools.product(
            ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"), ((None, None, -1), ("ortho", 8, 1), ("forward", 20, 0))
        )
    },
    **{
        f"{name} {norm} s={s} dim={dim}": lambda z, x, name=name, norm=norm, s=s, dim=dim: getattr(fft, name)(
            x if name == "rfft2" else z, s=s, dim=dim, norm=norm
        )
        for name, (norm, s, dim) in itertools.product(
            ("fft2", "ifft2", "rfft2", "irfft2"), ((None, None, (-2, -1)), ("ortho", (5, 8), (0, 2)))
        )
    },
    "real fft": lambda z, x: fft.fft(x),
    "real irfft": lambda z, x: fft.irfft(x),
    "fftn": lambda z, x: fft.fftn(z, norm="ortho"),
    "shifted": lambda z, x: fft.fftshift(fft.fft2(z)),
    "filtered": lambda z, x: fft.irfft(fft.rfft(x) * fft.rfftfreq(15), n=15),
    "envelope": lambda z, x: fft.ifft(fft.fft(x) * (torch.arange(15) < 8)).abs(),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_saved_files_transform_as_torch_does(backend, tmp_path):
    assert differing(backend, tmp_path, FUNCTIONS, (COMPLEX, REAL), complex_inputs=1) == {}


LENGTHS = (1, 2, 3, 97, LONGEST_MATRIX, LONGEST_MATRIX + 2, 600, 1024)


@pytest.mark.parametrize("length", LENGTHS)
def test_transforms_of_every_length_are_those_of_torch(length):
    z, x = torch.randn(2, length, 2, generator=_GENERATOR), torch.randn(2, length, generator=_GENERATOR)
    model = Each(
        {
            "fft": lambda z, x: fft.fft(z),
            "ifft": lambda z, x: fft.ifft(z),
            "rfft": lambda z, x: fft.rfft(x),
            "irfft": lambda z, x: fft.irfft(z[:, : length // 2 + 1], n=length),
        },
        complex_inputs=1,
    ).eval()
    program = with_real_tensors(torch.export.export(model, (z, x)))
    for found, wanted in zip(program.module()(z, x), model(z, x), strict=True):
        assert (found - wanted).abs().max() <= 1e-6 * max(1.0, float(wanted.abs().max()))


def test_long_transforms_have_small_matrices():
    model = Each({"rfft": lambda x: fft.rfft(x)}).eval()
    program = with_real_tensors(torch.export.export(model, (torch.randn(1, 4096),)))
    assert sum(each.numel() for each in program.state_dict.values()) < 4096 * 8  # one matrix has 4096 * 2049 elements
