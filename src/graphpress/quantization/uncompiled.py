"""Calls that `torch.compile` leaves as they are, between two graphs that it compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


@torch._disable_dynamo  # type: ignore[attr-defined] # `torch.compiler.disable` would import the compiler at once
def uncompiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, run as it is without a compiler."""
    return function(*arguments)
