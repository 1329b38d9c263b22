"""Source locations of calls in the user's code.

Ops are numbered in the order in which their call sites are first executed, so a branch that is first taken later gets
new names and does not change existing ones.
"""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType

import torch
from torch import nn

CallSite = tuple[str, ...]
"""Source locations from the call outwards to the module's forward, without frames of torch and of this package."""

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_MODULE_CALL = frozenset({nn.Module._call_impl.__code__, nn.Module._slow_forward.__code__})

# Keyed by code object (kept alive, so that its id remains unique) and instruction.
_KNOWN: dict[tuple[int, int], str | None] = {}
_KEPT: list[CodeType] = []


def call_site() -> CallSite:
    """Return the site of the current op call, within the module under execution.

    It is empty if all frames are torch's own, as in its layers, and while `torch.compile` traces, which has no frames;
    calls are then distinguished by their order alone.
    """
    if torch.compiler.is_dynamo_compiling():
        return ()
    frame: FrameType | None = sys._getframe(1)
    places: list[str] = []
    while frame is not None and frame.f_code not in _MODULE_CALL:
        key = (id(frame.f_code), frame.f_lasti)
        place = _KNOWN.get(key, "")
        if place == "":
            place = _KNOWN[key] = _place(frame)
        if place is not None:
            places.append(place)
        frame = frame.f_back
    return tuple(places)


def _place(frame: FrameType) -> str | None:
    code = frame.f_code
    _KEPT.append(code)
    if code.co_filename.startswith((_TORCH, _OURS)):
        return None
    positions = list(code.co_positions())
    line, _, column, _ = positions[frame.f_lasti // 2] if frame.f_lasti >= 0 else (None, None, None, None)
    line = 0 if line is None else line - code.co_firstlineno
    # Code without column information still distinguishes instructions.
    return f"{code.co_qualname}:{line}:{frame.f_lasti if column is None else column}"
