"""Graphs, steps and pipelines as plain data, for ``--json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphpress.ir.annotations import annotation_name
from graphpress.ir.attribute_text import TextFormError, format_value
from graphpress.ir.graph import Constant, Graph, Input, Node, Output, Value
from graphpress.ir.location import Location
from graphpress.ir.printer import constant_digest
from graphpress.passes.framework import Drift, Report, StepRecord


def graph_data(graph: Graph, locations: bool = True) -> dict[str, Any]:
    """A graph: values are referred to as in the text form, ``%node``, ``%node#1``, ``@constant``."""
    return {
        "name": graph.name,
        "inputs": [_input(graph_input) for graph_input in graph.inputs],
        "constants": [_constant(constant) for constant in graph.constants.values()],
        "nodes": [node_data(node, locations) for node in graph.nodes],
        "outputs": [_output(output) for output in graph.outputs],
    }


def node_data(node: Node, locations: bool = True) -> dict[str, Any]:
    """One node."""
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
    """The origins of a node."""
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
    """What one step did."""
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
    """How far one output moved."""
    return {"output": drift.output, "error": drift.error, "allowed": drift.allowed, "held": drift.is_held}


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dictionaries as they are; anything else as the text form spells it."""
    if value is None or (isinstance(value, bool | int | float | str) and type(value).__module__ == "builtins"):
        return value
    if isinstance(value, Value):
        return f"@{value.name}" if value.constant is not None else f"%{value.name}"
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Graph):
        return graph_data(value)
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
    return {
        "reason": report.reason,
        "node": report.node_name,
        "op": report.op_name,
        "location": location_data(report.location),
    }
