"""Thread-local observers of the calls a model makes, and how to run a model unobserved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, field
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from graphpress.compressor import mode_restored
from graphpress.eager.call_sites import CallSite, call_site
from graphpress.eager.naming import ModuleCalls, module_calls
from graphpress.eager.operators import Operator, operator_of
from graphpress.ir.errors import GraphpressError
from graphpress.ir.torch.arguments import Arguments
from graphpress.ir.torch.export_errors import ExportError
from graphpress.modules.forms import add_behaviour, behaviours_of, drop_behaviour, watching
from graphpress.modules.states import states_restored
from graphpress.programs import Model, arguments_of

_LINK = "_graphpress_observed"


class CallObserver:
    """Base of observers, which make every observed call and may change its arguments and results."""

    def call(self, operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call ``operator.function``; calls inside it are not observed."""
        return operator.function(*args, **kwargs)

    def call_other(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a function that is not an op, such as an attribute access."""
        return function(*args, **kwargs)

    def call_module(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a module; `forward` is its unobserved call."""
        return forward(*args, **kwargs)


@define(eq=False)
class Link:
    """State attached to an observed module: its names, the observer, and the observer's data about it."""

    calls: ModuleCalls
    observer: CallObserver
    memory: dict[Any, Any] = field(factory=dict)


@define(eq=False)
class Entered:
    """A module call in progress; `passed` counts the executions of each call site."""

    module: nn.Module
    link: Link
    passed: dict[tuple[str, CallSite], int] = field(factory=dict)

    def repeat(self, op_type: str, site: CallSite) -> int:
        """Return the number of earlier executions of the site in this call of the module."""
        key = (op_type, site)
        before = self.passed.get(key, 0)
        self.passed[key] = before + 1
        return before


class _Running(threading.local):
    """The module calls in progress in a thread."""

    def __init__(self) -> None:
        self.stack: list[Entered] = []


_running = _Running()


class Observed(nn.Module):
    """Mixin of the modules of an observed model, which reports calls of the module."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module and report the call to the observer."""
        link: Link | None = self.__dict__.get(_LINK)
        if link is None:
            return super().__call__(*args, **kwargs)
        if torch.compiler.is_dynamo_compiling():
            if watching.observers:  # a branch of `torch.cond`, which torch compiles
                return super().__call__(*args, **kwargs)
            return _call_uncompiled(self, args, kwargs)
        entered = Entered(self, link)
        _running.stack.append(entered)
        try:
            if watching.observers and watching.observers[-1] is link.observer:
                return link.observer.call_module(self, super().__call__, args, kwargs)
            watching.observers.append(link.observer)
            try:
                with _Mode(link.observer):
                    return link.observer.call_module(self, super().__call__, args, kwargs)
            finally:
                watching.observers.pop()
        finally:
            _running.stack.pop()


@torch._disable_dynamo  # type: ignore[attr-defined] # `torch.compiler.disable` would import the compiler at once
def _call_uncompiled(module: Observed, args: Any, kwargs: Any) -> Any:
    """Run an observed call uncompiled, since `torch.compile` cannot trace it."""
    return module(*args, **kwargs)


class _Mode(TorchFunctionMode):
    def __init__(self, observer: CallObserver) -> None:
        super().__init__()
        self.observer = observer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.compiler.is_dynamo_compiling():  # a branch of `torch.cond`, of which all must be traced
            return func(*args, **(kwargs or {}))
        operator = operator_of(func)
        if operator is None:
            return self.observer.call_other(func, args, kwargs or {})
        if operator.body is not None:
            with self:
                return operator.body(*args, **(kwargs or {}))
        return self.observer.call(operator, args, kwargs or {})


def calls_under_way() -> Sequence[Entered]:
    """Return the module calls in progress in this thread, outermost first."""
    return _running.stack


def name_of_call(op_type: str) -> tuple[Entered, str]:
    """Return the innermost module call, and the name in that module of the op being observed."""
    entered = _running.stack[-1]
    site = call_site()
    return entered, entered.link.calls.name(op_type, site, entered.repeat(op_type, site))


def link_of(module: nn.Module) -> Link | None:
    """Return the state that `observe` attached to the module."""
    link: Link | None = module.__dict__.get(_LINK)
    return link


def observe(
    model: nn.Module, observer: CallObserver, behaviour: Callable[[nn.Module], type[Observed]] = lambda _: Observed
) -> None:
    """Report all further calls of `model` to `observer`; names and data of earlier observations are kept.

    Args:
        model: the model, which is changed in place.
        observer: makes the calls.
        behaviour: returns the mixin for a module.
    """
    for module, calls in module_calls(model).items():
        link = link_of(module)
        if link is not None:
            link.observer = observer
            continue
        try:
            add_behaviour(module, behaviour(module))
        except TypeError:
            continue  # a scripted module: its calls are not observed, and count as part of the enclosing module
        module.__dict__[_LINK] = Link(calls, observer)


def detached(model: nn.Module) -> None:
    """Undo `observe`."""
    unlink(model)
    for module in model.modules():
        for behaviour in behaviours_of(module):
            if issubclass(behaviour, Observed):
                drop_behaviour(module, behaviour)


def unlink(model: nn.Module) -> None:
    """Stop reporting calls; the mixins of the modules remain."""
    for module in model.modules():
        module.__dict__.pop(_LINK, None)


@contextmanager
def observed_by(model: nn.Module, observer: CallObserver) -> Iterator[None]:
    """Report the calls of `model` in this context to `observer`, and restore the model on exit."""
    observe(model, observer)
    try:
        yield
    finally:
        detached(model)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run in eval mode without gradients; restore modes, states and torch's random state on exit."""
    with mode_restored(model), states_restored(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for module in model.modules():
            module.training = False
        yield


Inputs = Tensor | Sequence[Any] | Mapping[str, Any] | None
"""A tensor, the positional arguments, or the arguments by name."""


def example_run(
    model: Model, module: nn.Module, inputs: Inputs, error_class: type[GraphpressError]
) -> Callable[[], None] | None:
    """Return a run of `module`, made from `model`, on example inputs, or None if there are none.

    Those of an exported program are its own by default.
    """
    if isinstance(model, ExportedProgram):
        arguments: Any = arguments_of(model, inputs)
    elif inputs is None:
        return None
    else:
        arguments = inputs
    return lambda: run_model(module, arguments, error_class)


def run_model(model: nn.Module, inputs: Any, error_class: type[GraphpressError]) -> None:
    """Run `model` once in eval mode, and restore its buffers and modes and torch's random state.

    Raises:
        GraphpressError: of the class `error_class`, if the run fails.
    """
    try:
        arguments = Arguments.of(inputs)
    except ExportError:  # one argument that is no tensor
        arguments = Arguments((inputs,))
    with undisturbed(model):
        arguments.run(model, type(model).__name__, error_class)
