"""Judgement of results: whether a model works, where it stops, and whose fault that is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import attrs

Records = Mapping[str, dict[str, Any]]
"""The records of one architecture, by stage."""

COMPRESSING = ("w8a8", "w8", "w4", "p4", "joint")
SIDES = {
    "torch": ("capture", "text", "batch", "dynamic", *COMPRESSING),
    "Core AI": (*(f"coreai:{kind}" for kind in COMPRESSING), "states"),
    "Core ML": tuple(f"coreml:{kind}" for kind in ("w8a8", "w4", "joint")),
}
_ALONE = {"coreai": "coreai:alone", "coreml": "coreml:alone"}


class Whose(Enum):
    """Where a failure comes from."""

    OURS = "ours"
    CONVERTER = "converter alone"
    UNKNOWN = "ours or the converter's"
    EXPORT = "torch.export"
    PEER = "peer"


@attrs.frozen
class Failure:
    """A failed stage of an architecture."""

    model: str
    stage: str
    error: str
    whose: Whose


def failures(model: str, records: Records) -> list[Failure]:
    """Return the failures of an architecture; a stage that waits for a failed one is none."""
    return [
        Failure(model, stage, str(record["error"]), _whose(stage, records))
        for stage, record in records.items()
        if record["status"] == "failed"
    ]


def _whose(stage: str, records: Records) -> Whose:
    backend = stage.split(":")[0]
    if stage.startswith("peer"):
        return Whose.PEER
    if stage == "export":
        return Whose.EXPORT
    if stage in _ALONE.values():
        return Whose.CONVERTER
    if stage == "dynamic" and "torch.export" in records[stage]["figures"]:
        return Whose.EXPORT
    if backend in _ALONE:
        alone = records.get(_ALONE[backend])
        return Whose.UNKNOWN if alone is None else Whose.CONVERTER if alone["status"] == "failed" else Whose.OURS
    return Whose.OURS


def works(records: Records, side: str) -> bool | None:
    """Return whether every stage of a side works; None if none of them has run."""
    found = [records[stage] for stage in SIDES[side] if stage in records]
    found = [each for each in found if not (each["status"] == "skipped" and str(each["error"]).startswith("no "))]
    return all(each["status"] == "ok" for each in found) if found else None


def grouped(found: Iterable[Failure]) -> list[tuple[str, list[Failure]]]:
    """Group failures whose errors are equal but for names and numbers, the largest group first."""
    groups: dict[str, list[Failure]] = {}
    for failure in found:
        groups.setdefault(_shape_of(failure), []).append(failure)
    return sorted(groups.items(), key=lambda each: -len(each[1]))


def _shape_of(failure: Failure) -> str:
    kind = failure.stage.split(":")[0]
    text = re.sub(r"'[^']*'|\d+(\.\d+)?(e-?\d+)?", "#", failure.error)
    return f"{failure.whose.value} {kind}: {text[:90]}"
