"""Rules of operators that move, join, cast and make complex elements, or are linear over the reals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphpress.backends.complexes.pairs import Pair, paired, real_dtype, rules

aten = torch.ops.aten

_LINEAR = (
    "_reshape_alias _unsafe_view alias as_strided_copy clone cumsum detach diagonal expand flip gather index "
    "index_select lift_fresh lift_fresh_copy mean movedim narrow neg permute positive reflection_pad1d "
    "reflection_pad2d repeat repeat_interleave replication_pad1d replication_pad2d reshape roll select slice split "
    "split_with_sizes squeeze sum t take_along_dim tile trace transpose tril triu unbind unfold unsqueeze view"
)
_JOINING = (
    "cat stack copy index_add index_copy index_put masked_scatter scatter scatter_add select_scatter slice_scatter"
)


def _overloads(names: str) -> list[Any]:
    packets = [getattr(aten, name) for name in names.split()]
    return [getattr(packet, each) for packet in packets for each in packet.overloads() if "out" not in each]


def _by_part(operator: Any) -> Any:
    """The rule of an operator that acts on both parts alike."""
    run = aten.reshape.default if operator is aten.view.default else operator  # parts may have other strides

    def rule(*args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Any:
        args, kwargs = _cast((args, kwargs), None if dtype is None else real_dtype(dtype))
        results = [run(*each[0], **each[1]) for each in (_taken((args, kwargs), part) for part in ("re", "im"))]
        return (
            Pair(*results) if isinstance(results[0], Tensor) else [Pair(*each) for each in zip(*results, strict=True)]
        )

    return rule


def _cast(tree: Any, dtype: torch.dtype | None) -> Any:
    return tree if dtype is None else pytree.tree_map_only(Pair, lambda pair: paired(pair, dtype), tree)


def _taken(tree: Any, part: str) -> Any:
    """Return arguments with one part of each pair; the imaginary part of a real number is zero."""
    return pytree.tree_map_only(Pair, lambda pair: getattr(pair, part), tree)


for _operator in _overloads(_LINEAR):
    rules(_operator)(_by_part(_operator))


def _joining(operator: Any) -> Any:
    """The rule of an operator that puts elements of several tensors into one, which is complex if one of them is.

    Tensors of integers and bools are places, unless the operator concatenates.
    """
    joins_all = operator in (aten.cat.default, aten.stack.default)

    def rule(*args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        values = [each for each in tensors if joins_all or each.is_complex() or each.is_floating_point()]
        if any(isinstance(leaf, complex) for leaf in pytree.tree_leaves((args, kwargs))):
            return NotImplemented
        dtype = values[0].dtype
        for each in values[1:] if joins_all else ():
            dtype = torch.promote_types(dtype, each.dtype)
        if not dtype.is_complex:
            return NotImplemented
        members = set(map(id, values))

        def widened(leaf: Any) -> Any:
            return paired(leaf, real_dtype(dtype)) if id(leaf) in members else leaf

        args, kwargs = pytree.tree_map(widened, (args, kwargs))
        results = [operator(*each[0], **each[1]) for each in (_taken((args, kwargs), part) for part in ("re", "im"))]
        return Pair(*results)

    return rule


for _operator in _overloads(_JOINING):
    rules(_operator)(_joining(_operator))


@rules(aten.where.self)
def _where(choice: Tensor, a: Any, b: Any) -> Pair:
    dtype = real_dtype(torch.promote_types(a.dtype, b.dtype))
    a, b = paired(a, dtype), paired(b, dtype)
    return Pair(torch.where(choice, a.re, b.re), torch.where(choice, a.im, b.im))


@rules(aten.masked_fill.Scalar)
def _masked_fill(x: Any, mask: Tensor, value: Any) -> Any:
    if not isinstance(x, Pair):
        return NotImplemented
    number = complex(value)
    return Pair(x.re.masked_fill(mask, number.real), x.im.masked_fill(mask, number.imag))


@rules(aten.constant_pad_nd.default)
def _pad(x: Pair, pad: Any, value: Any = 0) -> Pair:
    number = complex(value)
    return Pair(
        *(
            aten.constant_pad_nd.default(part, pad, of)
            for part, of in zip((x.re, x.im), (number.real, number.imag), strict=True)
        )
    )


@rules(aten.pad.default)
def _pad_by_mode(x: Pair, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    if mode == "constant":
        return _pad(x, pad, value or 0)
    if mode == "circular":  # torch's decomposition writes to a new tensor
        for at, (before, behind) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
            axis = x.dim() - 1 - at
            ends = x.narrow(axis, x.shape[axis] - before, before), x.narrow(axis, 0, behind)
            joined: Any = torch.cat([ends[0], x, ends[1]], axis)
            x = joined
        return x
    return Pair(aten.pad.default(x.re, pad, mode), aten.pad.default(x.im, pad, mode))


@rules(aten.view_as_complex.default, aten.view_as_complex_copy.default, makes_complex=True)
def _view_as_complex(x: Tensor) -> Pair:
    return Pair(x.select(-1, 0), x.select(-1, 1))


@rules(aten.view_as_real.default, aten.view_as_real_copy.default)
def _view_as_real(x: Pair) -> Tensor:
    return torch.stack([x.re, x.im], -1)


@rules(aten.real.default)
def _real(x: Pair) -> Tensor:
    return x.re


@rules(aten.imag.default)
def _imag(x: Pair) -> Tensor:
    return x.im


@rules(aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout)
def _to(x: Tensor, *args: Any, dtype: torch.dtype | None = None, **_: Any) -> Any:
    """Cast; a real dtype takes the real part."""
    wanted = next((each for each in args if isinstance(each, torch.dtype)), dtype) or x.dtype
    if wanted.is_complex:
        return paired(x, real_dtype(wanted))
    return x.re.to(wanted) if isinstance(x, Pair) else x.to(wanted)


def _filled(value: complex | None, *, reads: bool, has_size: bool) -> Any:
    """The rule of an operator that makes a tensor of equal elements.

    Args:
        value: of the elements, or None if it is the last positional argument.
        reads: whether a tensor is the first argument, whose dtype, and size unless that is given, are the defaults.
        has_size: whether a size is an argument.
    """

    def rule(*args: Any, dtype: torch.dtype | None = None, **_: Any) -> Any:
        like = args[0] if reads else None
        wanted = dtype or (torch.get_default_dtype().to_complex() if like is None else like.dtype)
        size = args[int(reads)] if has_size else args[0].shape
        number, kind = complex(args[-1] if value is None else value), real_dtype(wanted)
        if not wanted.is_complex:
            return torch.full(size, number.real, dtype=kind)
        return Pair(torch.full(size, number.real, dtype=kind), torch.full(size, number.imag, dtype=kind))

    return rule


for _name, _value in (("zeros", 0), ("ones", 1), ("empty", 0), ("full", None)):
    _new = aten.empty.memory_format if _name == "empty" else getattr(aten, _name).default
    rules(_new)(_filled(_value, reads=False, has_size=True))
    rules(getattr(aten, f"{_name}_like").default)(_filled(_value, reads=True, has_size=False))
    rules(getattr(aten, f"new_{_name}").default)(_filled(_value, reads=True, has_size=True))


@rules(aten.eye.default, aten.eye.m)
def _eye(*size: int, dtype: torch.dtype, **_: Any) -> Pair:
    return paired(torch.eye(*size, dtype=real_dtype(dtype)), real_dtype(dtype))


@rules(aten.fill.Tensor, aten.fill.Scalar)
def _fill(x: Tensor, value: Any) -> Any:
    if not isinstance(x, Pair):
        return NotImplemented
    number = value if isinstance(value, Tensor) else torch.full((), value, dtype=x.dtype)
    return aten.copy.default(x, number.expand(x.shape))


@rules(aten.scalar_tensor.default)
def _scalar_tensor(value: Any, **settings: Any) -> Any:
    return _filled(None, reads=False, has_size=True)((), value, **settings)
