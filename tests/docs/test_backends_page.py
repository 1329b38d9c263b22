"""The page about backends: its code, and its tables, which are those that the tests of backends go through."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from graphpress.backends.coreml import Target
from tests.backends.features import ACTIVATIONS, WEIGHTS, Feature
from tests.documents import page


def test_the_pages_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("coremltools")
    pytest.importorskip("coreai_torch")
    monkeypatch.chdir(tmp_path)
    page("docs/backends.md").run()
    assets = {f"{name}.aimodel" for name in ("model", "float", "int4", "graph", "small", "half", "spectrogram")}
    packages = {
        f"{name}.mlpackage" for name in ("model", "described", "float", "tables", "graph", "int8", "spectrogram")
    }
    assert {path.name for path in tmp_path.iterdir()} == assets | packages  # none is left of what could not be stored


def cell(feature: Feature, target: Target) -> str:
    if feature.package is None or target < feature.package:
        return "-"
    return "package" if feature.described is None or target < feature.described else "both"


def table(rows: Mapping[str, Feature], what: str) -> str:
    lines = [f"| {what} | Core AI | {' | '.join(f'Core ML {target.name}' for target in Target)} |"]
    lines.append("|---" * (len(Target) + 2) + "|")
    for name, feature in rows.items():
        cells = ["yes" if feature.coreai else "-", *(cell(feature, target) for target in Target)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("what", "rows"), [("weights", WEIGHTS), ("activations", ACTIVATIONS)])
def test_the_tables_are_what_is_tested(what: str, rows: Mapping[str, Feature]) -> None:
    assert table(rows, what) in page("docs/backends.md").text
