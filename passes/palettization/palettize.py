"""Palettize one weight."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from graphpress.ir.reference import SCALE_BITS
from graphpress.passes.clustering import cluster_groups, cluster_vectors
from graphpress.passes.palettization.entry_grid import EntryGrid, QuantizedTables, round_up
from graphpress.passes.palettization.errors import PalettizationError, TooSmallError
from graphpress.passes.palettization.layout import Layout, channel_magnitudes, layout_of
from graphpress.passes.palettization.quantized_tables import nearest_entries, scalar_tables, vector_tables
from graphpress.passes.palettization.weight import PalettizedWeight
from graphpress.passes.specs import PalettizationSpec

# Two scales of so many bits have a product of `SCALE_BITS`, exactly.
_HALF_BITS = SCALE_BITS // 2


def palettize(
    tensor: Tensor,
    spec: PalettizationSpec,
    op_type: str = "linear",
    *,
    name: str = "weight",
    seed: int = 0,
    importance: Tensor | None = None,
) -> PalettizedWeight:
    """Cluster a weight and store it as indices into tables.

    Values are assigned to what is stored: entries in the weight's dtype, or dequantized ones. With scales per channel
    the weight is divided by them first, so that every channel counts by its own magnitude. Depends on nothing but the
    arguments.

    Args:
        tensor: the weight: any floating dtype of 16 bits or more; it is only read.
        spec: how.
        op_type: of the op that reads it, such as ``conv2d``, which tells its output channels from its input channels.
        name: for errors.
        seed: of vector clustering; scalar clustering draws nothing.
        importance: how much the squared error of each element counts, of the weight's shape, not negative.

    Raises:
        PalettizationError: for values that are not finite, tensors without elements, or dtypes that are not floating.
        TooSmallError: for fewer values than a table has entries.
        AxisError, BlockSizeError: when the weight cannot be cut as the spec says.
    """
    _check(tensor, name)
    layout = layout_of(tuple(tensor.shape), spec, op_type, name)
    if layout.per_table < spec.n_clusters:
        raise TooSmallError(
            f"{name} of shape {layout.shape} has {layout.per_table} entries for each table of {spec.n_clusters}: as it "
            "is it takes less space"
        )
    weight = tensor.detach().cpu()
    counts = None if importance is None else importance.detach().cpu().float().expand(layout.shape)
    channel_scale = None
    if spec.enable_per_channel_scale:
        channel_scale = round_up(channel_magnitudes(weight, layout.channel_axis), _HALF_BITS)
        weight = weight.float() / channel_scale
        counts = None if counts is None else counts * channel_scale.square()
    rows = layout.rows(weight)
    row_counts = None if counts is None else layout.rows(counts)
    if row_counts is not None and layout.width > 1:
        row_counts = row_counts.mean(-1)  # the entries of a vector are moved together
    if spec.lut_qspec is None:
        found = _plain(rows, spec, layout, row_counts, seed, tensor.dtype, channel_scale)
    else:
        found = _quantized(rows, spec, layout, row_counts, seed, tensor.dtype, channel_scale, name)
    return _on_device(found, tensor.device)


def assign(tensor: Tensor, like: PalettizedWeight, spec: PalettizationSpec, op_type: str = "linear") -> Tensor:
    """The indices of `tensor`, changed since it was palettized, in the tables of `like`: uint8 of their shape."""
    layout = layout_of(tuple(tensor.shape), spec, op_type, "weight")
    weight = tensor.detach().cpu().float()
    scale, zero_point, minval = (None if p is None else p.cpu() for p in (like.scale, like.zero_point, like.minval))
    # In units of the scale, which may differ between channels of one table, a code is its own value.
    weight = weight if minval is None else weight - minval
    weight = weight if scale is None else weight / scale
    weight = weight if zero_point is None else weight + zero_point
    tables = like.lut.cpu().float() - (0.0 if minval is None else like.lut_type.minimum)
    tables = tables.reshape(layout.tables, -1, layout.width)
    return layout.indices(nearest_entries(layout.rows(weight), tables)).to(tensor.device)


def _plain(
    rows: Tensor,
    spec: PalettizationSpec,
    layout: Layout,
    counts: Tensor | None,
    seed: int,
    dtype: torch.dtype,
    channel_scale: Tensor | None,
) -> PalettizedWeight:
    if layout.width == 1:
        clusters = cluster_groups(rows, spec.n_clusters, counts, _snap_to(dtype))
        tables = torch.from_numpy(clusters.centroids)[..., None]
        indices = torch.from_numpy(clusters.indices)
    else:
        tables = _vector_centroids(rows, spec, counts, seed).to(dtype).float()
        indices = nearest_entries(rows, tables)
    return PalettizedWeight(
        layout.indices(indices),
        layout.lut(tables.to(dtype)),
        layout.channel_axis,
        spec.n_bits,
        dtype,
        channel_scale,
    )


def _quantized(
    rows: Tensor,
    spec: PalettizationSpec,
    layout: Layout,
    counts: Tensor | None,
    seed: int,
    dtype: torch.dtype,
    channel_scale: Tensor | None,
    name: str,
) -> PalettizedWeight:
    assert spec.lut_qspec is not None
    bits = SCALE_BITS if channel_scale is None else _HALF_BITS
    grid = EntryGrid(spec.lut_qspec, bits, dtype if channel_scale is None else torch.float32)
    grid.check(name)
    if layout.width == 1:
        tables = scalar_tables(rows, spec.n_clusters, counts, grid)
    else:
        tables = vector_tables(rows, _vector_centroids(rows, spec, counts, seed), counts, grid)
    scale, zero_point, minval = _of_weight(tables, layout, channel_scale)
    return PalettizedWeight(
        layout.indices(nearest_entries(rows, tables.values)),
        layout.lut(tables.codes),
        layout.channel_axis,
        spec.n_bits,
        dtype,
        scale,
        zero_point,
        minval,
    )


def _of_weight(
    tables: QuantizedTables, layout: Layout, channel_scale: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Scale, zero point and minimum of the tables, in the weight's rank and times the scale of each channel."""
    scale = _ranked(tables.scale, layout)
    zero_point = None if tables.zero_point is None else _ranked(tables.zero_point, layout)
    minval = None if tables.minval is None else _ranked(tables.minval, layout)
    if channel_scale is not None:
        scale = scale * channel_scale
        minval = None if minval is None else minval * channel_scale
        zero_point = None if zero_point is None else zero_point.expand(scale.shape).contiguous()
    return scale, zero_point, minval


