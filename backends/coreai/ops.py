"""The torch operators Core AI stores compressed tensors with: `torch.ops.coreai.*`, registered on demand.

Their schemas and fake implementations live in `coreai_torch`, an optional dependency that takes half a
second to import. Nothing here imports it before `register` is called.
"""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from types import ModuleType

import torch

from graphpress.backends.errors import MissingDependencyError

OPERATORS = ("lut_to_dense", "constexpr_blockwise_shift_scale", "quantize", "dequantize", "sparse_to_dense")
"""The operators of `torch.ops.coreai` that hold or make compressed values."""


@cache
def register() -> None:
    """Make `torch.ops.coreai.*` callable and let the converter accept 3-bit lookup tables.

    Safe to call any number of times; the work is done once.

    Raises:
        MissingDependencyError: when `coreai-torch` or `coreai-core` is not installed.
    """
    from graphpress.backends.coreai.three_bit import teach_converter

    require("coreai_torch._compression.custom_layers")
    teach_converter()
    _name_small_integers()


def _name_small_integers() -> None:
    """Give torch's graph printer names for its own integers below 8 bits.

    Torch 2.13 leaves them out, and prints every graph it decomposes wherever tracing is logged, which pytest
    turns on: 4-bit activations would then fail with a bare `KeyError`.
    """
    names = getattr(importlib.import_module("torch.utils._dtype_abbrs"), "dtype_abbrs", {})
    for bits in range(1, 8):
        names.setdefault(getattr(torch, f"int{bits}"), f"i{bits}")
        names.setdefault(getattr(torch, f"uint{bits}"), f"u{bits}")


def require(module: str) -> ModuleType:
    """Import `module` of `coreai_torch` or `coreai`, or say which extra would bring it.

    Raises:
        MissingDependencyError: when the module cannot be imported.
    """
    with warnings.catch_warnings():
        # Local version labels ("2.13.0+cpu") make it warn about the very release it was validated with.
        warnings.filterwarnings("ignore", message="coreai-torch has only been validated")
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise MissingDependencyError(
                f"the Core AI backend needs {module.split('.')[0]!r}, which cannot be imported ({error}); "
                "install it with: pip install 'graphpress[coreai]'"
            ) from error
