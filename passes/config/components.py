"""Registries of the components that specs name: calculators of ranges and parameters, fake quantizers.

A spec names a component by key or by class. The classes are in the modules that run them and are registered
here, so that a spec can be written, checked and saved without loading them.

A key may carry options: ``percentile{percentile=99.9}``. The options of a component are the keyword-only parameters of
its constructor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from graphpress.ir.errors import suggestion
from graphpress.passes.config import documents
from graphpress.passes.config.arguments import integer, number, one_of
from graphpress.passes.config.errors import SpecError

C = TypeVar("C", bound=type)


@attrs.frozen
class Option:
    """An option of a component.

    Attributes:
        default: the value if omitted.
        convert: checks a value and gives it its type; raises `SpecError`.
    """

    default: Any
    convert: Callable[[Any], Any] = lambda value: value


Options = Mapping[str, Option]


@attrs.define(eq=False)
class ComponentRegistry:
    """Components of one role, by key.

    Attributes:
        role: the field of a spec that names them.
        reserved: keys of the components that come with the package, with their options; they are valid before their
            module is loaded.
        arguments: names of keyword arguments that callers of `make` pass, which are no options.
        base: the class that components derive from; None until its module is loaded.
    """

    role: str
    reserved: Mapping[str, Options] = attrs.field(factory=dict)
    arguments: tuple[str, ...] = ()
    base: type | None = None
    _classes: dict[str, type] = attrs.field(factory=dict, init=False)

    def register(self, key: str) -> Callable[[C], C]:
        """Class decorator that makes a component available as `key`.

        Raises:
            SpecError: when another class has that key, or the key is no name.
        """
        if not isinstance(key, str) or not key or set(key) & set("{}=,"):
            raise SpecError(f"{key!r} is not a key; accepted: a name without braces, commas and equals signs")

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
        """Normalize a component: the key of a registered one with its options, or the class of one without a key.

        Options are put into the order of the component, and left out where they have their defaults.

        Raises:
            SpecError: for a key that is not registered, for options its component does not have, or for something
                that is neither key nor class.
        """
        if isinstance(component, type):
            return self.key_of(component) or component
        if isinstance(component, str):
            key, given = _split(component)
            if key in self.keys:
                return _join(key, self._checked(key, given))
        near = suggestion(component.partition("{")[0], self.keys) if isinstance(component, str) else ""
        raise SpecError(f"{component!r} is not registered{near}; accepted: a class, or {', '.join(self.keys)}")

    def key_of(self, cls: type) -> str | None:
        """The key `cls` is registered under, if any."""
        return next((key for key, known in self._classes.items() if known is cls), None)

    def options(self, key: str) -> Options:
        """The options that the component registered as `key` has."""
        if key in self.reserved:
            return self.reserved[key]
        parameters = inspect.signature(self._classes[key]).parameters.values()
        optional = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty]
        return {p.name: Option(p.default) for p in optional if p.name not in self.arguments}

    def make(self, component: str | type, *arguments: Any, **keywords: Any) -> Any:
        """Make a component: call its class with these arguments and the options of its key.

        Raises:
            SpecError: when the key names no loaded class, the class does not derive from `base`, or does not take
                these arguments.
        """
        given = {} if isinstance(component, type) else _split(component)[1]
        cls = self.resolve(component)
        if self.base is not None and not issubclass(cls, self.base):
            raise SpecError(f"{cls.__qualname__} is no {self.role}; accepted: a subclass of {self.base.__qualname__}")
        try:
            return cls(*arguments, **keywords, **given)
        except TypeError as error:
            raise SpecError(f"{self.role} {cls.__qualname__} cannot be made: {error}") from error

    def resolve(self, component: str | type) -> type:
        """The class of a component.

        Raises:
            SpecError: when the key names no loaded class.
        """
        if isinstance(component, type):
            return component
        key, _ = _split(component)
        if key not in self._classes:
            raise SpecError(
                f"{self.role} {component!r} names no class{suggestion(component, self._classes)};"
                f" loaded: {', '.join(self._classes) or 'none'}"
            )
        return self._classes[key]

    def _checked(self, key: str, given: Mapping[str, Any]) -> dict[str, Any]:
        options = self.options(key)
        for name, value in given.items():
            if name not in options:
                accepted = ", ".join(options) or "none"
                raise SpecError(f"{key!r} has no option {name!r}{suggestion(name, options)}; accepted: {accepted}")
            try:
                options[name].convert(value)
            except SpecError as error:
                raise SpecError(f"option {name!r} of {key!r}: {error.problem}") from None
        converted = {name: option.convert(given[name]) for name, option in options.items() if name in given}
        return {name: value for name, value in converted.items() if value != options[name].default}


def _split(text: str) -> tuple[str, dict[str, Any]]:
    """A key and its options: ``percentile{percentile=99.9}``."""
    key, brace, rest = text.partition("{")
    if not brace:
        return text, {}
    if not rest.endswith("}"):
        raise SpecError(f"{text!r} has no closing brace; accepted: a key, or one such as 'percentile{{percentile=99}}'")
    given: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in rest[:-1].split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name or not value or name in given:
            raise SpecError(f"{item!r} in {text!r} is no option; accepted: name=value, each name once")
        try:
            given[name] = documents.parse(value)
        except SpecError:
            given[name] = value
    return key.strip(), given


def _join(key: str, options: Mapping[str, Any]) -> str:
    return key + ("{" + ", ".join(f"{name}={value!r}" for name, value in options.items()) + "}" if options else "")


AVERAGING_CONSTANT = Option(0.01, number(1e-9, 1.0))
MIN_VALUES = Option(10_000, integer(1))
BINS_PER_OCTAVE = Option(128, one_of([2**bits for bits in range(3, 11)]))
PERCENTILE = Option(99.99, number(50.0, 100.0))

FAKE_QUANTIZERS = ComponentRegistry("fake_quantize_cls", {"default": {}, "learnable": {}}, arguments=("is_state",))
QPARAM_CALCULATORS = ComponentRegistry(
    "qparam_calculator_cls",
    {
        "default": {},
        "static": {},
        "moving_average": {"averaging_constant": AVERAGING_CONSTANT, "min_values": MIN_VALUES},
        "global_minmax": {},
        "dynamic": {},
        "histogram": {"bins_per_octave": BINS_PER_OCTAVE},
        "percentile": {"percentile": PERCENTILE, "bins_per_octave": BINS_PER_OCTAVE},
        "mse": {"candidates": Option(32, integer(2))},
    },
)
RANGE_CALCULATORS = ComponentRegistry("range_calculator_cls", {"minmax": {}})
PRUNING_ALGORITHMS = ComponentRegistry("pruning_algo", {"default": {}, "magnitude": {}, "magnitude_floor": {}})

_REGISTRIES = (FAKE_QUANTIZERS, QPARAM_CALCULATORS, RANGE_CALCULATORS, PRUNING_ALGORITHMS)


def component_key(cls: type) -> str:
    """The key of a component class in plain data.

    Raises:
        SpecError: for a class that is not registered, which plain data cannot name.
    """
    for registry in _REGISTRIES:
        key = registry.key_of(cls)
        if key is not None:
            return key
    raise SpecError(
        f"{cls.__module__}.{cls.__qualname__} has no key, so it cannot be written as plain data; register it"
    )
