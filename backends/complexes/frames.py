"""Short-time Fourier transforms as convolutions with windowed waves.

A convolution whose step is the distance of the frames multiplies each frame by all waves without making a copy of it; a
transposed one adds the frames of the inverse where they overlap. Long frames are formed and transformed instead, since
their waves would be large matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graphpress.backends.complexes.fourier import fft_c2r, fft_r2c, is_one_product, scale_of, synthesis, waves
from graphpress.backends.complexes.pairs import Pair, rules

aten = torch.ops.aten


@rules(aten.stft.default, makes_complex=True)
def _stft(
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Any:
    """Decompose ``aten.stft`` with real windows; its frames are the last axis of the result."""
    if isinstance(window, Pair) or align_to_window:
        return NotImplemented
    if isinstance(x, Pair):
        re, im = (_stft(each, n_fft, hop_length, win_length, window, normalized, False, True) for each in (x.re, x.im))
        return Pair(re.re - im.im, re.im + im.re)
    window, onesided = _explicit(window, win_length, x), onesided is None or onesided
    step, kept = hop_length or n_fft // 4, n_fft // 2 + 1 if onesided else n_fft
    signals = x.unsqueeze(0) if x.dim() == 1 else x
    if is_one_product(n_fft):
        kernels = [
            _windowed(wave.unsqueeze(1), window, n_fft)
            for wave in waves(kept, n_fft, n_fft, -1, scale_of(int(normalized), n_fft), x.dtype)
        ]
        spectrum = Pair(*(F.conv1d(signals.unsqueeze(1), kernel, stride=step) for kernel in kernels))
    else:
        frames = _windowed(signals.unfold(-1, n_fft, step), window, n_fft)
        spectrum = fft_r2c(frames, [2], int(normalized), onesided).transpose(1, 2)
    result = spectrum.squeeze(0) if x.dim() == 1 else spectrum
    return result if return_complex else torch.view_as_real(result)


def _explicit(window: Tensor | None, win_length: int | None, x: Tensor) -> Tensor | None:
    """Return the window, of ones if only its length is given."""
    return x.new_ones([win_length]) if window is None and win_length is not None else window


def _windowed(frames: Tensor, window: Tensor | None, length: int) -> Tensor:
    """Multiply the last axis by a window, which is in the middle of it."""
    return frames if window is None else frames * _centered(window, length).to(frames.dtype)


def _centered(window: Tensor, length: int) -> Tensor:
    before = (length - window.shape[0]) // 2
    behind = length - window.shape[0] - before
    return F.pad(window, [before, behind]) if before or behind else window


@rules(aten.istft.default)
def _istft(
    x: Pair,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Any:
    """Decompose ``aten.istft`` of one-sided spectra: overlapping frames over the sum of their squared windows."""
    if isinstance(window, Pair) or return_complex or onesided is False:
        return NotImplemented
    step, dtype, window = hop_length or n_fft // 4, x.re.dtype, _explicit(window, win_length, x.re)
    re, im = (part.unsqueeze(0) if x.dim() == 2 else part for part in (x.re, x.im))
    mode, count = 1 if normalized else 2, re.shape[-1]
    if is_one_product(n_fft):
        kernels = [
            _windowed(wave.unsqueeze(1), window, n_fft) for wave in synthesis(n_fft, scale_of(mode, n_fft), dtype)
        ]
        parts = zip((re, im), kernels, strict=True)
        re, im = (F.conv_transpose1d(part, kernel, stride=step) for part, kernel in parts)
        signal = re + im
    else:
        frames = _windowed(fft_c2r(Pair(re.transpose(1, 2), im.transpose(1, 2)), [2], mode, n_fft), window, n_fft)
        signal = _overlapped(frames, step)
    square = x.re.new_ones([n_fft]) if window is None else _centered(window * window, n_fft).to(dtype)
    weights = F.conv_transpose1d(x.re.new_ones([1, 1, count]), square.reshape(1, 1, n_fft), stride=step)
    whole = n_fft + step * (count - 1)
    start = n_fft // 2 if center else 0
    end = whole - start if length is None else min(start + length, whole)
    signal = (signal / weights).narrow(-1, start, end - start).squeeze(1)
    if length is not None and start + length > whole:
        signal = F.pad(signal, [0, start + length - whole])
    return signal.squeeze(0) if x.dim() == 2 else signal


def _overlapped(frames: Tensor, step: int) -> Tensor:
    """Add frames, of shape (batch, frame, element), at distances of `step`: (batch, 1, element)."""
    batch, count, size = frames.shape
    parts = -(-size // step)  # each frame covers so many steps
    steps = F.pad(frames, [0, parts * step - size]).reshape(batch, count, parts, step)
    total = sum(F.pad(steps.select(2, at), [0, 0, at, parts - 1 - at]) for at in range(parts))
    assert isinstance(total, Tensor)
    return total.reshape(batch, 1, (count + parts - 1) * step).narrow(-1, 0, size + step * (count - 1))
