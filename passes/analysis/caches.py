"""Quantized key-value caches: the update ops named in `kv_cache_quant_configs`."""

from __future__ import annotations

from attrs import frozen

from graphpress.ir.annotations import annotation
from graphpress.ir.graph import Constant, Node, Output
from graphpress.passes.analysis.fusion import FusionGroup
from graphpress.passes.config import QuantizationSpec
from graphpress.passes.weights.errors import QuantizationError


@annotation("cache_update")
@frozen
class CacheUpdate:
    """Annotation of an op that writes new entries into a cache and only moves values.

    Attributes:
        cache: the operand with the cache, a model buffer that the result is written back to.
    """

    cache: str


def cache_of(node: Node) -> Constant | None:
    """Return the buffer that `node` reads and whose new value is its result, or None."""
    if len(node.results) != 1:
        return None
    written = [use.user.target for use in node.results[0].uses if isinstance(use.user, Output)]
    for _, _, value in node.operand_values():
        if value.constant is not None and any(target is value for target in written):
            return value.constant
    return None


def cache_update(node: Node, spec: QuantizationSpec) -> CacheUpdate:
    """Return the annotation for `node`, whose type has an entry in `kv_cache_quant_configs`.

    Raises:
        QuantizationError: if the node updates no buffer or computes new values, or the spec is not supported for
            caches.
    """
    where = f"{node.name} ({node.location})"
    cache = cache_of(node)
    if cache is None:
        raise QuantizationError(
            f"{where} has an entry in kv_cache_quant_configs, but updates no cache; accepted: an op that reads a "
            "buffer of the model and makes the value that is written back to it, such as index_copy or slice_scatter"
        )
    if node.annotation(FusionGroup) is not None:
        raise QuantizationError(f"{where} computes; accepted in kv_cache_quant_configs: an op that only moves values")
    if not spec.element_type.is_integer or spec.n_bits != 8:
        raise QuantizationError(f"{where}: a cache is not kept in {spec.dtype}; accepted: torch.int8, torch.uint8")
    if spec.granularity.type_name != "per_tensor":
        raise QuantizationError(f"{where}: a cache is not kept {spec.granularity.type_name}; accepted: per_tensor")
    name = next(name for name, _, value in node.operand_values() if value is cache.value)
    return CacheUpdate(name)


def sources(node: Node, note: CacheUpdate) -> list[tuple[str, int | None]]:
    """Return the operands with the new entries: every float tensor except the cache."""
    return [(name, index) for name, index, value in node.operand_values() if name != note.cache and value.is_floating]
