"""The ops whose activations the blanket entries of a config mean in eager mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphpress.passes.configs import Decision, OpLevel, QuantizerConfig
from graphpress.passes.configs.matching import canonical_op_type

COVERED_OPS = frozenset(
    """
    linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d bilinear embedding embedding_bag
    add sub mul div matmul mm bmm addmm baddbmm einsum scaled_dot_product_attention
    max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    """.split()  # noqa: SIM905
)
"""Op types that `op_input_spec` and `op_output_spec` of a module config cover.

Every other op, activations and norms among them, is quantized where `op_type_config`, `op_name_config` or
`kv_cache_quant_configs` means it. Without a graph nobody knows what a backend will fuse, and a quantizer between a
convolution and its norm or activation costs accuracy.
"""


def is_meant(op_type: str, decision: Decision) -> bool:
    """True when `decision`, about an op of that type, has a spec and means this op."""
    if decision.spec is None:
        return False
    return op_type in COVERED_OPS or (decision.op_level is not None and decision.op_level >= OpLevel.OP_TYPE)


def quantizes_activations(config: QuantizerConfig) -> bool:
    """False when no entry of the config asks for a quantized activation: nothing need be watched then."""
    if config.kv_cache_quant_configs:
        return True
    modules = [config.global_config, *config.module_type_configs.values(), *config.module_name_configs.values()]
    for module in modules:
        if module is None:
            continue
        ops = [*module.op_type_config.values(), *module.op_name_config.values()]
        tables = [module.module_input_spec, module.module_output_spec]
        tables += [table for each in (module, *ops) if each for table in (each.op_input_spec, each.op_output_spec)]
        if any(_asks(table) for table in tables):
            return True
    return False


def has_boundaries(config: QuantizerConfig) -> bool:
    """True when an entry speaks of what enters or leaves modules."""
    modules = [config.global_config, *config.module_type_configs.values(), *config.module_name_configs.values()]
    return any(m is not None and (m.module_input_spec or m.module_output_spec) for m in modules)


def named_op_types(config: QuantizerConfig) -> frozenset[str] | None:
    """The op types, beyond the covered ones, that entries mean; None for any, where ops are meant by name."""
    found = {canonical_op_type(op_type) for op_type in config.kv_cache_quant_configs}
    modules = [config.global_config, *config.module_type_configs.values(), *config.module_name_configs.values()]
    for module in modules:
        if module is None:
            continue
        if module.op_name_config:
            return None
        found.update(canonical_op_type(op_type) for op_type in module.op_type_config)
    return frozenset(found)


def _asks(table: Mapping[Any, Any] | None) -> bool:
    return any(spec is not None for spec in (table or {}).values())
