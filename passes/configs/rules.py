"""A config, compiled: patterns ready to match, and for every entry the path it came from."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import attrs

from graphpress.passes.configs.base import ModuleCompressionConfig, OpCompressionConfig
from graphpress.passes.configs.matching import NamePattern, canonical_op_type
from graphpress.passes.configs.tables import ALL, Table


class ModuleLevel(IntEnum):
    """Which module entry speaks; the higher, the more specific."""

    GLOBAL = 0
    MODULE_TYPE = 1
    MODULE_NAME = 2
    KV_CACHE = 3


class OpLevel(IntEnum):
    """Which part of a module config speaks; the higher, the more specific."""

    OP = 0
    OP_TYPE = 1
    OP_NAME = 2
    MODULE = 3
    """The module's own input, output and state specs."""


@attrs.frozen
class SpecTable:
    """A dictionary of specs. An explicit key beats ``"*"``; among explicit keys that match, the last wins."""

    source: str
    explicit: tuple[tuple[int | NamePattern, Any, str], ...]
    everything: tuple[Any, str] | None

    @classmethod
    def of(cls, table: Table | None, source: str) -> SpecTable | None:
        """Compile a dictionary; None stays None."""
        if table is None:
            return None
        explicit = tuple(
            (key if isinstance(key, int) else NamePattern(key), spec, f"{source}[{key!r}]")
            for key, spec in table.items()
            if key != ALL
        )
        everything = (table[ALL], f"{source}[{ALL!r}]") if ALL in table else None
        return cls(source, explicit[::-1], everything)

    def find(self, index: int | None, name: str | None) -> tuple[Any, str] | None:
        """The spec of a tensor and the path of its entry; None when no entry speaks of it."""
        for key, spec, source in self.explicit:
            if key == index if isinstance(key, int) else name is not None and key.matches(name):
                return spec, source
        return self.everything


@attrs.frozen
class OpRules:
    """The three tables that cover an op, from an op config or from a module config's own; None disables."""

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
    """A module config: op rules by name, by type and for the rest, and the module's own tables."""

    config: ModuleCompressionConfig
    by_name: tuple[tuple[NamePattern, OpRules], ...]
    by_type: dict[str, OpRules]
    otherwise: OpRules
    module_inputs: SpecTable | None
    module_outputs: SpecTable | None
    module_states: SpecTable | None

    @classmethod
    def of(cls, config: ModuleCompressionConfig, source: str) -> ModuleRules:
        """Compile a module config that stands at `source`."""
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
        """The rules of an op: the last matching entry by name, else the one by type, else the module's own."""
        for pattern, rules in self.by_name:
            if pattern.matches(name):
                return rules
        return self.by_type.get(canonical_op_type(op_type), self.otherwise)
