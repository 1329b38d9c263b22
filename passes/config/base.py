"""Base classes of configs, for a model, a module's scope and an op, and of presets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import attrs
from torch import nn

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.passes.config import documents
from graphpress.passes.config.arguments import arguments, checked, instance, one_of
from graphpress.passes.config.entries import (
    NamePattern,
    Table,
    TypePattern,
    entries,
    module_type_key,
    name_key,
    qualified_name,
)
from graphpress.passes.config.errors import ArgumentError, SpecError
from graphpress.passes.config.plain import PlainForm, plain

Target = type | str
"""A module class, or the name of a module."""


class OpCompressionConfig(PlainForm):
    """Config of an op: the specs of its tensors. Weight-only techniques have no specs of inputs and outputs."""

    __slots__ = ()

    op_input_spec: Table | None
    op_output_spec: Table | None
    op_state_spec: Table | None


class ModuleCompressionConfig(PlainForm):
    """Config of a module: of the ops in its scope, and of its inputs and outputs.

    A module config is complete by itself: omitted fields have the technique's defaults, not those of a wider level.
    """

    __slots__ = ()

    op_input_spec: Table | None
    op_output_spec: Table | None
    op_state_spec: Table | None
    op_type_config: Table
    op_name_config: Table
    module_input_spec: Table | None
    module_output_spec: Table | None
    module_state_spec: Table | None


class Omitted(Enum):
    """The value of an omitted `global_config`, until the rest of the config is known."""

    OMITTED = "omitted"


class OnUnmatched(Enum):
    """How entries of a config that match nothing in a model are reported."""

    DEFAULT = "default"
    """An error for entries by name, a warning for entries by type."""
    ERROR = "error"
    WARN = "warn"
    IGNORE = "ignore"


def _module_config(value: Any, config: Any) -> Any:
    return value if value is Omitted.OMITTED else instance(config.module_config_class, optional=True)(value)


def _by_module_type(value: Any, config: Any) -> Table:
    cls = config.module_config_class
    return entries(
        module_type_key, instance(cls, optional=True), f"a module class or its name to a {cls.__name__} or None"
    )(value)


def _by_module_name(value: Any, config: Any) -> Table:
    cls = config.module_config_class
    return entries(name_key, instance(cls, optional=True), f"a module name to a {cls.__name__} or None")(value)


def _with_config(convert: Any) -> Any:
    """An attrs converter that also gets the config, and prefixes its errors with the field's name."""

    def run(value: Any, config: Any, field: attrs.Attribute[Any]) -> Any:
        try:
            return convert(value, config)
        except SpecError as error:
            raise error.under(field.name) from None

    return attrs.Converter(run, takes_self=True, takes_field=True)


