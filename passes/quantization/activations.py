"""How a granularity cuts an activation, whose extents may differ from run to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphpress.passes.specs import Granularity, PerTensorGranularity


def activation_block(granularity: Granularity, shape: Sequence[Any], name: str) -> tuple[int, ...]:
    """The extents of a block, -1 for a whole axis; empty for one block. Symbolic extents are whole axes.

    Raises:
        AxisError, BlockSizeError: when the granularity does not fit the shape.
    """
    if isinstance(granularity, PerTensorGranularity):
        return ()
    extents = tuple(extent if isinstance(extent, int) else 1 for extent in shape)
    box = granularity.block_shape(extents, name)
    return tuple(-1 if size == extent else size for size, extent in zip(box, extents, strict=True))
