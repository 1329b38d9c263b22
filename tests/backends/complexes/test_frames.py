"""Short-time transforms as convolutions, held to torch."""

from __future__ import annotations

import itertools

import pytest
import torch

from graphpress.backends.complexes import with_real_tensors
from tests.backends.complexes.saved import BACKENDS, Each, differing

torch.set_num_threads(1)
WAVE = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))


def forth(size, step=None, length=None, window=None, **settings):
    """Return a short-time transform."""
    shape = None if window is None else window(length or size)
    return lambda x: torch.stft(x, size, step, length, shape, return_complex=True, **settings)


def back(size, step=None, length=None, window=None, signal=None, **settings):
    """Return a short-time transform, a change of the spectrum, and its inverse."""
    shape = None if window is None else window(length or size)
    there = forth(size, step, length, window, **settings)
    return lambda x: torch.istft(there(x) * (1 + 0.5j), size, step, length, shape, length=signal, **settings)


FUNCTIONS = {
    **{
        f"stft {size} {step} {length} {window and window.__name__} {center} {normalized}": forth(
            size, step, length, window, center=center, normalized=normalized
        )
        for (size, step, length), window, (center, normalized) in itertools.product(
            ((16, None, None), (16, 5, 12), (25, 4, None)), (None, torch.hann_window), ((True, True), (False, False))
        )
    },
    **{
        f"istft {step} {length} {signal} {normalized}": back(
            16, step, length, torch.hann_window, signal, normalized=normalized
        )
        for step, length, longest in ((None, None, 310), (5, 12, 305))  # the longest that torch's check accepts or pads
        for signal, normalized in ((None, False), (290, True), (longest, False))
    },
    "stft of both sides": forth(16, 4, None, torch.hann_window, onesided=False),
    "stft of one signal": lambda x: forth(16, 4, None, torch.hann_window)(x[0]),
    "istft of one signal": lambda x: back(16, 4, None, torch.hann_window)(x[0]),
    "stft of complex signals": lambda x: torch.stft(
        torch.complex(x, x.flip(-1)), 16, 4, window=torch.hann_window(16), return_complex=True
    ),
    "stft as real numbers": lambda x: torch.stft(x, 16, 4, window=torch.hann_window(16), return_complex=False),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:stft with return_complex=False", "ignore:The length of signal")
@pytest.mark.parametrize("backend", BACKENDS)
def test_saved_files_transform_frames_as_torch_does(backend, tmp_path):
    assert differing(backend, tmp_path, FUNCTIONS, (WAVE,)) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("size", "step"), [(600, 150), (1024, 300)])
def test_long_frames_are_transformed_as_torch_does(size, step):
    wave = torch.randn(2, 3000, generator=torch.Generator().manual_seed(1))
    model = Each(
        {"stft": forth(size, step, None, torch.hann_window), "istft": back(size, step, None, torch.hann_window)}
    )
    program = with_real_tensors(torch.export.export(model.eval(), (wave,)))
    for found, wanted in zip(program.module()(wave), model(wave), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert sum(each.numel() for each in program.state_dict.values()) < size * 60  # no matrix of all waves
