"""Division of wide layers into blocks of columns, whose codes are chosen independently."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

# Layers of up to `WHOLE` columns are one block; the solve is cubic in the columns of a block.
WHOLE, MOST = 2048, 1024


@frozen
class ColumnBlocks:
    """Blocks of columns of matrices ``[groups, rows, columns]``, which become groups of their own.

    Products between columns of different blocks are neglected. Time and memory are then linear in the columns.

    Attributes:
        columns: the columns of a group.
        count: the blocks of a group.
        size: the columns of a block; those that the last one lacks are repetitions of its last column.
    """

    columns: int
    count: int
    size: int

    @classmethod
    def of(cls, columns: int) -> ColumnBlocks:
        """Divide as evenly as possible."""
        count = 1 if columns <= WHOLE else -(-columns // MOST)
        return cls(columns, count, -(-columns // count))

    def split(self, matrices: Tensor) -> Tensor:
        """Return ``[groups * count, rows, size]``."""
        if self.count == 1:
            return matrices
        groups, rows, _ = matrices.shape
        missing = self.count * self.size - self.columns
        if missing:
            matrices = torch.cat([matrices, matrices[..., -1:].expand(-1, -1, missing)], -1)
        blocks = matrices.reshape(groups, rows, self.count, self.size).transpose(1, 2)
        return blocks.reshape(groups * self.count, rows, self.size)

    def join(self, blocks: Tensor) -> Tensor:
        """Invert `split`."""
        if self.count == 1:
            return blocks
        groups, rows = len(blocks) // self.count, blocks.shape[1]
        matrices = blocks.reshape(groups, self.count, rows, self.size).transpose(1, 2)
        return matrices.reshape(groups, rows, -1)[..., : self.columns]

    def split_inputs(self, rows: Tensor) -> Tensor:
        """Return `split` of a layer's input rows, with zeros in the columns that are repetitions."""
        blocks = self.split(rows)
        missing = self.count * self.size - self.columns
        if missing:
            blocks[self.count - 1 :: self.count, :, -missing:] = 0
        return blocks
