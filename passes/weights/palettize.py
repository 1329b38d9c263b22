"""Palettization of one weight, with plain or quantized, scalar or vector lookup tables."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from graphpress.passes.clustering import Effort, OrderedVectors, cluster_groups, padded
from graphpress.passes.config import PalettizationSpec, QuantizationFormulation, VectorKMeansConfig
from graphpress.passes.weights.errors import PalettizationError, TooSmallError
from graphpress.passes.weights.layout import Layout, channel_magnitudes, layout_of
from graphpress.passes.weights.palettized_weight import (
    HALF_BITS,
    PalettizedWeight,
    entry_grid,
    plain_weight,
    quantized_weight,
)
from graphpress.passes.weights.tables import nearest_entries, round_up, scalar_tables, vector_tables


def palettize(
    tensor: Tensor,
    spec: PalettizationSpec,
    op_type: str = "linear",
    *,
    name: str = "weight",
    seed: int = 0,
    importance: Tensor | None = None,
    mask: Tensor | None = None,
    vectors: VectorKMeansConfig | None = None,
) -> PalettizedWeight:
    """Palettize a weight by clustering.

    Values are assigned to the stored entries: entries in the weight's dtype, or dequantized ones. With per-channel
    scales the weight is divided by them first, so that every channel counts by its own magnitude. Deterministic for
    given arguments.

    Args:
        tensor: the weight: any floating dtype of 16 bits or more; it is not changed.
        spec: the palettization spec.
        op_type: the op that reads the weight, such as ``conv2d``, which determines the output channel axis.
        name: the name in error messages.
        seed: the seed of vector clustering; scalar clustering is not random.
        importance: the non-negative weight of each element's squared error, of a shape that expands to the weight's.
        mask: True for the elements that a pruned weight keeps, of its shape. The others are zeros, which stay exact:
            one entry of each table is zero, and the others are fitted to the kept elements.
        vectors: the effort of vector clustering; None depends on the weight.

    Raises:
        PalettizationError: if values are not finite, the tensor is empty or not floating, or the weight is pruned and
            its tables cannot hold a zero.
        TooSmallError: if there are fewer values than table entries.
        AxisError, BlockSizeError: if the spec does not fit the shape.
    """
    layout = _checked_layout(tensor, spec, op_type, name)
    _check_finite(tensor, name)
    if mask is not None:
        _check_zero(spec, name)
        kept = mask.detach().cpu().float()
        importance = kept if importance is None else importance.detach().cpu().float() * kept
    # Held by no name here, nor by a partial: what is clustered is given up as soon as it has been copied.
    if layout.width == 1:
        found = _scalars(
            _clustering_input(tensor, importance, spec, layout, mask is not None), spec, layout, tensor.dtype
        )
    else:
        found = _vectors(
            _clustering_input(tensor, importance, spec, layout, mask is not None),
            spec,
            layout,
            tensor.dtype,
            seed=seed,
            effort=_effort(vectors),
        )
    return _on_device(evolve(found, mask=mask), tensor.device)


def unfilled(
    tensor: Tensor, spec: PalettizationSpec, op_type: str, *, name: str = "weight", mask: Tensor | None = None
) -> PalettizedWeight:
    """Return a weight with the structure that `palettize` gives it, to be filled; nothing is clustered.

    The arguments are those of `palettize`; the elements of `tensor` are not read.

    Raises:
        PalettizationError, TooSmallError, AxisError, BlockSizeError: as by `palettize`, for the same shapes.
    """
    layout = _checked_layout(tensor, spec, op_type, name)
    entries = torch.linspace(-1, 1, spec.n_clusters)[None, :, None]
    tables = entries.expand(layout.tables, spec.n_clusters, layout.width)
    indices = torch.zeros(layout.index_shape, dtype=torch.uint8)
    channel_scale = None
    if spec.enable_per_channel_scale:
        axes = range(len(layout.shape))
        channel_scale = torch.ones(
            [n if axis == layout.channel_axis else 1 for axis, n in zip(axes, layout.shape, strict=True)]
        )
    if spec.lut_qspec is None:
        found = plain_weight(indices, tables, channel_scale, spec, layout, tensor.dtype)
    else:
        quantized = entry_grid(spec, tensor.dtype).plain(tables)
        found = quantized_weight(indices, quantized, channel_scale, spec, layout, tensor.dtype)
    return _on_device(evolve(found, mask=mask), tensor.device)


def assign(tensor: Tensor, like: PalettizedWeight, spec: PalettizationSpec, op_type: str = "linear") -> Tensor:
    """Return the indices of the changed `tensor` in the tables of `like`: uint8 of the same shape."""
    layout = layout_of(tuple(tensor.shape), spec, op_type, "weight")
    weight = tensor.detach().cpu().float()
    scale, zero_point, minval = (None if p is None else p.cpu() for p in (like.scale, like.zero_point, like.minval))
    # Divided by the scale, which may differ between channels of one table, an entry is its code.
    weight = weight if minval is None else weight - minval
    weight = weight if scale is None else weight / scale
    weight = weight if zero_point is None else weight + zero_point
    tables = like.lut.cpu().float() - (0.0 if minval is None else like.lut_type.minimum)
    tables = tables.reshape(layout.tables, -1, layout.width)
    return layout.indices(nearest_entries(layout.rows(weight), tables)).to(tensor.device)


@frozen(eq=False)
class _ClusteringInput:
    """A weight prepared for clustering.

    Attributes:
        rows: the elements of each table, see `Layout.rows`; of the weight's dtype, or float32 if scaled.
        counts: the importance of each entry, float32 [tables, per_table], or None.
        channel_scale: the scales the weight was divided by, or None.
        has_zeros: whether one entry of each table must be zero.
    """

    rows: Tensor
    counts: Tensor | None
    channel_scale: Tensor | None
    has_zeros: bool = False


def _clustering_input(
    tensor: Tensor, importance: Tensor | None, spec: PalettizationSpec, layout: Layout, has_zeros: bool
) -> _ClusteringInput:
    weight = tensor.detach().cpu()
    counts = None if importance is None else importance.detach().cpu().float().expand(layout.shape)
    channel_scale = None
    if spec.enable_per_channel_scale:
        channel_scale = round_up(channel_magnitudes(weight, layout.channel_axis), HALF_BITS)
        weight = weight.float().div(channel_scale)
        counts = None if counts is None else counts * channel_scale.square()
    rows = layout.rows(weight)
    del weight  # rows may be a copy; avoids a third one
    row_counts = None if counts is None else layout.rows(counts)
    if row_counts is not None and layout.width > 1:
        row_counts = row_counts.mean(-1)  # the entries of a vector move together
    return _ClusteringInput(rows, row_counts, channel_scale, has_zeros)


def _scalars(
    prepared: _ClusteringInput, spec: PalettizationSpec, layout: Layout, dtype: torch.dtype
) -> PalettizedWeight:
    """Palettize by scalar clustering."""
    entries = spec.n_clusters - prepared.has_zeros
    if spec.lut_qspec is None:
        clusters = cluster_groups(prepared.rows, entries, prepared.counts, _snap_to(dtype))
        tables = torch.from_numpy(clusters.centroids)[..., None]
        if prepared.has_zeros:
            tables = torch.cat([tables, torch.zeros_like(tables[:, :1])], 1).sort(1).values
            indices = layout.indices(nearest_entries(prepared.rows, tables))
        else:
            indices = layout.indices(torch.from_numpy(clusters.indices))
        return plain_weight(indices, tables, prepared.channel_scale, spec, layout, dtype)
    quantized = scalar_tables(prepared.rows, entries, prepared.counts, entry_grid(spec, dtype))
    if prepared.has_zeros:
        quantized = quantized.with_zero()
    indices = layout.indices(nearest_entries(prepared.rows, quantized.values))
    return quantized_weight(indices, quantized, prepared.channel_scale, spec, layout, dtype)


def _vectors(
    prepared: _ClusteringInput,
    spec: PalettizationSpec,
    layout: Layout,
    dtype: torch.dtype,
    *,
    seed: int,
    effort: Effort | None,
) -> PalettizedWeight:
    """Palettize by vector clustering, with the same seed for each table."""
    counts = [None] * len(prepared.rows) if prepared.counts is None else prepared.counts
    rows = prepared.rows.float()
    # The data is copied below; this reference would keep it alive.
    prepared = evolve(prepared, rows=rows[:0].clone(), counts=None)
    vectors = [OrderedVectors.of(row, count) for row, count in zip(rows, counts, strict=True)]
    del rows
    found = [padded(each.centroids(spec.n_clusters, seed, effort), spec.n_clusters) for each in vectors]
    tables = torch.from_numpy(np.stack(found))

    def indices(values: Tensor) -> Tensor:
        assigned = [each.assign(table.numpy())[0] for each, table in zip(vectors, values, strict=True)]
        return layout.indices(torch.from_numpy(np.stack(assigned)))

    if spec.lut_qspec is None:
        tables = tables.to(dtype)
        return plain_weight(indices(tables.float()), tables, prepared.channel_scale, spec, layout, dtype)
    quantized = vector_tables(vectors, tables, entry_grid(spec, dtype))
    return quantized_weight(indices(quantized.values), quantized, prepared.channel_scale, spec, layout, dtype)


def _effort(vectors: VectorKMeansConfig | None) -> Effort | None:
    if vectors is None:
        return None
    trials = {} if vectors.n_local_trials is None else {"candidates": vectors.n_local_trials}
    return Effort(attempts=vectors.n_init, steps=vectors.max_iter, least_gain=vectors.tol, **trials)


def detected_mask(tensor: Tensor, spec: PalettizationSpec) -> Tensor | None:
    """Return True for the elements of a weight that are not zero, if more are zero than its spec tolerates, else None.

    Weights of other dtypes than floats, and those with nothing but zeros, have none.
    """
    threshold = spec.sparsity_detection_threshold
    if threshold is None or not tensor.is_floating_point() or not tensor.numel():
        return None
    mask = tensor.detach() != 0
    kept = int(mask.sum())
    return mask if kept and 1 - kept / tensor.numel() > threshold else None


def _snap_to(dtype: torch.dtype) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return a function that rounds tables to a weight's dtype, or None if it holds every float32."""
    if dtype in (torch.float32, torch.float64):
        return None
    return lambda tables: torch.from_numpy(tables).to(dtype).float().numpy()


