"""The fake-quantizers that a spec names."""

from graphpress.quantization.fake_quantize import FakeQuantize, FakeQuantizeImplBase, fp4_forward

__all__ = ["FakeQuantize", "FakeQuantizeImplBase", "fp4_forward"]
