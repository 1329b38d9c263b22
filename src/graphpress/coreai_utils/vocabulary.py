"""The words for how the weights of a converted program are compressed."""

from __future__ import annotations

from enum import StrEnum

from graphpress.ir.errors import GraphpressError


class WeightCompressionError(GraphpressError, ValueError):
    """An option that is none, or options that do not go together."""


class DType(StrEnum):
    """What codes of weights, entries of tables or scales are stored as."""

    INT2 = "int2"
    UINT2 = "uint2"
    INT4 = "int4"
    UINT4 = "uint4"
    INT8 = "int8"
    UINT8 = "uint8"
    FP4_E2M1FN = "fp4_e2m1fn"
    FP8_E4M3FN = "fp8_e4m3fn"
    FP8_E5M2 = "fp8_e5m2"
    FP8_E8M0FNU = "fp8_e8m0fnu"
    """Powers of two; for scales of floats only."""


class CompressionGranularity(StrEnum):
    """What has a scale, or a table, of its own."""

    PER_TENSOR = "per_tensor"
    PER_CHANNEL = "per_channel"
    PER_BLOCK = "per_block"
    PER_GROUPED_CHANNEL = "per_grouped_channel"


class QScheme(StrEnum):
    """Whether zero is code 0."""

    SYMMETRIC = "symmetric"
    ASYMMETRIC = "asymmetric"
