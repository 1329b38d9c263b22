"""Conversion between locations and the node metadata of torch.export."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch

from graphpress.ir.graph import Graph
from graphpress.ir.location import UNKNOWN, Location, ModuleScope, Origin

TORCH_FOLDER = os.path.dirname(torch.__file__) + os.sep
# Names of generated code; notebook cells have other names in angle brackets.
NOT_USER_CODE = (TORCH_FOLDER, "torch/", "torch\\", "<eval_with_key>", "<string>", "<frozen ")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_CALL_COUNT = re.compile(r"@\d+")  # torch marks the second call of a module as `path@1`
_STRICT_ROOT = re.compile(r"^(?:L\[['\"]self['\"]\]|L__self__)[._]*")
_INDEX = re.compile(r"\[['\"]?(\w+)['\"]?\]")
_NO_STACK = "_empty_nn_module_stack_from_metadata_hook"


class LocationReader:
    """Reads locations of fx nodes; each distinct stack trace and module stack is parsed once."""

    def __init__(self) -> None:
        self._lines: dict[str, tuple[str, int]] = {}
        self._scopes: dict[tuple[tuple[str, Any], ...], tuple[ModuleScope, ...]] = {}
        self._locations: dict[tuple[tuple[ModuleScope, ...], tuple[str, int]], Location] = {}

    def read(self, meta: Mapping[str, Any]) -> Location:
        """Return the location in `meta` of an fx node, or the unknown location."""
        stack = meta.get("nn_module_stack")
        scopes = self._scopes_of(tuple(stack.values())) if stack else ()
        trace = meta.get("stack_trace")
        line = ("", 0)
        if trace:
            if trace not in self._lines:
                self._lines[trace] = user_frame(trace)
            line = self._lines[trace]
        if not scopes and not line[0]:
            return UNKNOWN
        key = scopes, line
        if key not in self._locations:
            self._locations[key] = Location((Origin(scopes, *line),))
        return self._locations[key]

    def _scopes_of(self, entries: tuple[tuple[str, Any], ...]) -> tuple[ModuleScope, ...]:
        if entries not in self._scopes:
            self._scopes[entries] = tuple(
                ModuleScope(_clean_path(path), _type_name(kind)) for path, kind in entries if path != _NO_STACK
            )
        return self._scopes[entries]


def location_meta(location: Location) -> dict[str, Any]:
    """Return fx metadata from which another export recovers module stack and source line."""
    meta: dict[str, Any] = {}
    if location.scopes:
        meta["nn_module_stack"] = {
            f"L__self__{scope.path.replace('.', '_')}": (scope.path, scope.type_name) for scope in location.scopes
        }
    if location.origins and location.origins[0].file:
        origin = location.origins[0]
        meta["stack_trace"] = f'File "{origin.file}", line {origin.line}, in forward\n'
    return meta


def captured_scopes(graph: Graph) -> dict[str, ModuleScope]:
    """Return the modules that run an op of `graph`, by path."""
    return {scope.path: scope for node in graph.nodes for origin in node.location.origins for scope in origin.scopes}


def user_frame(trace: str) -> tuple[str, int]:
    """Return file and line of the last frame in user code, not in torch or generated code."""
    for file, line in reversed(_FRAME.findall(trace)):
        if not file.startswith(NOT_USER_CODE):
            return file, int(line)
    return "", 0


def _clean_path(path: str) -> str:
    if "L" in path:
        path = _STRICT_ROOT.sub("", path)
    if "[" in path:
        path = _INDEX.sub(r".\1", path).lstrip(".")
    return _CALL_COUNT.sub("", path) if "@" in path else path


def _type_name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)
