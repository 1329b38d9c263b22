"""The table of what clients did on both sides."""

from __future__ import annotations

from collections.abc import Sequence
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


def table(runs: Sequence[Run]) -> str:
    """Return the table in Markdown."""
    head = ["run", "outcome", "bytes, ours", "theirs", "CPU s, ours", "theirs", "dB, ours", "theirs"]
    rows = [head, ["---"] * len(head), *(run.cells() for run in runs)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


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
