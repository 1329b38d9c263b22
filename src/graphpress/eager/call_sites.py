"""Where in the user's source a call stands.

Ops are named in the order in which their call sites are first met. A branch that is taken later then gets names of
its own, and renames nothing.
"""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType

import torch
from torch import nn

CallSite = tuple[str, ...]
"""The places in the source from the call outwards to the module's forward, those in torch and here left out."""

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_MODULE_CALL = frozenset({nn.Module._call_impl.__code__, nn.Module._slow_forward.__code__})

# By code object (kept, so that its id stays its own) and instruction.
_KNOWN: dict[tuple[int, int], str | None] = {}
_KEPT: list[CodeType] = []


def call_site() -> CallSite:
    """The site of the call that led here, within the module that is being called.

    Empty where the whole call is torch's own, as in its layers. While torch.compile traces, which sees no frames, it
    is empty too, so that calls are told apart by their order alone.
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
    # Files without columns still tell instructions apart.
    return f"{code.co_qualname}:{line}:{frame.f_lasti if column is None else column}"
