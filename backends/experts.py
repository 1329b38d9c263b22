"""Decompositions of products of rows with the matrices of their experts, in mixtures of experts.

The rows are sorted by expert, and `ends` has the end of each expert's rows: row `s` is multiplied by the matrix of the
first expert whose end is beyond `s`; rows beyond all ends are zero. Neither converter has such an op, nor ops on slices
of data-dependent length, so each row selects its expert:

- With at most as many rows as experts, as when a model decodes token by token, the matrices are gathered: one matrix is
  read for each row, and no product is superfluous.
- With more rows, all rows are multiplied by all matrices, and each row selects one result: ``experts`` times as many
  multiplications as needed, and ``experts * rows * outputs`` intermediate elements. No matrix is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def expert_products(rows: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Multiply each row, of shape (rows, inputs), by the matrix of its expert, of (experts, inputs, outputs)."""
    count, experts = rows.shape[0], matrices.shape[0]
    places = torch.arange(count, dtype=ends.dtype, device=rows.device)
    before = (places.unsqueeze(1) >= ends).to(torch.int32).sum(1)  # the number of experts whose rows come before
    has_expert = before < experts
    expert = torch.where(has_expert, before, torch.zeros_like(before))
    if isinstance(count, int) and count <= experts:
        result = torch.bmm(rows.unsqueeze(1), matrices.index_select(0, expert)).squeeze(1)
    else:
        products = torch.matmul(rows.unsqueeze(0), matrices).flatten(0, 1)  # (experts * rows, outputs)
        result = products.index_select(0, expert * count + places)
    return torch.where(has_expert.unsqueeze(1), result, torch.zeros_like(result))


def _grouped_mm(
    rows: torch.Tensor,
    matrices: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Any:
    """Decompose ``aten._grouped_mm`` of rows with one matrix for each group; other forms remain."""
    if rows.dim() != 2 or matrices.dim() != 3 or offs is None or bias is not None:
        return NotImplemented
    result = expert_products(rows, matrices, offs)
    return result if out_dtype is None else result.to(out_dtype)


def _empty_permuted(size: Any, physical_layout: Any, *, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
    """Fill what a program overwrites with zeros, since converters have no uninitialized tensors."""
    return torch.zeros(size, dtype=dtype)


def experts_table() -> dict[Any, Callable[..., Any]]:
    """Return the decompositions by operator; that of transformers exists once it is imported."""
    table: dict[Any, Callable[..., Any]] = {
        torch.ops.aten._grouped_mm.default: _grouped_mm,
        torch.ops.aten.empty_permuted.default: _empty_permuted,
    }
    if hasattr(torch.ops.transformers, "grouped_mm_fallback"):
        table[torch.ops.transformers.grouped_mm_fallback.default] = expert_products
    return table
