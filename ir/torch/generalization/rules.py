"""Ops whose result dims depend on operand dims in the same way at every batch size.

Two sample batch sizes determine a dim if it is an integer combination of operand dims and constants. They do not if the
op clamps (a slice), rounds (a stride along the batch), drops dims of size one (a squeeze), or returns as many tensors
as the batch size. Of the ops in the lists below it is known. Others, such as those of libraries, are called at several
small batch sizes, at which clamps and roundings show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree

from graphpress.ir.ops import OpDef, Trait
from graphpress.ir.torch.generalization.affine import Samples

_LAST = 2**63 - 1


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Any axis may depend on the batch: result dims are operand dims, their sums, or sizes in the call.
_ON_ANY_AXIS = _names(
    """
    permute transpose t mT numpy_T swapaxes swapdims movedim moveaxis unsqueeze expand expand_as broadcast_to
    broadcast_tensors alias detach detach_ contiguous clone _to_copy type_as lift_fresh cat concat concatenate
    stack hstack vstack dstack select narrow split_with_sizes repeat tile copy
    linear matmul mm bmm mv addmm baddbmm einsum outer bilinear scaled_dot_product_attention
    layer_norm group_norm batch_norm instance_norm rms_norm softmax log_softmax logsumexp cumsum cumprod
    sum mean amax amin max min argmax argmin var std var_mean std_mean prod norm linalg_vector_norm any all
    embedding index_select index gather scatter scatter_add masked_fill where sort argsort topk
    index_put scatter_reduce floor_divide __and__ __or__ __xor__ __lshift__ __rshift__
    tril triu flip roll lstm gru rnn_tanh rnn_relu meshgrid
    zeros ones full empty rand randn eye linspace
    new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like rand_like randn_like
    """
)
# Only the first axis may depend on the batch.
_ON_FIRST_AXIS = _names(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d
    upsample_trilinear3d pixel_shuffle pixel_unshuffle channel_shuffle grid_sampler im2col col2im
    constant_pad_nd pad reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d
    """
)
# The axis named in the call must not depend on the batch.
_ON_OTHER_AXES = _names("split chunk unbind tensor_split unfold glu squeeze slice diff")
# Result sizes are those in the call or of another tensor. An inferred size and that of merged axes depend on the batch
# as the operand's, if no other axis of either does.
_RESHAPING = _names("view reshape _unsafe_view view_as reshape_as flatten unflatten")

Axes = Callable[[torch.Tensor], tuple[int, ...]]


def follows(op: OpDef, bound: Mapping[str, Any], results: tuple[torch.Tensor, ...], axes: Axes) -> bool:
    """Return True if the result dims of a call depend on its operand dims in the same way at every batch size.

    Args:
        op: the op; an in-place op counts as its functional form.
        bound: the arguments by name.
        results: the results.
        axes: returns the axes of a tensor that depend on the batch.
    """
    name = op.short_name if op.short_name.startswith("__") else op.short_name.rstrip("_")
    if name in _ON_ANY_AXIS or op.has(Trait.ELEMENTWISE) or _is_pointwise(op):
        return True
    operands = [tensor for argument in bound.values() for tensor in _tensors(argument)]
    if name in _ON_FIRST_AXIS:
        return all(set(axes(tensor)) <= {0} for tensor in operands)
    if name in _RESHAPING:
        sizes = bound.get("size", bound.get("shape"))
        if name.endswith("_as") or (sizes is not None and -1 not in sizes):
            return True
        return all(len(axes(tensor)) <= 1 for tensor in (*operands, *results))
    if name in _ON_OTHER_AXES:
        tensor = bound["self"]
        return _is_whole_slice(name, bound) or not _named_axes(op, bound, tensor.ndim) & set(axes(tensor))
    if name == "arange":
        return bound.get("step", 1) == 1
    return name == "repeat_interleave" and not isinstance(bound.get("repeats"), torch.Tensor)


# Every remainder of 2, 3 and 4 is among them.
_SMALL_BATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 32)


def agrees(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], results: Any, samples: Samples) -> bool:
    """Return True if small batch sizes give the result dims that follow from those of the run.

    Args:
        function: the op; it is called on tensors without data.
        args: the positional arguments of the call in the run.
        kwargs: its keyword arguments.
        results: its results, tensors.
        samples: the batch sizes of the run.
    """
    expected = [[samples.read(size) for size in result.shape] for result in results]
    for batch in _SMALL_BATCHES:
        sizes = {name: batch + place for place, name in enumerate(samples.run_sizes)}
        try:
            found = function(*_resized(tuple(args), samples, sizes), **_resized(dict(kwargs), samples, sizes))
        except Exception:
            return False
        shapes = [list(leaf.shape) for leaf in pytree.tree_leaves(found) if isinstance(leaf, torch.Tensor)]
        if shapes != [[None if form is None else form.at(sizes) for form in shape] for shape in expected]:
            return False
    return True


def _resized(argument: Any, samples: Samples, sizes: Mapping[str, int]) -> Any:
    """Return the arguments of a call at other batch sizes."""

    def resized(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and any(size > 2 * samples.largest for size in leaf.shape):
            shape = [_at(size, samples, sizes) for size in leaf.shape]
            return torch.empty(shape, dtype=leaf.dtype, device=leaf.device)
        return _at(leaf, samples, sizes) if type(leaf) is int else leaf

    return pytree.tree_map(resized, argument)


def _at(number: int, samples: Samples, sizes: Mapping[str, int]) -> int:
    form = samples.read(number)
    return number if form is None else form.at(sizes)


def _is_pointwise(op: OpDef) -> bool:
    return isinstance(op.target, torch._ops.OpOverload) and torch.Tag.pointwise in op.target.tags


def _is_whole_slice(name: str, bound: Mapping[str, Any]) -> bool:
    start, end = bound.get("start") or 0, bound.get("end")
    return name == "slice" and start == 0 and (end is None or end == _LAST) and bound.get("step", 1) == 1


def _named_axes(op: OpDef, bound: Mapping[str, Any], rank: int) -> set[int]:
    for name in ("dim", "dimension"):
        if name in op.by_name:
            named = bound[name] if name in bound else op.default(name)
            return {axis % max(rank, 1) for axis in (named if isinstance(named, list | tuple) else (named,))}
    return set(range(rank))


def _tensors(argument: Any) -> list[torch.Tensor]:
    if isinstance(argument, torch.Tensor):
        return [argument]
    return [item for item in argument if isinstance(item, torch.Tensor)] if isinstance(argument, list | tuple) else []
