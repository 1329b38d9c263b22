"""Judgement of results: whether a model works, where it stops, and whose fault that is."""

from __future__ import annotations

import math
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


@attrs.frozen
class Gap:
    """By how many decibels an architecture of ours is below the peer's.

    Attributes:
        decibels: the difference of the pooled decibels; positive if ours are fewer.
        error: its standard error over the sets, or None for results without sets. The sets of both sides have equal
            weights and batches, so the error is that of the differences: the jackknife's, of the differences without
            each set in turn (Efron and Stein, 1981).
    """

    decibels: float
    error: float | None

    def exceeds(self, bound: float) -> bool:
        """Return True if the difference is more than `bound` by at least its standard error."""
        return self.decibels - (self.error or 0.0) > bound


def gap(records: Records) -> Gap | None:
    """Return the gap to the peer, or None if a side has no decibels."""
    ours, peer = (records.get(stage, {}).get("figures", {}) for stage in ("w8a8", "peer"))
    if ours.get("decibels") is None or peer.get("decibels") is None:
        return None
    pairs = list(zip(peer.get("without each set", ()), ours.get("without each set", ()), strict=False))
    if len(pairs) < 2 or any(None in pair for pair in pairs) or _sets(ours) != _sets(peer):
        return Gap(peer["decibels"] - ours["decibels"], None)
    differences = [theirs - mine for theirs, mine in pairs]
    mean = sum(differences) / len(pairs)
    variance = (len(pairs) - 1) / len(pairs) * sum((each - mean) ** 2 for each in differences)
    return Gap(peer["decibels"] - ours["decibels"], math.sqrt(variance))


def _sets(figures: Mapping[str, Any]) -> int:
    return len(figures.get("without each set", ()))


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
