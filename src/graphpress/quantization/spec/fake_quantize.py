"""The fake-quantizers that a spec names."""

from graphpress.quantization.fake_quantize import FakeQuantize, FakeQuantizeImplBase

__all__ = ["FakeQuantize", "FakeQuantizeImplBase"]
