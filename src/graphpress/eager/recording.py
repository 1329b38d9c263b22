"""Record the ops and modules that a model calls in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Any

import torch
from attrs import define, evolve, field, frozen
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from graphpress.eager.naming import ModuleCalls
from graphpress.eager.observing import CallObserver, link_of, name_of_call, observed_by
from graphpress.eager.operators import Operator, Place, signature, tensor_operands
from graphpress.modules.forms import is_state
from graphpress.passes.config import ModuleStack


@frozen(eq=False)
class TensorUse:
    """A tensor that a call reads or returns.

    Attributes:
        name: the operand's name, or ``output``.
        place: the operand's place in the call, or the result's index.
        shape, stride, dtype: those of the tensor.
        producer: the recorded op that produced it with the index of the result, or None.
        states: qualified names of the parameters and buffers it is computed from; None if it depends on data.
        is_view: True for a parameter or buffer itself, or a view of one.
        identity: a number that identifies the tensor together with its version.
    """

    name: str
    place: Place
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    producer: tuple[OpCall, int] | None = None
    states: tuple[str, ...] | None = None
    is_view: bool = False
    identity: int = -1

    @property
    def operand(self) -> str:
        """The operand's name, without an index into a list."""
        name, _, index = self.name.rpartition("_")
        return name if index.isdecimal() and name in ("params", "hx", "operands", "tensors") else self.name


@define(eq=False, repr=False)
class OpCall:
    """A recorded call of an op.

    Attributes:
        calls: the names of the module it is called in.
        name: its name in that module, such as ``add_1``.
        op_type: its type, such as ``add``.
        operands, results: the tensors it reads and returns.
        module: the module it is called in.
        signature: the kinds of its arguments, see `graphpress.eager.operators.signature`.
        equation: the equation of an einsum, or None.
    """

    calls: ModuleCalls
    name: str
    op_type: str
    operands: tuple[TensorUse, ...]
    results: tuple[TensorUse, ...]
    module: nn.Module
    signature: tuple[int, ...] = ()
    equation: str = ""

    @property
    def qualified_name(self) -> str:
        """The qualified name in the model: ``module.path.add_1``."""
        return self.calls.qualified(self.name)

    @property
    def module_stack(self) -> ModuleStack:
        """The modules it runs in, from the model inwards."""
        return self.calls.stack

    def __repr__(self) -> str:
        return f"OpCall({self.qualified_name!r}, {self.op_type!r})"


@frozen(eq=False)
class ModuleCall:
    """A recorded call of a module, with its input and output tensors."""

    module: nn.Module
    calls: ModuleCalls
    inputs: tuple[TensorUse, ...]
    outputs: tuple[TensorUse, ...]


@frozen(eq=False)
class Recording:
    """The calls of ops and of modules in one run, each in the order of their returns."""

    ops: tuple[OpCall, ...]
    modules: tuple[ModuleCall, ...]


def recorded(model: nn.Module, run: Callable[[], Any]) -> Recording:
    """Record the calls of `model` during `run`, and restore the model afterwards.

    Ops are calls of torch functions that return tensors. Calls inside torch functions, except multi-head attention, and
    inside scripted modules are not recorded.
    """
    recorder = Recorder(model)
    with observed_by(model, recorder):
        run()
    return recorder.recording()


@define(eq=False)
class _Origin:
    """The origin of a tensor: its producer, and the states it is computed from, or None if it depends on data."""

    producer: tuple[OpCall, int] | None = None
    states: frozenset[str] | None = None
    is_view: bool = False
    identity: int = field(factory=count().__next__)


