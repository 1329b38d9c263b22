"""Resolution of a config to the spec of each tensor and the entry that decides it."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import attrs

from graphpress.passes.config.base import CompressionConfig, ModuleCompressionConfig, OpCompressionConfig
from graphpress.passes.config.entries import (
    ALL,
    ModuleStack,
    NamePattern,
    OpSite,
    Table,
    TypePattern,
    canonical_op_type,
)
from graphpress.passes.config.quantization_config import ModuleQuantizerConfig, Placement, QATSchedule


class ModuleLevel(IntEnum):
    """The kind of a module entry; a higher one is more specific."""

    GLOBAL = 0
    MODULE_TYPE = 1
    MODULE_NAME = 2
    KV_CACHE = 3


class OpLevel(IntEnum):
    """The part of a module config; a higher one is more specific."""

    OP = 0
    OP_TYPE = 1
    OP_NAME = 2
    MODULE = 3
    """The module's own input, output and state specs."""


@attrs.frozen
class SpecEntry:
    """One entry of a dictionary of specs: its key, the spec or None, and its path in the config."""

    key: int | str
    spec: Any
    source: str
    _pattern: NamePattern | None

    @classmethod
    def of(cls, key: int | str, spec: Any, source: str) -> SpecEntry:
        """Make the entry at `key` of the dictionary at `source`."""
        return cls(key, spec, f"{source}[{key!r}]", None if isinstance(key, int) else NamePattern(key))

    def matches(self, index: int | None, name: str | None) -> bool:
        """True if the key equals the index or matches the name."""
        if self._pattern is None:
            return self.key == index
        return name is not None and self._pattern.matches(name)


@attrs.frozen
class SpecTable:
    """A dictionary of specs; explicit keys take precedence over ``"*"``, and the last matching one wins."""

    source: str
    explicit: tuple[SpecEntry, ...]
    everything: SpecEntry | None

    @classmethod
    def of(cls, table: Table | None, source: str) -> SpecTable | None:
        """Compile a dictionary; None if there is none."""
        if table is None:
            return None
        explicit = tuple(SpecEntry.of(key, spec, source) for key, spec in table.items() if key != ALL)
        everything = SpecEntry.of(ALL, table[ALL], source) if ALL in table else None
        return cls(source, explicit[::-1], everything)

    def find(self, index: int | None, *names: str | None) -> SpecEntry | None:
        """The entry of a tensor, or None; of several names, the first that a key matches counts."""
        for name in names:
            for entry in self.explicit:
                if entry.matches(index, name):
                    return entry
        return self.everything


@attrs.frozen
class OpRules:
    """The specs of the inputs, outputs and states of an op, from an op config or a module config."""

    source: str
    level: OpLevel
    inputs: SpecTable | None = None
    outputs: SpecTable | None = None
    states: SpecTable | None = None
    disabled: bool = False

    @classmethod
    def of(cls, config: OpCompressionConfig | ModuleCompressionConfig | None, source: str, level: OpLevel) -> OpRules:
        """Compile the op specs of a config; None disables the op."""
        if config is None:
            return cls(source, level, disabled=True)
        return cls(
            source,
            level,
            SpecTable.of(config.op_input_spec, f"{source}.op_input_spec"),
            SpecTable.of(config.op_output_spec, f"{source}.op_output_spec"),
            SpecTable.of(config.op_state_spec, f"{source}.op_state_spec"),
        )


@attrs.frozen
class ModuleRules:
    """The compiled form of a module config: op rules by name, by type and by default, and boundary specs."""

    config: ModuleCompressionConfig
    by_name: tuple[tuple[NamePattern, OpRules], ...]
    by_type: dict[str, OpRules]
    otherwise: OpRules
    module_inputs: SpecTable | None
    module_outputs: SpecTable | None
    module_states: SpecTable | None

    @classmethod
    def of(cls, config: ModuleCompressionConfig, source: str) -> ModuleRules:
        """Compile the module config at `source`."""
        by_name = tuple(
            (NamePattern(name), OpRules.of(item, f"{source}.op_name_config[{name!r}]", OpLevel.OP_NAME))
            for name, item in config.op_name_config.items()
        )
        by_type = {
            canonical_op_type(name): OpRules.of(item, f"{source}.op_type_config[{name!r}]", OpLevel.OP_TYPE)
            for name, item in config.op_type_config.items()
        }
        return cls(
            config,
            by_name[::-1],
            by_type,
            OpRules.of(config, source, OpLevel.OP),
            SpecTable.of(config.module_input_spec, f"{source}.module_input_spec"),
            SpecTable.of(config.module_output_spec, f"{source}.module_output_spec"),
            SpecTable.of(config.module_state_spec, f"{source}.module_state_spec"),
        )

    def for_op(self, name: str, op_type: str) -> OpRules:
        """The rules of an op: the last matching entry by name, else by type, else the module's default."""
        for pattern, rules in self.by_name:
            if pattern.matches(name):
                return rules
        return self.by_type.get(canonical_op_type(op_type), self.otherwise)


