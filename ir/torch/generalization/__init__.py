"""Generalization of a graph captured at one batch size to all batch sizes, by proof and without retracing.

A static capture holds concrete sizes: `x.view(batch, -1)` becomes `view(x, [2, -1])`. It does not tell which numbers
are the batch size, nor whether the model would take the same path at another batch size. One more run of the model, on
tensors without data, tells both:

1. `tracing`: the model runs at a sample batch size, a large prime. Tensor sizes that Python code reads are `BatchDim`s,
   expressions over the batch that support addition, multiplication by numbers and use in torch calls, and that refuse
   every decision that could differ at another batch size. A run that completes has therefore taken the only possible
   path. Every ATen call is recorded.
2. `rules`: each call must be of an op whose result dims are integer combinations of operand dims and constants. Slices
   that may clamp and convolutions strided along the batch are not.
3. `matching`: the recorded calls are matched with the nodes of the graph, operand by operand and number by number. Each
   number is then known at two batch sizes and, being affine in the batch by 1 and 2, at all of them.
4. `batch`: types, and attributes that depend on the batch, are rewritten.

Otherwise `NotProven` is raised, and the graph is unchanged.
"""

from __future__ import annotations

from graphpress.ir.torch.generalization.affine import NotProven
from graphpress.ir.torch.generalization.batch import Generalization, prove

__all__ = ["Generalization", "NotProven", "prove"]
