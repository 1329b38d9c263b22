"""One event loop in one background thread, so that the runtime's coroutines can be called like functions.

Calls come from any thread, also from inside a running event loop: the loop that runs them is never the caller's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def run(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `coroutine` on the background loop and wait for its result or its exception."""
    return asyncio.run_coroutine_threadsafe(coroutine, _running_loop()).result()


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="graphpress-coreai", daemon=True).start()
        return _loop