@attrs.frozen
class Decision:
    """The decision of a config about one tensor.

    Attributes:
        spec: the spec; None if the tensor is not compressed.
        source: path of the entry that decided, such as ``global_config.op_state_spec['weight']``.
        level: the kind of module entry that decided.
        op_level: the part of it that decided; None if the whole module entry is None.
        explicit: False if the deciding entry has no spec for this tensor.
        key: the deciding key of a dictionary of specs, if any.
    """

    spec: Any | None
    source: str
    level: ModuleLevel
    op_level: OpLevel | None = None
    explicit: bool = True
    key: int | str | None = None

    @property
    def precedence(self) -> tuple[bool, int, int]:
        """A sort key: of several decisions about one tensor, the greatest wins."""
        return self.explicit, int(self.level), int(self.op_level or OpLevel.OP)

    @property
    def is_specific(self) -> bool:
        """True if the entry names the op, its module or its op type: not a blanket default."""
        return self.level >= ModuleLevel.MODULE_NAME or (self.op_level or OpLevel.OP) > OpLevel.OP

    @property
    def names_op(self) -> bool:
        """True if the entry names the op or its op type, or specs a boundary of its module."""
        return (self.op_level or OpLevel.OP) > OpLevel.OP


@attrs.frozen
class Governing:
    """The module entry that governs a module's scope.

    Attributes:
        source: its path, such as ``module_name_configs['layer1.*']``.
        level: its kind.
        rules: its compiled config; None skips everything.
        is_own: True if it matches the innermost module itself, not an enclosing one.
    """

    source: str
    level: ModuleLevel
    rules: ModuleRules | None
    is_own: bool

    @property
    def config(self) -> ModuleCompressionConfig | None:
        """The module config, with schedules and other settings."""
        return None if self.rules is None else self.rules.config


