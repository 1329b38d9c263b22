"""Functions on symbolic sizes, as torch.export emits them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

_OF_OPERATOR: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name)
    for name in [
        "add",
        "sub",
        "mul",
        "floordiv",
        "truediv",
        "mod",
        "neg",
        "pow",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "and_",
        "or_",
        "not_",
        "lshift",
        "rshift",
        "abs",
        "pos",
        "is_",
        "is_not",
        "getitem",
    ]
}
_OF_TORCH_AND_MATH: dict[str, Callable[..., Any]] = {
    "sym_max": torch.sym_max,
    "sym_min": torch.sym_min,
    "sym_not": torch.sym_not,
    "sym_ite": torch.sym_ite,
    "sym_int": torch.sym_int,
    "sym_float": torch.sym_float,
    "sym_sum": torch.sym_sum,
    "sym_sqrt": torch.sym_sqrt,
    "ceil": math.ceil,
    "floor": math.floor,
    "trunc": math.trunc,
    "round": round,
}
SYMBOLIC_FUNCTIONS = _OF_OPERATOR | _OF_TORCH_AND_MATH
