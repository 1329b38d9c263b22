"""Rendering of graph differences as lines and as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphpress.ir.diff import Difference, GraphDifference, NodeDifference
from graphpress.ir.graph import Node
from graphpress.ir.text.printer import node_text
from graphpress.tools.passctl.as_data import node_data

Line = tuple[str, str | None]

_LONGEST = 160


def diff_lines(difference: GraphDifference) -> Iterator[Line]:
    """Yield lines with colours, in the order of the second graph: ``-`` removed, ``+`` added, ``~`` changed."""
    for other in difference.others:
        yield f"~ {other}", "yellow"
    only_first, only_second = difference.constants
    if only_first or only_second:
        yield f"~ constants: {only_first} only in the first graph, {only_second} only in the second", "yellow"
    changed = {change.after: change for change in difference.changed}
    added, removed = set(difference.added), _removed_after(difference)
    for node in removed.pop(None, ()):
        yield f"- {node_text(node)}", "red"
    for node in difference.alignment.second.nodes:
        if node in added:
            yield f"+ {node_text(node)}", "green"
        if node in changed:
            yield from _changed(changed[node])
        for gone in removed.get(difference.alignment.reverse.get(node), ()):
            yield f"- {node_text(gone)}", "red"


def diff_data(difference: GraphDifference) -> dict[str, Any]:
    """Return the difference as plain data."""
    return {
        "same": difference.is_empty,
        "removed": [node_data(node) for node in difference.removed],
        "added": [node_data(node) for node in difference.added],
        "changed": [
            {
                "before": change.before.name,
                "after": change.after.name,
                "op": change.after.op.name,
                "differences": [_difference(each) for each in change.differences],
            }
            for change in difference.changed
        ],
        "others": [_difference(each) for each in difference.others],
        "constants": {"only_first": difference.constants[0], "only_second": difference.constants[1]},
        "renamed": difference.renamed,
    }


def _difference(each: Difference) -> dict[str, Any]:
    return {"what": each.what, "before": each.before, "after": each.after}


def _changed(change: NodeDifference) -> Iterator[Line]:
    before, after = change.before, change.after
    was = "" if before.name == after.name else f"  (was %{before.name})"
    yield f"~ %{after.name} = {after.op.name}{was}", "yellow"
    for each in change.differences:
        yield f"    {_shortened(each)}", None


def _shortened(each: Difference) -> Difference:
    """Shorten annotation texts if their starts already differ."""
    before, after = _start(each.before), _start(each.after)
    return each if before == after else Difference(each.what, before, after)


def _start(text: str | None) -> str | None:
    return text if text is None or len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _removed_after(difference: GraphDifference) -> dict[Node | None, list[Node]]:
    """Return the removed nodes by the last preceding node that the second graph still has."""
    removed = set(difference.removed)
    found: dict[Node | None, list[Node]] = {}
    last: Node | None = None
    for node in difference.alignment.first.nodes:
        if node in removed:
            found.setdefault(last, []).append(node)
        else:
            last = node
    return found
