"""Named components of a spec: the classes that compute ranges, quantization parameters and fake quantization.

A spec names a component by key or by class. The classes live with the passes that run them and register here,
so that a spec can be written, checked and saved without loading them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from graphpress.ir.errors import suggestion
from graphpress.passes.specs.errors import SpecError

C = TypeVar("C", bound=type)


@attrs.define(eq=False)
class ComponentRegistry:
    """Components of one role, by key.

    Attributes:
        role: the field of a spec that names them.
        reserved: keys of the components that come with the package; they are valid before their module is loaded.
    """

    role: str
    reserved: tuple[str, ...] = ()
    _classes: dict[str, type] = attrs.field(factory=dict, init=False)

    def register(self, key: str) -> Callable[[C], C]:
        """Class decorator that makes a component available as `key`.

        Raises:
            SpecError: when another class has that key.
        """

        def add(cls: C) -> C:
            taken = self._classes.get(key)
            same = taken is not None and taken.__qualname__ == cls.__qualname__ and taken.__module__ == cls.__module__
            if taken is not None and not same:
                raise SpecError(f"{self.role} {key!r} is taken by {taken.__module__}.{taken.__qualname__}")
            self._classes[key] = cls
            return cls

        return add

    def unregister(self, key: str) -> None:
        """Forget the component registered as `key`, if there is one."""
        self._classes.pop(key, None)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key a spec may name."""
        return tuple(dict.fromkeys((*self.reserved, *self._classes)))

    def name(self, component: Any) -> str | type:
        """What a spec stores: the key of a registered component, or the class of one that has no key.

        Raises:
            SpecError: for a key that nobody registered, or something that is neither key nor class.
        """
        if isinstance(component, type):
            return self.key_of(component) or component
        if isinstance(component, str) and component in self.keys:
            return component
        near = suggestion(component, self.keys) if isinstance(component, str) else ""
        raise SpecError(f"{component!r} is not registered{near}; accepted: a class, or {', '.join(self.keys)}")

    def key_of(self, cls: type) -> str | None:
        """The key `cls` is registered under, if any."""
        return next((key for key, known in self._classes.items() if known is cls), None)

    def resolve(self, component: str | type) -> type:
        """The class of a component.

        Raises:
            SpecError: when the key names no loaded class.
        """
        if isinstance(component, type):
            return component
        if component not in self._classes:
            raise SpecError(
                f"{self.role} {component!r} names no class{suggestion(component, self._classes)};"
                f" loaded: {', '.join(self._classes) or 'none'}"
            )
        return self._classes[component]


FAKE_QUANTIZERS = ComponentRegistry("fake_quantize_cls", ("default",))
QPARAM_CALCULATORS = ComponentRegistry(
    "qparam_calculator_cls",
    ("default", "static", "moving_average", "global_minmax", "dynamic", "histogram", "percentile", "mse"),
)
RANGE_CALCULATORS = ComponentRegistry("range_calculator_cls", ("minmax",))
PRUNING_ALGORITHMS = ComponentRegistry("pruning_algo", ("default", "magnitude"))

_REGISTRIES = (FAKE_QUANTIZERS, QPARAM_CALCULATORS, RANGE_CALCULATORS, PRUNING_ALGORITHMS)


def component_key(cls: type) -> str:
    """The key that plain data names a component class by.

    Raises:
        SpecError: for a class that is not registered, which plain data cannot name.
    """
    for registry in _REGISTRIES:
        key = registry.key_of(cls)
        if key is not None:
            return key
    raise SpecError(f"{cls.__module__}.{cls.__qualname__} has no key, so it cannot be written down; register it")