class ConfigResolver:
    """Resolves the specs of tensors by one config, a snapshot of it, with a cache by module and op."""

    def __init__(self, config: CompressionConfig):
        rules = _module_rules(config.global_config, "global_config")
        self._global = Governing("global_config", ModuleLevel.GLOBAL, rules, is_own=True)
        # Later entries win, so they are tried first.
        self._types = [
            (TypePattern(name), source := f"module_type_configs[{name!r}]", _module_rules(item, source))
            for name, item in reversed(config.module_type_configs.items())
        ]
        self._names = [
            (NamePattern(name), source := f"module_name_configs[{name!r}]", _module_rules(item, source))
            for name, item in reversed(config.module_name_configs.items())
        ]
        self._caches = {
            canonical_op_type(op_type): SpecTable.of(
                item.op_quantizer_config.op_input_spec,
                f"kv_cache_quant_configs[{op_type!r}].op_quantizer_config.op_input_spec",
            )
            for op_type, item in getattr(config, "kv_cache_quant_configs", {}).items()
        }
        every = [rules, *(item for _, _, item in self._types), *(item for _, _, item in self._names)]
        self.has_boundaries = any(
            item is not None and (item.module_inputs is not None or item.module_outputs is not None) for item in every
        )
        self.placement: Placement = getattr(config, "placement", Placement.EVERYWHERE)
        self._governing: dict[ModuleStack, Governing] = {}
        self._op_rules: dict[tuple[ModuleStack, str, str], OpRules] = {}

    def input_spec(self, site: OpSite, index: int, name: str | None = None) -> Any | None:
        """The spec of the operand at `index` (from 0) or called `name`; None if it is not compressed."""
        return self.explain_input(site, index, name).spec

    def output_spec(self, site: OpSite, index: int, name: str | None = None) -> Any | None:
        """The spec of the result at `index` (from 0); None if it is not compressed."""
        return self.explain_output(site, index, name).spec

    def state_spec(self, site: OpSite, state_name: str) -> Any | None:
        """The spec of a parameter or buffer by its name within its module; None if it is not compressed."""
        return self.explain_state(site, state_name).spec

    def module_input_spec(self, stack: ModuleStack, index: int, name: str | None = None) -> Any | None:
        """The spec of an input of the innermost module of `stack`; see `explain_module_input`."""
        return self.explain_module_input(stack, index, name).spec

    def module_output_spec(self, stack: ModuleStack, index: int, name: str | None = None) -> Any | None:
        """The spec of an output of the innermost module of `stack`."""
        return self.explain_module_output(stack, index, name).spec

    def explain_input(self, site: OpSite, index: int, name: str | None = None) -> Decision:
        """The decision behind `input_spec`."""
        name = _known_name(site.inputs, index, name)
        cache = self._caches.get(canonical_op_type(site.op_type)) if self._caches else None
        if cache is not None:
            return _found(cache.find(index, name), cache.source, ModuleLevel.KV_CACHE, OpLevel.OP_TYPE)
        return self._explain_op(site, "inputs", index, name)

    def explain_output(self, site: OpSite, index: int, name: str | None = None) -> Decision:
        """The decision behind `output_spec`."""
        return self._cached_op(site) or self._explain_op(site, "outputs", index, _known_name(site.outputs, index, name))

    def explain_state(self, site: OpSite, *names: str) -> Decision:
        """The decision behind `state_spec`, for a tensor with several names: the first that a key matches counts."""
        cached = self._cached_op(site)
        if cached is not None:
            return cached
        governing = self.governing(site.module_stack)
        if governing.rules is not None and governing.rules.module_states is not None:
            found = governing.rules.module_states.find(None, *names)
            if found is not None:
                return _found(found, "", governing.level, OpLevel.MODULE)
        return self._explain_op(site, "states", None, *names)

    def explain_module_input(self, stack: ModuleStack, index: int, name: str | None = None) -> Decision:
        """The decision behind `module_input_spec`; an `explicit` one overrides the specs of ops."""
        return self._explain_boundary(stack, "module_inputs", index, name)

    def explain_module_output(self, stack: ModuleStack, index: int, name: str | None = None) -> Decision:
        """The decision behind `module_output_spec`; an `explicit` one overrides the specs of ops."""
        return self._explain_boundary(stack, "module_outputs", index, name)

    def cache_entry(self, site: OpSite) -> tuple[Any, str, int | str] | None:
        """The spec of the cache that an op updates, the path and the key of its entry; None for other ops."""
        table = self._caches.get(canonical_op_type(site.op_type)) if self._caches else None
        if table is None:
            return None
        entry = table.explicit[0]
        return entry.spec, entry.source, entry.key

    def governing(self, stack: ModuleStack) -> Governing:
        """The module entry that governs the innermost module of `stack` and the ops in it."""
        known = self._governing.get(stack)
        if known is None:
            known = self._governing[stack] = self._govern(stack)
        return known

    def training_schedule(self, stack: ModuleStack) -> QATSchedule | None:
        """The training schedule of the quantizers in the innermost module of `stack`; None if always on."""
        config = self.governing(stack).config
        return config.qat_schedule if isinstance(config, ModuleQuantizerConfig) else None

    def _govern(self, stack: ModuleStack) -> Governing:
        for pattern, source, rules in self._names:
            if any(pattern.matches(scope.path) for scope in stack):
                return Governing(source, ModuleLevel.MODULE_NAME, rules, pattern.matches(stack[-1].path))
        for scope in reversed(stack):
            for types, source, rules in self._types:
                if types.matches(scope.type_names):
                    return Governing(source, ModuleLevel.MODULE_TYPE, rules, scope is stack[-1])
        return self._global

    def _explain_op(self, site: OpSite, tables: str, index: int | None, *names: str | None) -> Decision:
        governing = self.governing(site.module_stack)
        if governing.rules is None:
            return Decision(None, governing.source, governing.level)
        rules = self._rules_for(site, governing.rules)
        if rules.disabled:
            return Decision(None, rules.source, governing.level, rules.level)
        table: SpecTable | None = getattr(rules, tables)
        source = f"{rules.source}.{_FIELDS[tables]}"
        if table is None:
            return Decision(None, source, governing.level, rules.level)
        return _found(table.find(index, *names), source, governing.level, rules.level)

    def _rules_for(self, site: OpSite, rules: ModuleRules) -> OpRules:
        key = (site.module_stack, site.op_type, site.name)
        known = self._op_rules.get(key)
        if known is None:
            known = self._op_rules[key] = rules.for_op(site.name, site.op_type)
        return known

    def _explain_boundary(self, stack: ModuleStack, tables: str, index: int, name: str | None) -> Decision:
        governing = self.governing(stack)
        if governing.rules is None:
            return Decision(None, governing.source, governing.level, explicit=False)
        source = f"{governing.source}.{_FIELDS[tables]}"
        table: SpecTable | None = getattr(governing.rules, tables) if governing.is_own else None
        if table is None:
            return Decision(None, source, governing.level, OpLevel.MODULE, explicit=False)
        return _found(table.find(index, name), source, governing.level, OpLevel.MODULE)

    def _cached_op(self, site: OpSite) -> Decision | None:
        cache = self._caches.get(canonical_op_type(site.op_type)) if self._caches else None
        return None if cache is None else Decision(None, cache.source, ModuleLevel.KV_CACHE, OpLevel.OP_TYPE)


_FIELDS = {
    "inputs": "op_input_spec",
    "outputs": "op_output_spec",
    "states": "op_state_spec",
    "module_inputs": "module_input_spec",
    "module_outputs": "module_output_spec",
}


def _module_rules(config: ModuleCompressionConfig | None, source: str) -> ModuleRules | None:
    return None if config is None else ModuleRules.of(config, source)


def _found(found: SpecEntry | None, source: str, level: ModuleLevel, op_level: OpLevel) -> Decision:
    if found is None:
        return Decision(None, source, level, op_level, explicit=False)
    return Decision(found.spec, found.source, level, op_level, key=found.key)


def _known_name(names: tuple[str, ...] | None, index: int, name: str | None) -> str | None:
    if name is None and names is not None and index < len(names):
        return names[index]
    return name
