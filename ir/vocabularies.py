"""Modules that know what a graph may speak of beyond the IR's own: annotations of passes, ops of other dialects.

They are imported when a name is looked up that is not there, so that a saved graph loads in any process, and a process
that looks nothing up does not pay for them.
"""

from __future__ import annotations

import importlib

_WAITING: dict[str, None] = {}


def register_vocabulary(module: str) -> None:
    """Import the module called `module` before a name is said to be unknown. It registers annotations and dialects."""
    _WAITING[module] = None


def load_vocabularies() -> bool:
    """Import what was registered since the last time; whether there was anything."""
    modules = list(_WAITING)
    _WAITING.clear()  # first, since these modules look up names of their own
    try:
        for module in modules:
            importlib.import_module(module)
    except BaseException:
        _WAITING.update(dict.fromkeys(modules))
        raise
    return bool(modules)
