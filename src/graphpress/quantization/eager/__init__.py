"""Eager mode: observed ops and computed weights are quantized, without capturing a graph."""

from graphpress.quantization.eager.eager_mode import EagerExecution
from graphpress.quantization.eager.placing import COVERED_OPS

__all__ = ["COVERED_OPS", "EagerExecution"]
