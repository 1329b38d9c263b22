"""Resolution of the config to the quantizers of ops and module boundaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from attrs import evolve, frozen

from graphpress.eager import ModuleCall, ModuleCalls, OpCall, TensorUse
from graphpress.eager.operators import Place
from graphpress.passes.analysis.placement import places_input, places_output
from graphpress.passes.analysis.quantization_points import activation_block
from graphpress.passes.analysis.weights import can_be_weight
from graphpress.passes.config import ConfigResolver, Decision, OpLevel, OpSite, QuantizationSpec, QuantizerConfig
from graphpress.passes.config.entries import canonical_op_type

COVERED_OPS = frozenset(
    """
    linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d bilinear embedding embedding_bag
    add sub mul div matmul mm bmm addmm baddbmm einsum scaled_dot_product_attention
    max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    """.split()  # noqa: SIM905
)
"""Op types that `op_input_spec` and `op_output_spec` of a module config apply to.

Other ops, including activations and norms, are quantized only if `op_type_config`, `op_name_config` or
`kv_cache_quant_configs` selects them. Without a graph, fusions by the backend are unknown, and a quantizer between a
convolution and its norm or activation costs accuracy.
"""


def is_meant(op_type: str, decision: Decision) -> bool:
    """Return True if `decision` has a spec and selects an op of this type."""
    if decision.spec is None:
        return False
    return op_type in COVERED_OPS or (decision.op_level is not None and decision.op_level >= OpLevel.OP_TYPE)


def quantizes_activations(config: QuantizerConfig) -> bool:
    """Return True if an entry of the config quantizes activations; otherwise calls need not be observed."""
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
    """Return True if an entry quantizes inputs or outputs of modules."""
    modules = [config.global_config, *config.module_type_configs.values(), *config.module_name_configs.values()]
    return any(m is not None and (m.module_input_spec or m.module_output_spec) for m in modules)


def named_op_types(config: QuantizerConfig) -> frozenset[str] | None:
    """Return the additional op types that entries select, or None for any type if entries select ops by name."""
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


@frozen
class Placed:
    """A quantizer at a tensor of a call: its key in the module, the place in the call, its settings, and the dtype.

    The place of a result, or of an input or output of a module, is its index.
    """

    key: str
    place: Place
    spec: QuantizationSpec
    block_size: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32


@frozen
class CallQuantizers:
    """The quantizers of one call, at its inputs and at its outputs."""

    inputs: tuple[Placed, ...] = ()
    outputs: tuple[Placed, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)

    def without_input(self, key: str) -> CallQuantizers:
        """Return the placement without the quantizer of an input."""
        return evolve(self, inputs=tuple(placed for placed in self.inputs if placed.key != key))

    def without_output(self, index: int) -> CallQuantizers:
        """Return the placement without the quantizer of a result."""
        return evolve(self, outputs=tuple(placed for placed in self.outputs if placed.place != index))


NOTHING = CallQuantizers()


def site_of(call: OpCall) -> OpSite:
    """Return the op as configs address it; a weight is addressed by its own name, its operand and ``weight``."""
    states: list[str] = []
    for use in call.operands:
        if use.states is not None:
            states += [use.name, *(name.rpartition(".")[2] for name in use.states)]
            states += ["weight"] if can_be_weight(call.op_type, use.operand, len(use.shape)) else []
    return OpSite(
        call.qualified_name,
        call.op_type,
        call.module_stack,
        inputs=tuple(use.name for use in call.operands),
        outputs=tuple(use.name for use in call.results) or ("output",),
        states=tuple(dict.fromkeys(states)),
    )


def place_op(call: OpCall, resolver: ConfigResolver) -> CallQuantizers:
    """Resolve the quantizers of an op.

    Tensors that are computed from parameters and buffers alone are not activations; buffers that the model writes to
    are.

    Raises:
        AxisError, BlockSizeError: if a granularity does not fit a tensor.
    """
    site = site_of(call)
    inputs = tuple(
        _placed(f"{call.name}_{use.name}", use, decision, call.calls)
        for position, use in enumerate(call.operands)
        if is_activation(use)
        and is_meant(call.op_type, decision := resolver.explain_input(site, position, use.name))
        and places_input(resolver.placement, call.op_type, use.operand, decision)
    )
    several = len(call.results) > 1
    outputs = tuple(
        _placed(f"{call.name}_output_{index}" if several else f"{call.name}_output", use, decision, call.calls)
        for index, use in enumerate(call.results)
        if is_activation(use)
        and is_meant(call.op_type, decision := resolver.explain_output(site, index))
        and places_output(resolver.placement, decision)
    )
    return CallQuantizers(inputs, outputs) if inputs or outputs else NOTHING


def place_boundary(call: ModuleCall, resolver: ConfigResolver) -> CallQuantizers:
    """Resolve the quantizers of the inputs and outputs of a module."""
    stack = call.calls.stack
    inputs = tuple(
        _placed(f"module_input_{index}", use, decision, call.calls)
        for index, use in enumerate(call.inputs)
        if is_activation(use) and (decision := resolver.explain_module_input(stack, index, use.name)).spec is not None
    )
    outputs = tuple(
        _placed(f"module_output_{index}", use, decision, call.calls)
        for index, use in enumerate(call.outputs)
        if is_activation(use) and (decision := resolver.explain_module_output(stack, index)).spec is not None
    )
    return CallQuantizers(inputs, outputs) if inputs or outputs else NOTHING


def overridden(
    modules: Iterable[ModuleCall], ops: Iterable[OpCall], resolver: ConfigResolver
) -> Iterator[tuple[OpCall, TensorUse, bool]]:
    """Yield the op tensors whose quantization a module boundary overrides: op, tensor, and whether the op reads it."""
    entering: dict[int, list[ModuleCalls]] = {}
    for call in modules:
        stack = call.calls.stack
        for index, use in enumerate(call.inputs):
            if resolver.explain_module_input(stack, index, use.name).explicit:
                entering.setdefault(use.identity, []).append(call.calls)
        for index, use in enumerate(call.outputs):
            if use.producer is not None and resolver.explain_module_output(stack, index).explicit:
                op, result = use.producer
                yield op, op.results[result], False
    for op in ops:
        for use in op.operands:
            if any(set(calls.stack) <= set(op.module_stack) for calls in entering.get(use.identity, ())):
                yield op, use, True


def is_activation(use: TensorUse) -> bool:
    """Return True for a floating tensor of one axis or more that depends on data."""
    return use.states is None and use.dtype in _FLOATING and use.shape != ()


_FLOATING = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})


def _placed(key: str, use: TensorUse, decision: Decision, calls: ModuleCalls) -> Placed:
    spec: QuantizationSpec = decision.spec  # type: ignore[assignment]
    name = calls.qualified(key)
    return Placed(key, use.place, spec, activation_block(spec.granularity, use.shape, name), use.dtype)