class Recorder(CallObserver):
    """Observer that records the calls of one run."""

    def __init__(self, model: nn.Module):
        self._ops: list[OpCall] = []
        self._modules: list[ModuleCall] = []
        self._origins = WeakIdKeyDictionary()
        self._states: dict[int, str] = {}
        self._written: set[str] = set()
        for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
            self._states[id(tensor)] = name
            self._origins[tensor] = _Origin(states=frozenset({name}), is_view=True)

    def recording(self) -> Recording:
        """Return the recording; states that the run has written to count as data."""
        for call in self._ops:
            call.operands = tuple(self._settled(use) for use in call.operands)
            call.results = tuple(self._settled(use) for use in call.results)
        return Recording(tuple(self._ops), tuple(self._modules))

    def _settled(self, use: TensorUse) -> TensorUse:
        if use.states is None or self._written.isdisjoint(use.states):
            return use
        return evolve(use, states=None, is_view=False)

    def call(self, operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """See the base class."""
        entered, name = name_of_call(operator.op_type)
        read = tuple(
            self._use(operand.tensor, operand.name, operand.place)
            for operand in tensor_operands(operator, args, kwargs)
        )
        result = operator.function(*args, **kwargs)
        op = OpCall(entered.link.calls, name, operator.op_type, read, (), entered.module, signature(args))
        if args and isinstance(args[0], str):
            op.equation = args[0]
        if operator.writes(args, kwargs) and args and isinstance(args[0], Tensor):
            self._note_written(args[0])
        made = list(tensors_in(result))
        if not made:
            return result
        states, view = _combined(read), self._is_view(read, made)
        random = operator.op_type.startswith(_RANDOM)
        for index, tensor in enumerate(made):
            self._origins[tensor] = _Origin((op, index), None if random else states, view)
        op.results = tuple(self._use(tensor, "output", index) for index, tensor in enumerate(made))
        self._ops.append(op)
        return result

    def call_other(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Record tensor attributes such as ``x.T``, which inherit the origin of `x`."""
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and args and isinstance(args[0], Tensor) and result not in self._origins:
            self._origins[result] = self._origins.get(args[0]) or _Origin()
        return result

    def call_module(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """See the base class."""
        entering = entering_tensors(module, args, kwargs)
        inputs = tuple(self._use(tensor, name, index) for index, (name, tensor) in enumerate(entering))
        result = forward(*args, **kwargs)
        link = link_of(module)
        assert link is not None
        outputs = tuple(self._use(tensor, "output", index) for index, tensor in enumerate(tensors_in(result)))
        self._modules.append(ModuleCall(module, link.calls, inputs, outputs))
        return result

    def _use(self, tensor: Tensor, name: str, place: Place) -> TensorUse:
        origin: _Origin | None = self._origins.get(tensor)
        if origin is None:
            origin = self._origins[tensor] = _Origin(states=frozenset() if is_state(tensor) else None)
        states = None if origin.states is None else tuple(sorted(origin.states))
        stride = tensor.stride() if tensor.layout is torch.strided else ()
        shape = tuple(tensor.shape)
        return TensorUse(
            name, place, shape, stride, tensor.dtype, origin.producer, states, origin.is_view, origin.identity
        )

    def _is_view(self, read: tuple[TensorUse, ...], made: list[Tensor]) -> bool:
        """Return True if the results are views of the only state that was read."""
        if len(read) != 1 or not read[0].is_view or not read[0].states:
            return False
        return all(tensor._is_view() for tensor in made)

    def _note_written(self, tensor: Tensor) -> None:
        origin: _Origin | None = self._origins.get(tensor)
        if origin is not None and origin.states is not None and origin.is_view:
            self._written |= origin.states
        elif origin is not None:
            origin.states = None


_RANDOM = ("rand", "normal", "bernoulli", "multinomial", "poisson", "empty")


def _combined(read: Iterable[TensorUse]) -> frozenset[str] | None:
    """Return the union of the states of `read`, or None if any depends on data."""
    found: set[str] = set()
    for use in read:
        if use.states is None:
            return None
        found.update(use.states)
    return frozenset(found)


def entering_tensors(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Return the tensors among the arguments of a module call, in order, with the names of the arguments."""
    code = getattr(type(module).forward, "__code__", None)
    names = () if code is None else code.co_varnames[1 : code.co_argcount]
    found = []
    for position, argument in enumerate(args):
        name = names[position] if position < len(names) else f"input_{position}"
        found += [(name, tensor) for tensor in tensors_in(argument)]
    return found + [(name, tensor) for name, argument in kwargs.items() for tensor in tensors_in(argument)]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a pytree, in order."""
    if isinstance(value, Tensor):
        yield value
    elif value is not None and not isinstance(value, int | float | str):
        yield from (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
