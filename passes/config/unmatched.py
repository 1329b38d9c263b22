"""Reports of config entries that match nothing in a model: misspelt names, absent types.

An unmatched entry by name is specific to a model, so it is an error; one by type may be written for many models, so
it is a warning. `CompressionConfig.on_unmatched` changes both.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from graphpress.ir.errors import GraphpressError, suggestion
from graphpress.passes.config.base import CompressionConfig, ModuleCompressionConfig, OnUnmatched
from graphpress.passes.config.entries import (
    ALL,
    ModuleScope,
    NamePattern,
    OpSite,
    Table,
    TypePattern,
    canonical_op_type,
)


@attrs.frozen
class UnmatchedEntry:
    """An entry that matches nothing.

    Attributes:
        source: its path, such as ``module_name_configs['layr1']``.
        looked_for: the kind of thing it should match: ``module``, ``op``, ``module of that type``, ...
        by_type: True for an entry by type, False for one by name or index.
        advice: near matches or a better place, starting with ``; ``; may be empty.
    """

    source: str
    looked_for: str
    by_type: bool
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.source} matches no {self.looked_for}{self.advice}"


class UnmatchedConfigError(GraphpressError, ValueError):
    """Entries of a config that match nothing in the model.

    Attributes:
        entries: the entries.
    """

    def __init__(self, entries: Iterable[UnmatchedEntry]):
        self.entries = tuple(entries)
        super().__init__(self.entries)

    def __str__(self) -> str:
        lines = "".join(f"\n  {entry}" for entry in self.entries)
        return f"the config has entries that match nothing in the model:{lines}\n{_WAY_OUT}"


class UnmatchedConfigWarning(UserWarning):
    """An entry of a config that matches nothing in the model."""


Boundaries = Mapping[ModuleScope, tuple[tuple[str, ...], tuple[str, ...]]]

_WAY_OUT = "on_unmatched='warn' or 'ignore' in the config lets them pass"
_default = OnUnmatched.DEFAULT


def set_default_for_unmatched(action: str) -> None:
    """Set the action of configs whose `on_unmatched` is ``"default"``, in this process.

    For applications that read configs of other tools. ``"default"`` restores an error by name and a warning by type.
    """
    global _default
    _default = OnUnmatched(action)


def report_unmatched(
    config: CompressionConfig,
    sites: Iterable[OpSite],
    modules: Iterable[ModuleScope] = (),
    on_unmatched: str | None = None,
    boundaries: Boundaries | None = None,
) -> tuple[UnmatchedEntry, ...]:
    """Raise or warn about entries that match nothing, and return them.

    Args:
        config: the config.
        sites: every op of the model.
        modules: modules of the model, including those in which no op runs.
        on_unmatched: overrides the setting of the config.
        boundaries: by module, the names of its inputs and outputs, by position; other modules are not
            checked.

    Raises:
        UnmatchedConfigError: for entries by name; with ``"error"`` also for those by type.
    """
    action = OnUnmatched(on_unmatched or config.on_unmatched)
    action = _default if action is OnUnmatched.DEFAULT else action
    if action is OnUnmatched.IGNORE:
        return ()
    entries = tuple(unmatched_entries(config, sites, modules, boundaries or {}))
    errors = [entry for entry in entries if _is_error(entry, action)]
    for entry in entries:
        if entry not in errors:
            warnings.warn(f"{entry}; the rest of the config applies", UnmatchedConfigWarning, stacklevel=2)
    if errors:
        raise UnmatchedConfigError(errors)
    return entries


def _is_error(entry: UnmatchedEntry, action: OnUnmatched) -> bool:
    return action is OnUnmatched.ERROR or (action is OnUnmatched.DEFAULT and not entry.by_type)


def unmatched_entries(
    config: CompressionConfig,
    sites: Iterable[OpSite],
    modules: Iterable[ModuleScope] = (),
    boundaries: Boundaries | None = None,
) -> Iterator[UnmatchedEntry]:
    """The entries of `config` that match none of the ops and modules, in the config's order. See `report_unmatched`."""
    boundaries = boundaries or {}
    sites = list(dict.fromkeys(sites))
    by_scope: dict[ModuleScope, list[OpSite]] = {scope: [] for scope in modules}
    for site in sites:
        for scope in site.module_stack:
            by_scope.setdefault(scope, []).append(site)
    if config.global_config is not None:
        yield from _in_module(config.global_config, "global_config", sites)
        yield from _at_boundaries(config.global_config, "global_config", boundaries, list(boundaries))
    yield from _module_types(config, by_scope, boundaries)
    yield from _module_names(config, by_scope, boundaries)
    op_types = {canonical_op_type(site.op_type) for site in sites}
    for op_type in getattr(config, "kv_cache_quant_configs", {}):
        if canonical_op_type(op_type) not in op_types:
            source = f"kv_cache_quant_configs[{op_type!r}]"
            yield UnmatchedEntry(source, "op of that type", True, suggestion(op_type, op_types))


