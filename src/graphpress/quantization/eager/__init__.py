"""Eager mode: the model is not captured. Its ops are seen as it runs, its weights are quantized as they are read."""

from graphpress.quantization.eager.eager_mode import EagerExecution
from graphpress.quantization.eager.placing import COVERED_OPS

__all__ = ["COVERED_OPS", "EagerExecution"]
