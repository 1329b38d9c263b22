"""Small modules that hold compressed weights the way finalized models do."""

import torch
import torch.nn.functional as F
from torch import nn

from graphpress.backends.coreai import register

register()
coreai = torch.ops.coreai


class TableLinear(nn.Module):
    """A linear layer whose weight is a lookup table; with an 8-bit integer table it has a scale per output."""

    def __init__(self, outputs=9, inputs=16, bits=4, lut_dtype=torch.float32, blocks=1, vector=1, axis=0):
        super().__init__()
        generator = torch.Generator().manual_seed(bits)
        shape = [outputs, inputs]
        shape[axis] //= vector
        self.axis = axis
        indices = torch.randint(0, 2**bits, shape, generator=generator, dtype=torch.uint8)
        lut = torch.randn(blocks, 1, 2**bits, vector, generator=generator)
        scale = None
        if lut_dtype == torch.int8:
            lut, scale = (lut * 40).round().clamp(-128, 127), torch.rand(outputs, 1, generator=generator) / 100
        self.register_buffer("weight_indices", indices)
        self.register_buffer("weight_lut", lut.to(lut_dtype))
        self.register_buffer("weight_scale", scale)

    def forward(self, x):
        weight = coreai.lut_to_dense(self.weight_indices, self.weight_lut, self.axis)
        if self.weight_scale is not None:
            weight = coreai.constexpr_blockwise_shift_scale(weight, self.weight_scale, None, None, torch.int8, None)
        return F.linear(x, weight)


class IntegerConv(nn.Module):
    """A convolution with integer weights, a scale per output channel, and a bias."""

    def __init__(self, channels=4, inputs=3, dtype=torch.int8, low=-127, high=127, zero_point=None):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        data = torch.randint(low, high + 1, (channels, inputs, 3, 3), generator=generator)
        self.dtype = dtype
        self.register_buffer("weight_data", data.to(torch.uint8 if low >= 0 else torch.int8))
        self.register_buffer("weight_scale", torch.rand(channels, 1, 1, 1, generator=generator) / 100 + 1e-3)
        zeros = None
        if zero_point is not None:
            zeros = torch.full((channels, 1, 1, 1), zero_point, dtype=self.weight_data.dtype)
        self.register_buffer("weight_zero_point", zeros)
        self.register_buffer("bias", torch.randn(channels, generator=generator))

    def forward(self, x):
        weight = coreai.constexpr_blockwise_shift_scale(
            self.weight_data, self.weight_scale, self.weight_zero_point, None, self.dtype, None
        )
        return F.conv2d(x, weight, self.bias, padding=1)


class QuantizeDequantize(nn.Module):
    """Activations rounded to codes and back."""

    def __init__(self, scale, dtype=torch.int8, zero_point=None):
        super().__init__()
        self.dtype = dtype
        self.register_buffer("scale", torch.tensor([scale]))
        self.register_buffer("zero_point", None if zero_point is None else torch.tensor([zero_point], dtype=dtype))

    def forward(self, x):
        codes = coreai.quantize(x, self.scale, self.dtype, self.zero_point, None, 0)
        return coreai.dequantize(codes, self.scale, self.zero_point, None, 0, self.dtype, None)


def quantized_net(layers=3, channels=16):
    """Convolutions with integer weights between activations rounded to 8 bits."""
    steps = [QuantizeDequantize(0.03)]
    for at in range(layers):
        conv = IntegerConv(channels, 3 if at == 0 else channels)
        steps += [conv, nn.ReLU(), QuantizeDequantize(0.02, torch.uint8, 3)]
        conv.weight_scale /= 4
    return nn.Sequential(*steps).eval()