def _ranked(parameters: Tensor, layout: Layout) -> Tensor:
    """Parameters [tables or 1] in the weight's rank: one, or one for each channel along the group axis."""
    shape = [1] * len(layout.shape)
    if len(parameters) > 1:
        shape[layout.group_axis] = layout.shape[layout.group_axis]
        parameters = parameters.repeat_interleave(shape[layout.group_axis] // layout.tables)
    return parameters.reshape(shape)


def _vector_centroids(rows: Tensor, spec: PalettizationSpec, counts: Tensor | None, seed: int) -> Tensor:
    """Float centroids, float32 [tables, entries, width]."""
    weights = [None] * len(rows) if counts is None else counts
    found = [cluster_vectors(row, spec.n_clusters, seed, weight) for row, weight in zip(rows, weights, strict=True)]
    return torch.stack([torch.from_numpy(clusters.centroids) for clusters in found])


def _snap_to(dtype: torch.dtype) -> Callable[[np.ndarray], np.ndarray] | None:
    """Rounds tables to what a weight's dtype holds; None where it holds every float32."""
    if dtype in (torch.float32, torch.float64):
        return None
    return lambda tables: torch.from_numpy(tables).to(dtype).float().numpy()


def _check(tensor: Tensor, name: str) -> None:
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        raise PalettizationError(f"{name} has dtype {tensor.dtype}; floating weights of 16 bits or more are palettized")
    if not tensor.numel():
        raise TooSmallError(f"{name} of shape {tuple(tensor.shape)} has no elements")
    finite = torch.isfinite(tensor.detach())
    if not bool(finite.all()):
        bad = tensor.numel() - int(finite.sum())
        raise PalettizationError(f"{name}: {bad} of {tensor.numel()} elements are NaN or infinite; all must be finite")


def _on_device(weight: PalettizedWeight, device: torch.device) -> PalettizedWeight:
    if device.type == "cpu":
        return weight
    moved = {
        name: value.to(device)
        for name in ("indices", "lut", "scale", "zero_point", "minval")
        if (value := getattr(weight, name)) is not None
    }
    return evolve(weight, **moved)