def _module_types(
    config: CompressionConfig, by_scope: dict[ModuleScope, list[OpSite]], boundaries: Boundaries
) -> Iterator[UnmatchedEntry]:
    for name, module_config in config.module_type_configs.items():
        source, pattern = f"module_type_configs[{name!r}]", TypePattern(name)
        scopes = [scope for scope in by_scope if pattern.matches(scope.type_names)]
        if not scopes:
            # Full names share their packages; class names differ more, and are accepted too.
            known = {_class_name(type_name) for scope in by_scope for type_name in scope.type_names}
            advice = suggestion(_class_name(name), known)
            yield UnmatchedEntry(source, "module of that type", True, advice)
        elif module_config is not None:
            yield from _in_module(module_config, source, _sites_in(scopes, by_scope))
            yield from _at_boundaries(module_config, source, boundaries, scopes)


def _module_names(
    config: CompressionConfig, by_scope: dict[ModuleScope, list[OpSite]], boundaries: Boundaries
) -> Iterator[UnmatchedEntry]:
    for name, module_config in config.module_name_configs.items():
        source, pattern = f"module_name_configs[{name!r}]", NamePattern(name)
        scopes = [scope for scope in by_scope if pattern.matches(scope.path)]
        if not scopes:
            is_type = any(TypePattern(name).matches(scope.type_names) for scope in by_scope)
            advice = "; it is a module type, which goes into module_type_configs" if is_type else ""
            yield UnmatchedEntry(
                source, "module", False, advice or suggestion(name, (scope.path for scope in by_scope))
            )
        elif module_config is not None:
            yield from _in_module(module_config, source, _sites_in(scopes, by_scope))
            yield from _at_boundaries(module_config, source, boundaries, scopes)


def _class_name(type_name: str) -> str:
    return type_name.rpartition(".")[2]


def _sites_in(scopes: list[ModuleScope], by_scope: dict[ModuleScope, list[OpSite]]) -> list[OpSite]:
    return list(dict.fromkeys(site for scope in scopes for site in by_scope[scope]))


def _in_module(config: ModuleCompressionConfig, source: str, sites: list[OpSite]) -> Iterator[UnmatchedEntry]:
    by_type: dict[str, list[OpSite]] = {}
    for site in sites:
        by_type.setdefault(canonical_op_type(site.op_type), []).append(site)
    yield from _tables(config, source, sites)
    states = [site.states for site in sites]
    yield from _state_table(config.module_state_spec, f"{source}.module_state_spec", states)
    for name, op_config in config.op_type_config.items():
        place, matched = f"{source}.op_type_config[{name!r}]", by_type.get(canonical_op_type(name))
        if matched is None:
            yield UnmatchedEntry(place, "op of that type", True, suggestion(name, by_type))
        elif op_config is not None:
            yield from _tables(op_config, place, matched)
    for name, op_config in config.op_name_config.items():
        place, pattern = f"{source}.op_name_config[{name!r}]", NamePattern(name)
        matched = [site for site in sites if pattern.matches(site.name)]
        if not matched:
            is_type = canonical_op_type(name) in by_type
            advice = "; it is an op type, which goes into op_type_config" if is_type else ""
            yield UnmatchedEntry(place, "op", False, advice or suggestion(name, (site.name for site in sites)))
        elif op_config is not None:
            yield from _tables(op_config, place, matched)


def _at_boundaries(
    config: ModuleCompressionConfig, source: str, boundaries: Boundaries, scopes: Iterable[ModuleScope]
) -> Iterator[UnmatchedEntry]:
    known = [boundaries[scope] for scope in scopes if scope in boundaries]
    yield from _table(config.module_input_spec, f"{source}.module_input_spec", [inputs for inputs, _ in known])
    yield from _table(config.module_output_spec, f"{source}.module_output_spec", [outputs for _, outputs in known])


def _tables(config: Any, source: str, sites: list[OpSite]) -> Iterator[UnmatchedEntry]:
    # A default cannot be misspelt.
    usual = type(config)()
    if config.op_input_spec != usual.op_input_spec:
        yield from _table(config.op_input_spec, f"{source}.op_input_spec", [site.inputs for site in sites])
    if config.op_output_spec != usual.op_output_spec:
        yield from _table(config.op_output_spec, f"{source}.op_output_spec", [site.outputs for site in sites])
    if config.op_state_spec != usual.op_state_spec:
        states = [site.states for site in sites]
        yield from _state_table(config.op_state_spec, f"{source}.op_state_spec", states)


def _state_table(table: Table | None, source: str, known: list[tuple[str, ...] | None]) -> Iterator[UnmatchedEntry]:
    """As `_table`, but report a key beside matching ones only if it looks misspelt: not every op has a bias."""
    entries = list(_table(table, source, known))
    all_miss = len(entries) == sum(key != ALL for key in table or ())
    has_all = table is not None and ALL in table
    yield from (entry for entry in entries if entry.advice or (all_miss and not has_all))


def _table(table: Table | None, source: str, known: list[tuple[str, ...] | None]) -> Iterator[UnmatchedEntry]:
    names_by_op = [names for names in known if names is not None]
    if not table or not names_by_op:
        return
    names = {name for names in names_by_op for name in names}
    most = max(len(names) for names in names_by_op)
    claimed = {key for key in table if key in names}
    for key in table:
        if key == ALL:
            continue
        if isinstance(key, int):
            if key >= most:
                advice = f"; the most there are is {most}, counted from 0"
                yield UnmatchedEntry(f"{source}[{key!r}]", "tensor at that index", False, advice)
        elif not any(NamePattern(key).matches(name) for name in names):
            advice = suggestion(key, names - claimed)
            yield UnmatchedEntry(f"{source}[{key!r}]", "tensor of that name", False, advice)
