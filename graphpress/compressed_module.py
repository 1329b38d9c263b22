"""Modules some of whose parameters are computed: from fake-compressed floats, or from what is stored.

The class of such a module is made on the fly: a subclass with the same name, in which the parameter is a property. So
`isinstance`, the module types that `torch.export` records, hooks and the forward stay as they were; and, as nothing
hangs on a class that exists only here, modules pickle and copy.
"""

from __future__ import annotations

import copyreg
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

_FORMS = "_graphpress_forms"


class ParameterForm(ABC):
    """How one parameter of a module comes about."""

    @abstractmethod
    def value(self, module: nn.Module) -> Tensor:
        """The parameter, as the module's forward reads it."""


def forms_of(module: nn.Module) -> Mapping[str, ParameterForm]:
    """The computed parameters of `module` itself, by name."""
    forms: Mapping[str, ParameterForm] = module.__dict__.get(_FORMS, {})
    return forms


def set_form(module: nn.Module, name: str, form: ParameterForm) -> None:
    """Let `module` compute its parameter `name` by `form`; a parameter registered under the name stays there."""
    forms = {**forms_of(module), name: form}
    base = _base_class(type(module))
    module.__dict__[_FORMS] = forms
    module.__class__ = _computing_class(base, tuple(sorted(forms)))


def drop_form(module: nn.Module, name: str) -> None:
    """Let `module` read its parameter `name` as any module does; after the last one its class is the user's again."""
    forms = {other: form for other, form in forms_of(module).items() if other != name}
    base = _base_class(type(module))
    if forms:
        module.__dict__[_FORMS] = forms
        module.__class__ = _computing_class(base, tuple(sorted(forms)))
    else:
        module.__dict__.pop(_FORMS, None)
        module.__class__ = base


def plain_type(module: nn.Module) -> type:
    """The class that the user gave the module."""
    return _base_class(type(module))


def _base_class(cls: type) -> type:
    base: type = cls.__dict__.get("_graphpress_base", cls)
    return base


@cache
def _computing_class(base: type, names: tuple[str, ...]) -> type:
    namespace: dict[str, Any] = {name: _computed(name) for name in names}
    if issubclass(base, nn.RNNBase):
        namespace["_flat_weights"] = property(_flat_weights, _ignore)
    namespace |= {
        "_graphpress_base": base,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduce,
    }
    return type(base.__name__, (base,), namespace)


def _computed(name: str) -> property:
    def value(self: nn.Module) -> Tensor:
        form: ParameterForm = self.__dict__[_FORMS][name]
        return form.value(self)

    return property(value)


def _flat_weights(module: Any) -> list[Any]:
    """Recurrent layers keep a list of their parameters; here it is made anew at each use."""
    return [getattr(module, name, None) for name in module._flat_weights_names]


def _ignore(module: Any, value: Any) -> None:
    """`_flat_weights` follows the parameters; what torch assigns to it is the same."""


def _reduce(module: nn.Module, protocol: Any) -> Any:
    """Name the user's class and the parameters instead of the made class, which no other process can import."""
    base: Any = _base_class(type(module))
    make, arguments, *rest = base.__reduce_ex__(module, max(2, int(protocol)))
    if make is not copyreg.__newobj__:  # type: ignore[attr-defined]
        return make, arguments, *rest  # a class that says by itself how it is made
    return _remade, (base, tuple(sorted(forms_of(module)))), *rest


def _remade(base: type, names: tuple[str, ...]) -> Any:
    return copyreg.__newobj__(_computing_class(base, names))  # type: ignore[attr-defined]
