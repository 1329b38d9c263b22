"""Graphs, steps, passes and pipelines as plain data, for ``--json``."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from graphpress.ir.annotations import annotation_name
from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Constant, Graph, Input, Node, Output, Value
from graphpress.ir.location import Location
from graphpress.ir.plain import constructor_fields, default_of, field_types, to_plain
from graphpress.ir.text.attributes import TextFormError, format_value
from graphpress.ir.text.printer import constant_digest
from graphpress.passes.config import SkippedWeight
from graphpress.passes.framework import Drift, Fact, Pass, Report, RewritePass, StepRecord, registered_rules, rules_of
from graphpress.passes.framework.facts import fact_set
from graphpress.passes.framework.options import write_value
from graphpress.passes.framework.registry import provider


def graph_data(graph: Graph, locations: bool = True) -> dict[str, Any]:
    """Return a graph as data; values are referenced as in the text form: ``%node``, ``%node#1``, ``@constant``."""
    return {
        "name": graph.name,
        "inputs": [_input(graph_input) for graph_input in graph.inputs],
        "constants": [_constant(constant) for constant in graph.constants.values()],
        "nodes": [node_data(node, locations) for node in graph.nodes],
        "outputs": [_output(output) for output in graph.outputs],
    }


def node_data(node: Node, locations: bool = True) -> dict[str, Any]:
    """Return a node as data."""
    data = {
        "name": node.name,
        "op": node.op.name,
        "operands": {name: plain(operand) for name, operand in node.operands.items()},
        "attributes": {name: plain(value) for name, value in node.attributes.items()},
        "types": [str(result.type) for result in node.results],
        "annotations": {annotation_name(kind): plain(note) for kind, note in node.annotations.items()},
    }
    return data | {"location": location_data(node.location)} if locations else data


def location_data(location: Location) -> list[dict[str, Any]]:
    """Return the origins of a node as data."""
    return [
        {
            "module": origin.module_path,
            "type": origin.scopes[-1].type_name if origin.scopes else None,
            "file": origin.file or None,
            "line": origin.line or None,
        }
        for origin in location.origins
    ]


def record_data(record: StepRecord) -> dict[str, Any]:
    """Return a step record as data."""
    return {
        "step": record.step.label,
        "pass": record.pass_.name,
        "added": record.added,
        "removed": record.removed,
        "changed": record.changed,
        "constants": record.constants,
        "seconds": record.seconds,
        "statistics": record.statistics,
        "reports": [_report(report) for report in record.reports],
        "drift": [drift_data(drift) for drift in record.drift],
    }


def drift_data(drift: Drift) -> dict[str, Any]:
    """Return the drift of one output as data."""
    return {"output": drift.output, "error": drift.error, "allowed": drift.allowed, "held": drift.is_held}


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dictionaries as they are; anything else as the text form spells it."""
    return to_plain(value, _text_form)


def _text_form(value: Any) -> Any:
    if isinstance(value, Value):
        return f"@{value.name}" if value.constant is not None else f"%{value.name}"
    if isinstance(value, Graph):
        return graph_data(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return NotImplemented
    try:
        return format_value(value)
    except TextFormError:
        return repr(value)


def _input(graph_input: Input) -> dict[str, Any]:
    if graph_input.value is None:
        return {"name": graph_input.name, "literal": plain(graph_input.literal)}
    return {"name": graph_input.name, "type": str(graph_input.value.type)}


def _constant(constant: Constant) -> dict[str, Any]:
    return {
        "name": constant.name,
        "type": str(constant.value.type),
        "kind": constant.kind,
        "names": list(constant.names),
        "sha256": constant_digest(constant),
    }


def _output(output: Output) -> dict[str, Any]:
    data = {"kind": output.kind, "value": plain(output.value) if output.value is not None else plain(output.literal)}
    return data if output.target is None else data | {"target": plain(output.target)}


def _report(report: Report) -> dict[str, Any]:
    data = {
        "reason": report.reason,
        "node": report.node_name,
        "op": report.op_name,
        "location": location_data(report.location),
    }
    return data | ({"skipped": report.remark.data()} if isinstance(report.remark, SkippedWeight) else {})


_BY_OPTIONS = "depends on the options"


def describe(cls: type[Pass]) -> dict[str, Any]:
    """Describe the declarations of a pass; properties that depend on options use the defaults."""
    instance = _with_defaults(cls)
    return {
        "name": cls.name,
        "summary": cls.summary(),
        "doc": inspect.cleandoc(cls.__doc__ or ""),
        "options": [_option(attribute, kind) for attribute, kind in _options(cls)],
        "needs": _facts(cls, instance, "needs"),
        "gives": _facts(cls, instance, "gives"),
        "breaks": _facts(cls, instance, "breaks"),
        "effect": str(_declared(cls, instance, "effect")),
        "idempotent": cls.is_idempotent,
        "rules": _rules(cls),
        "package": provider(cls),
        "class": f"{cls.__module__}.{cls.__qualname__}",
    }


def describe_rules() -> list[dict[str, str]]:
    """Every registered rule, with the pass that applies it."""
    return [
        {"name": name, "pass": name.partition("/")[0], "summary": rule.summary}
        for name, rule in registered_rules().items()
    ]


def _options(cls: type[Pass]) -> Iterable[tuple[Any, Any]]:
    types = field_types(cls)
    return [(field, types[field.alias]) for field in constructor_fields(cls)]


def _option(attribute: Any, kind: Any) -> dict[str, Any]:
    required = attribute.default is attrs.NOTHING
    return {
        "name": attribute.alias,
        "type": type_text(kind),
        "required": required,
        "default": None if required else _default(attribute),
    }


def _default(attribute: Any) -> str:
    """As a pipeline's text writes it; a default that is long or made from other options is only named."""
    default = default_of(attribute)
    if default is attrs.NOTHING:
        return _BY_OPTIONS
    try:
        text = write_value(default)
    except GraphpressError:
        text = ""
    return text if 0 < len(text) <= 60 else f"{type(default).__name__}()"


def type_text(kind: Any) -> str:
    """Return a type as source text: ``int | None``, ``tuple[str, ...]``."""
    if kind is type(None):
        return "None"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is None:
        return kind.__name__ if isinstance(kind, type) else str(kind).removeprefix("typing.")
    if origin is typing.Union or not isinstance(origin, type) or origin.__name__ == "UnionType":
        if origin is typing.Literal:
            return " | ".join(map(repr, arguments))
        return " | ".join(map(type_text, arguments))
    inner = ", ".join("..." if argument is ... else type_text(argument) for argument in arguments)
    return f"{origin.__name__}[{inner}]"


def _facts(cls: type[Pass], instance: Pass | None, kind: str) -> Any:
    declared = _declared(cls, instance, kind)
    if isinstance(declared, property):
        return _BY_OPTIONS
    facts: Iterable[Fact] = fact_set(declared)
    return [{"name": fact.name, "description": fact.description} for fact in sorted(facts, key=lambda fact: fact.name)]


def _rules(cls: type[Pass]) -> list[dict[str, str]]:
    rules = rules_of(cls) if issubclass(cls, RewritePass) else ()
    return [{"name": rule.name, "summary": rule.summary} for rule in rules]


def _declared(cls: type[Pass], instance: Pass | None, name: str) -> Any:
    return getattr(cls if instance is None else instance, name)


def _with_defaults(cls: type[Pass]) -> Pass | None:
    try:
        return cls()
    except (TypeError, GraphpressError):
        return None
