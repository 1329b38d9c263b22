"""The observer of an eagerly quantized model, which quantizes the tensors of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphpress.eager import CallObserver, ModuleCall, OpCall, Operator, TensorUse, tensor_operands
from graphpress.eager.observing import Entered, calls_under_way, link_of, name_of_call
from graphpress.eager.operators import Place, signature
from graphpress.eager.recording import entering_tensors, tensors_in
from graphpress.modules.forms import is_state
from graphpress.passes.config import ConfigResolver, QuantizerConfig
from graphpress.quantization.eager.placing import (
    COVERED_OPS,
    CallQuantizers,
    Placed,
    has_boundaries,
    named_op_types,
    place_boundary,
    place_op,
)
from graphpress.quantization.eager.quantized_module import HELD, HeldQuantizers, held_by, holder_in
from graphpress.quantization.fake_quantize import fake_quantizer

BOUNDARY = "boundary"
"""Key of the placement at a module's boundary; placements of ops have tuples as keys."""


class QuantizingObserver(CallObserver):
    """Quantizes inputs and outputs of calls.

    An op or module that is first called later gets its quantizers then, by the config. They pass values through until
    they are calibrated, so branches that were not recorded also run.

    Args:
        config: the config.
        may_place: False adds no quantizers to new calls, as after `finalize`.
    """

    def __init__(self, config: QuantizerConfig, *, may_place: bool = True):
        self.config = config
        self.may_place = may_place
        self._compile()

    def _compile(self) -> None:
        named = named_op_types(self.config)
        self._watched = None if named is None else COVERED_OPS | named
        self._has_boundaries = has_boundaries(self.config)
        self._resolver: ConfigResolver | None = None
        self._rewritten: dict[int, tuple[Tensor, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "may_place": self.may_place}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._compile()

    @property
    def resolver(self) -> ConfigResolver:
        """The compiled config."""
        if self._resolver is None:
            self._resolver = ConfigResolver(self.config)
        return self._resolver

    def call(self, operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """See the base class."""
        if self._rewritten:
            args, kwargs = self._current((args, kwargs))
        if (self._watched is not None and operator.op_type not in self._watched) or "out" in kwargs:
            return operator.function(*args, **kwargs)
        entered, name = name_of_call(operator.op_type)
        memory, key = entered.link.memory, (name, signature(args))
        placement: CallQuantizers | None = memory.get(key)
        if placement is None:
            if not self.may_place:
                return operator.function(*args, **kwargs)
            return self._call_first(entered, key, operator, args, kwargs)
        held = entered.module._modules.get(HELD)
        if held is None:
            return operator.function(*args, **kwargs)
        read, named = _read(placement.inputs, held, args, kwargs)
        if operator.writes(args, kwargs) and (read is not args or named is not kwargs or placement.outputs):
            return self._written_back(args[0], _made(placement.outputs, held, _call_pure(operator, read, named)))
        return _made(placement.outputs, held, operator.function(*read, **named))

    def call_other(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """See the base class."""
        if self._rewritten:
            args, kwargs = self._current((args, kwargs))
        return function(*args, **kwargs)

    def call_module(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """See the base class."""
        if not self._has_boundaries:
            result = forward(*args, **kwargs)
        else:
            result = self._call_bounded(module, forward, args, kwargs)
        if self._rewritten and len(calls_under_way()) == 1:
            result = self._current(result)
            self._rewritten.clear()
        return result

    def _call_bounded(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        link = link_of(module)
        assert link is not None
        placement: CallQuantizers | None = link.memory.get(BOUNDARY)
        call = None
        if placement is None:
            if not self.may_place:
                return forward(*args, **kwargs)
            inputs = _uses(entering_tensors(module, args, kwargs))
            call = ModuleCall(module, link.calls, inputs, ())
            placement = self._add(module, place_boundary(call, self.resolver))
        with torch._C.DisableTorchFunction():
            args, kwargs = _at_boundary(placement.inputs, held_by(module), (args, kwargs))
        result = forward(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if call is not None:
                outputs = _uses(("output", tensor) for tensor in tensors_in(result))
                call = ModuleCall(module, link.calls, call.inputs, outputs)
                placement = link.memory[BOUNDARY] = self._add(module, place_boundary(call, self.resolver))
            return _at_boundary(placement.outputs, held_by(module), result)

    def place(self, module: nn.Module, key: Any, placement: CallQuantizers) -> None:
        """Store `placement` for the call `key` of `module`, and create its quantizers."""
        link = link_of(module)
        assert link is not None
        link.memory[key] = self._add(module, placement)

    def _call_first(
        self, entered: Entered, key: Any, operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Make the first call of an op, and place its quantizers."""
        module, calls = entered.module, entered.link.calls
        states = _stored_tensors()
        operands = tuple(
            _use(operand.name, operand.place, operand.tensor, states)
            for operand in tensor_operands(operator, args, kwargs)
        )
        call = OpCall(calls, key[0], operator.op_type, operands, (), module, key[1])
        placement = self._add(module, place_op(call, self.resolver))
        held = held_by(module)
        read, named = (args, kwargs) if held is None else _read(placement.inputs, held, args, kwargs)
        is_written = operator.writes(args, kwargs) and bool(args)
        result = _call_pure(operator, read, named) if is_written else operator.function(*read, **named)
        call.results = _uses(("output", tensor) for tensor in tensors_in(result))
        self.place(module, key, place_op(call, self.resolver))
        held = held_by(module)
        result = result if held is None else _made(entered.link.memory[key].outputs, held, result)
        return self._written_back(args[0], result) if is_written else result

    def _written_back(self, target: Tensor, result: Tensor) -> Tensor:
        """Write the result of an in-place op to `target` and return it.

        Core ML's converter does not support such writes, so in a trace the result replaces `target` in later reads.
        """
        if not torch.jit.is_tracing():  # type: ignore[attr-defined]
            return target.copy_(result)
        self._rewritten[id(target)] = target, result
        return result

    def _current(self, values: Any) -> Any:
        """Replace tensors in `values` that were written to in this trace by their current values."""

        def current(value: Any) -> Any:
            while id(value) in self._rewritten:
                value = self._rewritten[id(value)][1]
            return value

        return pytree.tree_map(current, values)

    def _add(self, module: nn.Module, placement: CallQuantizers) -> CallQuantizers:
        """Create the quantizers of `placement` that `module` does not hold yet."""
        for placed in (*placement.inputs, *placement.outputs):
            held = held_by(module) or holder_in(module, _nearest_holder())
            if held.get(placed.key) is None:
                link = link_of(module)
                assert link is not None
                name = link.calls.qualified(placed.key)
                quantizer = fake_quantizer(name, placed.spec, placed.block_size, data_dtype=placed.dtype)
                quantizer.schedule = self.resolver.training_schedule(link.calls.stack)
                held.add(placed.key, quantizer)
        return placement


def _read(
    placed: Sequence[Placed], held: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Quantize the arguments that have quantizers; without any, return the same objects."""
    quantizers = held._modules
    positional: list[Any] | None = None
    for each in placed:
        quantizer = quantizers.get(each.key)
        if quantizer is None:
            continue
        place = each.place
        if place.__class__ is int:
            value: Tensor = args[place]
            if value.is_floating_point():
                positional = list(args) if positional is None else positional
                positional[place] = quantizer(value)
        elif place in kwargs:
            if kwargs[place].is_floating_point():  # type: ignore[index]
                kwargs = {**kwargs, place: quantizer(kwargs[place])}  # type: ignore[dict-item,index]
        elif isinstance(place, tuple):
            outer, index = place
            if isinstance(outer, int):
                positional = list(args) if positional is None else positional
                positional[outer] = _with_item(positional[outer], index, quantizer)
            elif outer in kwargs:
                kwargs = {**kwargs, outer: _with_item(kwargs[outer], index, quantizer)}
    return (args if positional is None else tuple(positional)), kwargs


def _with_item(items: Any, index: int, quantizer: Callable[[Tensor], Tensor]) -> Any:
    """Return a list or tuple with one item quantized."""
    if index >= len(items) or not isinstance(items[index], Tensor) or not items[index].is_floating_point():
        return items
    changed = list(items)
    changed[index] = quantizer(items[index])
    return changed if isinstance(items, list) else tuple(changed)


def _made(placed: Sequence[Placed], held: nn.Module, result: Any) -> Any:
    """Quantize the results of a call."""
    if not placed:
        return result
    if isinstance(result, Tensor):
        quantizer = held._modules.get(placed[0].key)
        return result if quantizer is None or not result.is_floating_point() else quantizer(result)
    return _at_boundary(placed, held, result)


def _at_boundary(placed: Sequence[Placed], held: nn.Module | None, values: Any) -> Any:
    """Quantize tensors in nested values; a place is an index among the tensors."""
    if not placed or held is None:
        return values
    leaves, structure = pytree.tree_flatten(values)
    at = [position for position, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    for each in placed:
        quantizer = held._modules.get(each.key)
        if quantizer is not None and isinstance(each.place, int) and each.place < len(at):
            leaf = leaves[at[each.place]]
            leaves[at[each.place]] = quantizer(leaf) if leaf.is_floating_point() else leaf
    return pytree.tree_unflatten(leaves, structure)


def _call_pure(operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Compute the result of an in-place op without writing to its first argument."""
    if operator.pure is not None:
        return operator.pure(*args, **kwargs)
    if not operator.is_in_place:  # in place by an argument
        args = args[: operator.operands.index("inplace")] if "inplace" in operator.operands else args
        return operator.function(*args, **{**kwargs, "inplace": False})
    copy = args[0].clone()  # such as __setitem__, which returns nothing
    result = operator.function(copy, *args[1:], **kwargs)
    return copy if result is None else result


def _stored_tensors() -> set[int]:
    """Return the data pointers of the buffers of the running model."""
    outermost = calls_under_way()[0].module
    return {buffer.untyped_storage().data_ptr() for buffer in outermost.buffers() if buffer.numel()}


def _use(name: str, place: Place, tensor: Tensor, stored: set[int] = frozenset()) -> TensorUse:  # type: ignore[assignment]
    is_constant = is_state(tensor) or (bool(stored) and tensor.untyped_storage().data_ptr() in stored)
    shape, stride = tuple(tensor.shape), tuple(tensor.stride())
    return TensorUse(name, place, shape, stride, tensor.dtype, states=() if is_constant else None)


def _uses(named: Iterable[tuple[str, Tensor]]) -> tuple[TensorUse, ...]:
    return tuple(_use(name, index, tensor) for index, (name, tensor) in enumerate(named))


def _nearest_holder() -> HeldQuantizers | None:
    """Return the quantizers of the innermost running module that has any, whose switches new ones copy."""
    holders = (held_by(entered.module) for entered in reversed(calls_under_way()))
    return next((held for held in holders if held is not None), None)
