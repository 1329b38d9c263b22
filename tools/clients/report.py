"""The table of what clients did on both sides, and the file that keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs


@attrs.frozen
class Run:
    """One run of a client: the replies of both sides, by the names of their figures."""

    name: str
    ours: dict[str, Any]
    peer: dict[str, Any]

    @property
    def is_our_fault(self) -> bool:
        """True if our side fails where the peer's does not, or in a configuration of the exploration."""
        return bool(_errors(self.ours)) and not _errors(self.peer)

    def cells(self) -> list[str]:
        """Return the cells of its row."""
        seconds, size, decibels = (
            [figure(reply) for reply in (self.ours, self.peer)] for figure in (_seconds, _size, _decibels)
        )
        return [self.name, self._outcome(), *size, *seconds, *decibels]

    def _outcome(self) -> str:
        ours, peer = _errors(self.ours), _errors(self.peer)
        if not ours and not peer:
            return "runs"
        if ours and peer:
            return f"fails on both sides: {ours[0]}"
        return f"fails here: {ours[0]}" if ours else f"runs here; there: {peer[0]}"

    def __str__(self) -> str:
        return " | ".join(self.cells())


def kept(path: Path) -> dict[str, Run]:
    """Return the runs that the file at `path` keeps, by name."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: Run(name, *replies) for name, replies in found.items()}


def with_run(runs: dict[str, Run], run: Run) -> str:
    """Return the content of a file that keeps `runs`, and `run` in place of an older one of its name."""
    return json.dumps({each.name: (each.ours, each.peer) for each in {**runs, run.name: run}.values()}, indent=1)


def table(runs: dict[str, Run], names: Sequence[str]) -> str:
    """Return the table in Markdown, with a row for each name."""
    head = ["run", "outcome", "bytes, ours", "theirs", "CPU s, ours", "theirs", "dB, ours", "theirs"]
    rows = [runs[name].cells() if name in runs else [name, "not run", *[""] * (len(head) - 2)] for name in names]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def versions(runs: Iterable[Run]) -> str:
    """Return what the last run of each client ran with, as one line."""
    found: dict[str, str] = {}
    for run in runs:
        found |= run.ours.get("versions", {}) | run.peer.get("versions", {})
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def _errors(reply: dict[str, Any]) -> list[str]:
    found = [reply.get("error"), *(row["error"] for row in reply.get("rows", ()))]
    return [each for each in found if each]


def _size(reply: dict[str, Any]) -> str:
    if "rows" in reply:
        return f"{sum(row['megabytes'] for row in reply['rows']) * 2**20:,.0f}"
    return f"{reply['bytes']:,}" if reply.get("bytes") else ""


def _seconds(reply: dict[str, Any]) -> str:
    seconds = reply["prepare"] + reply["finalize"] if "prepare" in reply else reply.get("seconds")
    return "" if seconds is None else f"{seconds:.2f}"


def _decibels(reply: dict[str, Any]) -> str:
    if "rows" in reply:
        values = [row["decibels"] for row in reply["rows"] if row["decibels"] is not None]
        return f"{sum(values) / len(values):.2f}" if values else ""
    return "" if reply.get("decibels") is None else f"{reply['decibels']:.2f}"
