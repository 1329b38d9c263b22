"""Quantization by torch's own ops, as a module that coremltools reads off a trace."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphpress.backends.coreml.ops import quantize_dequantize


class TorchQuantizeDequantize(nn.Module):
    """Quantize and dequantize by ``torch.quantize_per_tensor``.

    Args:
        scale, zero_point: one each.
        dtype: ``torch.qint8`` or ``torch.quint8``.
    """

    def __init__(self, scale: float, zero_point: int, dtype: torch.dtype):
        super().__init__()
        self.scale, self.zero_point, self.dtype = scale, zero_point, dtype

    def forward(self, data: Tensor) -> Tensor:
        """`data` as its codes stand for it."""
        return quantize_dequantize(data, self.scale, self.zero_point, self.dtype)

    def extra_repr(self) -> str:
        """The dtype of the codes and their parameters."""
        return f"{self.dtype}, scale={self.scale}, zero_point={self.zero_point}"