@attrs.define(kw_only=True)
class CompressionConfig(PlainForm):
    """Config of a model: a global one, and others for modules by type and by name.

    Attributes:
        global_config: applies where no other entry does; None skips those parts.
        module_type_configs: by module class, given as the class or its name; None skips such modules.
        module_name_configs: by module name, or a regular expression for whole names; None skips such modules.
        on_unmatched: how an entry that matches nothing in a model is reported: ``"default"`` (an error by name,
            a warning by type), ``"error"``, ``"warn"`` or ``"ignore"``.
    """

    module_config_class: ClassVar[type[ModuleCompressionConfig]]
    top_keys: ClassVar[tuple[str, ...]]
    """The keys that may hold this config in a document; the first is written."""
    entries_replace_global: ClassVar[bool]
    """True if module entries without a `global_config` skip everything else."""

    global_config: Any = attrs.field(default=Omitted.OMITTED, converter=_with_config(_module_config))
    module_type_configs: Table = attrs.field(factory=dict, converter=_with_config(_by_module_type))
    module_name_configs: Table = attrs.field(factory=dict, converter=_with_config(_by_module_name))
    on_unmatched: str = attrs.field(
        default=OnUnmatched.DEFAULT.value, converter=checked(one_of([item.value for item in OnUnmatched]))
    )

    def __attrs_post_init__(self) -> None:
        if self.global_config is Omitted.OMITTED:
            has_entries = bool(self.module_type_configs or self.module_name_configs)
            leave_whole = self.entries_replace_global and has_entries
            self.global_config = None if leave_whole else self.module_config_class()

    def set_global(self, config: Any) -> Self:
        """Replace `global_config`; None skips everything that no other entry covers."""
        self.global_config = config
        return self

    def set_module_type(self, module_type: type | str, config: Any) -> Self:
        """Set the config of a module class, as the last and so the winning entry; None skips it."""
        key = module_type_key(module_type)
        self.module_type_configs = _with_entry(self.module_type_configs, key or module_type, config)
        return self

    def set_module_name(self, module_name: str, config: Any) -> Self:
        """Set the config of modules by name or regular expression, as the last and so the winning entry."""
        self.module_name_configs = _with_entry(self.module_name_configs, module_name, config)
        return self

    def only_for(self, *types_or_names: Target | Iterable[Target]) -> Self:
        """Apply the global config to these module classes and names, or lists of them, and skip the rest.

        Raises:
            SpecError: when there is no global config, or no class or name. The config is unchanged then.
        """
        targets = _targets(types_or_names)
        if self.global_config is None:
            raise SpecError(
                "only_for requires a non-disabled global_config, which it gives to modules, but it is None; pass all "
                "targets in one call",
                "global_config",
            )
        if not targets:
            raise SpecError("only_for requires at least one target: a module class or a name")
        for target in targets:
            self._set(target, copy.deepcopy(self.global_config))
        return self.set_global(None)

    def without(self, *types_or_names: Target | Iterable[Target]) -> Self:
        """Skip these module classes and names, or lists of them. Raises as `only_for`, but an empty list skips none."""
        for target in _targets(types_or_names):
            self._set(target, None)
        return self

    def get_module_config(self, name: str, module: nn.Module | None = None) -> Any:
        """The config of the module called `name`: the last entry that matches its name, else its class, else global.

        Args:
            name: its path in the model.
            module: the module, for entries by type; None considers none of these.

        Returns:
            the module config, or None if the module is skipped. Entries for modules around it are not considered.
        """
        by_name = [item for key, item in self.module_name_configs.items() if NamePattern(key).matches(name)]
        types = () if module is None else (qualified_name(type(module)),)
        by_type = [item for key, item in self.module_type_configs.items() if TypePattern(key).matches(types)]
        return [self.global_config, *by_type[-1:], *by_name[-1:]][-1]

    def _set(self, target: type | str, config: Any) -> None:
        if isinstance(target, type):
            self.set_module_type(target, config)
        else:
            self.set_module_name(target, config)

    def to_dict(self) -> dict[str, Any]:
        """The config as plain data under its top key. ``from_dict(to_dict())`` is an equal config."""
        return {self.top_keys[0]: plain(self)}

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> Self:
        """Read the config under its top key. Other top keys are ignored, and `config_dict` is not changed.

        Raises:
            SpecError: when the key is missing, or naming the path of a wrong entry, its value and what is accepted.
        """
        body = documents.section(config_dict, cls.top_keys)
        return cls(**arguments(body, cls.__name__))

    def to_yaml(self, path: str | Path | None = None) -> str:
        """The config as YAML text, also written to `path` if there is one."""
        return documents.write(self.to_dict(), path)

    @classmethod
    def from_yaml(cls, yml: documents.Source) -> Self:
        """Read the config from YAML text, a file or an open stream. Other top keys may hold anchors.

        Raises as `from_dict`.
        """
        with documents.reading(yml) as data:
            return cls.from_dict(data)


def _targets(types_or_names: Iterable[Any]) -> list[Any]:
    """The module classes and names, with lists of them flattened.

    Raises:
        ArgumentError: for anything else.
    """
    found: list[Any] = []
    for target in types_or_names:
        found += [target] if isinstance(target, type | str) or not isinstance(target, Iterable) else target
    for target in found:
        if not isinstance(target, type | str):
            raise ArgumentError(f"targets must be module types or name strings, or lists of them; got {target!r}")
        if isinstance(target, type) and not issubclass(target, nn.Module):
            raise ArgumentError(f"targets must be nn.Module subclasses or name strings, or lists of them; got {target}")
    return found


def _with_entry(table: Table, key: Any, config: Any) -> Table:
    rest = {known: item for known, item in table.items() if known != key}
    return {**rest, key: config}


Made = TypeVar("Made")


class PresetError(GraphpressError, AttributeError):
    """A preset that does not exist."""


class Presets(Generic[Made]):
    """Named presets; each call makes a new config that may be changed."""

    def __init__(self, finish: Callable[[Any], Made]):
        self._finish = finish

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the presets."""
        members = {name: member for cls in type(self).__mro__ for name, member in vars(cls).items()}
        return tuple(sorted(name for name, member in members.items() if callable(member) and name[0] != "_"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise PresetError(f"no preset {name!r}{suggestion(name, self.names)}; there are {', '.join(self.names)}")


def as_module(config: ModuleCompressionConfig) -> Any:
    """A preset's result for a module: the module config itself."""
    return config


_ADVICE = "it applies to activations, and only weights are compressed here; use op_state_spec"


class WeightOnlyOpConfig(OpCompressionConfig):
    """An op config without inputs and outputs."""

    __slots__ = ()

    argument_hints: ClassVar[Mapping[str, str]] = {"op_input_spec": _ADVICE, "op_output_spec": _ADVICE}
    empty_arguments: ClassVar[frozenset[str]] = frozenset(argument_hints)
    op_input_spec: ClassVar[None] = None
    op_output_spec: ClassVar[None] = None


class WeightOnlyModuleConfig(ModuleCompressionConfig):
    """A module config without inputs and outputs."""

    __slots__ = ()

    argument_hints: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("op_input_spec", "op_output_spec", "module_input_spec", "module_output_spec"), _ADVICE
    )
    empty_arguments: ClassVar[frozenset[str]] = frozenset(argument_hints)
    op_input_spec: ClassVar[None] = None
    op_output_spec: ClassVar[None] = None
    module_input_spec: ClassVar[None] = None
    module_output_spec: ClassVar[None] = None
