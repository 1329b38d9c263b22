"""The one place that compiles: `kernel` turns a plain function into machine code through numba.

Only the kernel modules import this one, and they are imported at first use, so that importing
`graphpress.passes.clustering` does not load numba.
"""

from __future__ import annotations

from collections.abc import Callable

import numba


def kernel(function: Callable) -> Callable:
    """Compile `function` at its first call, without the interpreter lock, and cache the machine code.

    The cache lives beside the source, or in the user's cache folder where the package is read-only. Where
    neither can be written the code is compiled once per process. Sums are never reordered (no fast-math), so
    results do not depend on the vector width of the machine.
    """
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba found no folder to cache in
        return numba.njit(nogil=True, error_model="numpy")(function)
