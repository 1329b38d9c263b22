"""The operations that an inference with a Core AI asset executes, of either side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CALLEE = re.compile(r"@([\w.$-]+)")
_UNCOUNTED = ("coreai.constant", "coreai.output")


def executed_operations(path: Path) -> int:
    """Return the number of operations of `main` in the asset at `path`, without constants.

    A call of a function, as the converter makes of a batch norm or a pooling, counts as the operations of the function,
    each time. The body of a loop or a scan counts once.
    """
    from coreai.authoring import AIModelAsset

    program = AIModelAsset.load(path).program
    (block,) = program._module._mlir_module.operation.regions[0].blocks  # `program` owns the context
    functions = {str(each.attributes["sym_name"].value): each for each in block.operations}

    def count(operation: Any) -> int:
        return sum(count_one(inner) for inner in _directly_inside(operation))

    def count_one(operation: Any) -> int:
        if operation.name in _UNCOUNTED:
            return 0
        callee = _CALLEE.search(str(operation.attributes["callee"])) if operation.name == "coreai.invoke" else None
        return count(functions[callee[1]]) if callee else 1 + count(operation)

    return count(functions["main"])


def _directly_inside(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region.blocks:
            yield from block.operations
