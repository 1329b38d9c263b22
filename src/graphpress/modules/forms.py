"""Modules with computed parameters, expanded from fake-compressed floats or from stored parts.

Such a module gets a generated class: a subclass with the same name, in which the parameter is a property. `isinstance`,
the module types that `torch.export` records, hooks and the forward are not affected, and modules can be pickled and
copied. Behaviours (mixins) are added in the same way.
"""

from __future__ import annotations

import copyreg
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

_FORMS = "_graphpress_forms"


class ParameterForm(ABC):
    """Base of the ways to compute a parameter of a module."""

    @abstractmethod
    def value(self, module: nn.Module) -> Tensor:
        """Return the parameter as the module's forward reads it."""

    def parametrization(self, module: nn.Module) -> nn.Module | None:
        """Return a module that maps the stored parameter to the computed one and tells how, or None without one."""
        return None


def forms_of(module: nn.Module) -> Mapping[str, ParameterForm]:
    """Return the forms of the computed parameters of `module` itself, by name."""
    forms: Mapping[str, ParameterForm] = module.__dict__.get(_FORMS, {})
    return forms


def set_form(module: nn.Module, name: str, form: ParameterForm) -> None:
    """Compute the parameter `name` of `module` by `form`; a registered parameter of that name remains registered."""
    _recast(module, {**forms_of(module), name: form}, behaviours_of(module))


def drop_form(module: nn.Module, name: str) -> None:
    """Remove the form of the parameter `name`; without forms, `module` has its original class again."""
    forms = {other: form for other, form in forms_of(module).items() if other != name}
    _recast(module, forms, behaviours_of(module))


def behaviours_of(module: nn.Module) -> tuple[type[nn.Module], ...]:
    """Return the mixins in the class of `module`."""
    behaviours: tuple[type[nn.Module], ...] = type(module).__dict__.get("_graphpress_behaviours", ())
    return behaviours


def add_behaviour(module: nn.Module, behaviour: type[nn.Module]) -> None:
    """Mix `behaviour` into the class of `module`; its methods take precedence.

    Raises:
        TypeError: for a module whose class cannot be changed, such as a scripted one.
    """
    if behaviour not in behaviours_of(module):
        _recast(module, forms_of(module), (behaviour, *behaviours_of(module)))


def drop_behaviour(module: nn.Module, behaviour: type[nn.Module]) -> None:
    """Undo `add_behaviour`."""
    _recast(module, forms_of(module), tuple(other for other in behaviours_of(module) if other is not behaviour))


def _recast(module: nn.Module, forms: Mapping[str, ParameterForm], behaviours: tuple[type[nn.Module], ...]) -> None:
    base = _base_class(type(module))
    module.__class__ = _made_class(base, tuple(sorted(forms)), behaviours) if forms or behaviours else base
    if forms:
        module.__dict__[_FORMS] = forms
    else:
        module.__dict__.pop(_FORMS, None)


def plain_type(module: nn.Module) -> type:
    """Return the original class of a module."""
    return _base_class(type(module))


def _base_class(cls: type) -> type:
    base: type = cls.__dict__.get("_graphpress_base", cls)
    return base


@cache
def _made_class(base: type, names: tuple[str, ...], behaviours: tuple[type, ...]) -> type:
    namespace: dict[str, Any] = {name: _computed(name) for name in names}
    namespace |= {"parametrizations": property(_parametrizations)} if names else {}
    if issubclass(base, nn.RNNBase):
        namespace["_flat_weights"] = property(_flat_weights, _ignore)
    namespace |= {
        "_graphpress_base": base,
        "_graphpress_behaviours": behaviours,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduce,
    }
    return type(base.__name__, (*behaviours, base), namespace)


def _computed(name: str) -> property:
    def value(self: nn.Module) -> Tensor:
        form: ParameterForm = self.__dict__[_FORMS][name]
        return computed_parameter(form.value, self)

    return property(value)


def _parametrizations(module: nn.Module) -> nn.ModuleDict:
    """Return the parametrizations of the forms where torch has those of a module, but not among its children.

    Scripts for coreai-opt read there how a parameter is compressed. Names that a `nn.ModuleDict` refuses are left out.
    """
    own = module._modules.get("parametrizations")
    if isinstance(own, nn.ModuleDict):
        return own
    made = {name: form.parametrization(module) for name, form in forms_of(module).items()}
    found = {name: each for name, each in made.items() if each is not None and not hasattr(nn.ModuleDict, name)}
    if not found:
        raise AttributeError("parametrizations")
    return nn.ModuleDict({name: nn.ModuleList([each]) for name, each in found.items()})


def _flat_weights(module: Any) -> list[Any]:
    """Return the parameters of a recurrent layer, which otherwise caches them in a list."""
    return [getattr(module, name, None) for name in module._flat_weights_names]


def _ignore(module: Any, value: Any) -> None:
    """Ignore torch's assignments to `_flat_weights`, which is computed from the parameters."""


def _reduce(module: nn.Module, protocol: Any) -> Any:
    """Reduce to the original class and the parameter names, since generated classes cannot be imported."""
    base: Any = _base_class(type(module))
    make, arguments, *rest = base.__reduce_ex__(module, max(2, int(protocol)))
    if make is not copyreg.__newobj__:  # type: ignore[attr-defined]
        return make, arguments, *rest  # a class with its own construction
    return _remade, (base, tuple(sorted(forms_of(module))), behaviours_of(module)), *rest


def _remade(base: type, names: tuple[str, ...], behaviours: tuple[type, ...] = ()) -> Any:
    return copyreg.__newobj__(_made_class(base, names, behaviours))  # type: ignore[attr-defined]


class _Watching(threading.local):
    """The observers of a thread, innermost last."""

    def __init__(self) -> None:
        self.observers: list[Any] = []


watching = _Watching()

_PARAMETER = "_graphpress_parameter"


def computed_parameter(compute: Callable[[nn.Module], Tensor], module: nn.Module) -> Tensor:
    """Compute a parameter of `module` unobserved, and mark the result as a parameter for observers."""
    if not watching.observers or torch.compiler.is_dynamo_compiling():
        return compute(module)
    with torch._C.DisableTorchFunction():
        tensor = compute(module)
        setattr(tensor, _PARAMETER, True)
    return tensor


def is_state(tensor: Tensor) -> bool:
    """Return True for a parameter, and for a result of `computed_parameter` under observation."""
    return isinstance(tensor, nn.Parameter) or getattr(tensor, _PARAMETER, False)
