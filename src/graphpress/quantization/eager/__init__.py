"""Eager mode: the model is not captured. Its ops are seen as it runs, its weights are quantized as they are read."""

from graphpress.quantization.eager.covered import COVERED_OPS
from graphpress.quantization.eager.eager_mode import EagerExecution

__all__ = ["COVERED_OPS", "EagerExecution"]