def _check_zero(spec: PalettizationSpec, name: str) -> None:
    """Raise if tables of this spec cannot hold an exact zero, or have vector entries."""
    if spec.cluster_dim > 1:
        raise PalettizationError(
            f"{name} is pruned, and zeros are single elements; cluster_dim is {spec.cluster_dim}, accepted: 1"
        )
    if spec.lut_qspec is not None and spec.lut_qspec.qformulation is QuantizationFormulation.MINVAL:
        raise PalettizationError(
            f"{name} is pruned, and codes that count from a minimum value have none for zero; qformulation of "
            "lut_qspec: accepted is 'zp'"
        )


def _checked_layout(tensor: Tensor, spec: PalettizationSpec, op_type: str, name: str) -> Layout:
    """Return the layout of a weight.

    Raises:
        PalettizationError, TooSmallError, AxisError, BlockSizeError: see `palettize`.
    """
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        raise PalettizationError(f"{name} has dtype {tensor.dtype}; floating weights of 16 bits or more are palettized")
    if not tensor.numel():
        raise TooSmallError(name, f"of shape {tuple(tensor.shape)} has no elements")
    layout = layout_of(tuple(tensor.shape), spec, op_type, name)
    if layout.per_table < spec.n_clusters:
        raise TooSmallError(
            name,
            f"of shape {layout.shape} has {layout.per_table} entries for each table of {spec.n_clusters}: as it is it "
            "takes less space",
        )
    return layout


def _check_finite(tensor: Tensor, name: str) -> None:
    low, high = tensor.detach().aminmax()  # the ends show it: NaN wins over every number
    if not math.isfinite(low) or not math.isfinite(high):
        bad = tensor.numel() - int(torch.isfinite(tensor.detach()).sum())
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
