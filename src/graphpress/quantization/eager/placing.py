"""Which tensors of a call get which quantizers: the config, resolved for ops and module boundaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from attrs import evolve, frozen

from graphpress.eager import ModuleCall, ModuleCalls, OpCall, TensorUse
from graphpress.eager.operators import Place
from graphpress.passes.configs import ConfigResolver, Decision, OpSite
from graphpress.passes.quantization.activations import activation_block
from graphpress.passes.quantization.weights import can_be_weight
from graphpress.passes.specs import QuantizationSpec
from graphpress.quantization.eager.covered import is_meant


@frozen
class Placed:
    """A quantizer at a tensor of a call: `key` among those of the module, the place in the call, and how.

    A result has its index as the place, and so has a tensor that enters or leaves a module.
    """

    key: str
    place: Place
    spec: QuantizationSpec
    block_size: tuple[int, ...] = ()


@frozen
class Placement:
    """The quantizers of one call: those of what it reads, and those of what it makes."""

    inputs: tuple[Placed, ...] = ()
    outputs: tuple[Placed, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)

    def without_input(self, key: str) -> Placement:
        """The placement without one of its inputs' quantizers."""
        return evolve(self, inputs=tuple(placed for placed in self.inputs if placed.key != key))

    def without_output(self, index: int) -> Placement:
        """The placement without the quantizer of a result."""
        return evolve(self, outputs=tuple(placed for placed in self.outputs if placed.place != index))


NOTHING = Placement()


def site_of(call: OpCall) -> OpSite:
    """The op as configs address it; a weight goes by its own name, that of the operand, and ``weight``."""
    states: list[str] = []
    for use in call.operands:
        if use.states is not None:
            states += [use.name, *(name.rpartition(".")[2] for name in use.states)]
            states += ["weight"] if can_be_weight(call.op_type, bare(use.name), len(use.shape)) else []
    return OpSite(
        call.qualified_name,
        call.op_type,
        call.module_stack,
        inputs=tuple(use.name for use in call.operands),
        outputs=tuple(use.name for use in call.results) or ("output",),
        states=tuple(dict.fromkeys(states)),
    )


def bare(operand: str) -> str:
    """The name of an operand without its index in a list."""
    name, _, index = operand.rpartition("_")
    return name if index.isdecimal() and name in ("params", "hx", "operands", "tensors") else operand


def place_op(call: OpCall, resolver: ConfigResolver) -> Placement:
    """The quantizers of an op.

    Tensors that are made of parameters and buffers alone are no activations; a buffer that the model writes to is one.

    Raises:
        AxisError, BlockSizeError: when a granularity does not fit a tensor.
    """
    site = site_of(call)
    inputs = tuple(
        _placed(f"{call.name}_{use.name}", use, decision, call.calls)
        for position, use in enumerate(call.operands)
        if is_activation(use) and is_meant(call.op_type, decision := resolver.explain_input(site, position, use.name))
    )
    several = len(call.results) > 1
    outputs = tuple(
        _placed(f"{call.name}_output_{index}" if several else f"{call.name}_output", use, decision, call.calls)
        for index, use in enumerate(call.results)
        if is_activation(use) and is_meant(call.op_type, decision := resolver.explain_output(site, index))
    )
    return Placement(inputs, outputs) if inputs or outputs else NOTHING


def place_boundary(call: ModuleCall, resolver: ConfigResolver) -> Placement:
    """The quantizers of what enters and leaves a module."""
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
    return Placement(inputs, outputs) if inputs or outputs else NOTHING


def overridden(
    modules: Iterable[ModuleCall], ops: Iterable[OpCall], resolver: ConfigResolver
) -> Iterator[tuple[OpCall, TensorUse, bool]]:
    """The tensors of ops about which a module boundary has the last word: the op, the tensor, and if it is read."""
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
    """True for a floating tensor of one axis or more that depends on data."""
    return use.states is None and use.dtype in _FLOATING and use.shape != ()


_FLOATING = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})


def _placed(key: str, use: TensorUse, decision: Decision, calls: ModuleCalls) -> Placed:
    spec: QuantizationSpec = decision.spec  # type: ignore[assignment]
    name = calls.qualified(key)
    return Placed(key, use.place, spec, activation_block(spec.granularity, use.shape, name))
