"""What a package has that a graph of it does not."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np

from graphpress.backends.coreml.dependency import require
from graphpress.backends.coreml.package import load_program


def losses(path: str | PathLike[str]) -> list[str]:
    """What is lost when the package at `path` is read and converted again, in words; empty when nothing is.

    Raises:
        AssetError: when there is no package, or it is damaged.
    """
    program = load_program(path)
    found = [f"the function {name}" for name in program.functions if name != "main"]
    for function in program.functions.values():
        for name, var in function.inputs.items():
            if _is_state(var):
                found.append(f"the state {name}")
            elif not all(isinstance(extent, int | np.integer) for extent in var.shape):
                found.append(f"the free extents of {name}")
    return found


def _is_state(var: Any) -> bool:
    return bool(require("coremltools.converters.mil.mil").types.is_state(var.sym_type))
