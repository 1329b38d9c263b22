"""From a graph that was captured at one batch size to one for every batch size, with proof, and without tracing again.

A static capture spells sizes out: `x.view(batch, -1)` becomes `view(x, [2, -1])`. What it does not say is which of its
numbers are the batch, and whether the model would have done the same at another batch. One more run of the model tells,
with tensors that have shapes and no data:

1. `witness`: the model runs at a stand-in batch, a large prime. Whenever Python asks for the size of a tensor, it gets
   an `Extent`: an expression over the batch that can be added, multiplied by numbers and passed to torch, and that
   refuses every decision which would come out differently at some other batch. So a run that ends took the only way
   through the code that there is. Every call that reaches ATen is recorded.
2. `rules`: each call must be of an op whose result has extents that are whole multiples of those of its operands, plus
   numbers. A slice that may clamp, or a strided convolution along the batch, is not.
3. `matching`: the calls are held against the nodes of the graph, operand by operand and number by number. A number is
   then known at two batches, and as it is affine in the batch by 1 and 2, it is known at all of them.
4. `batch`: types, and attributes that depend on the batch, are rewritten.

Whatever does not fit ends in `NotProven`, and the graph is left as it was.
"""

from __future__ import annotations

from graphpress.ir.torch.generalization.affine import NotProven
from graphpress.ir.torch.generalization.batch import Generalization, prove

__all__ = ["Generalization", "NotProven", "prove"]
