"""The pages about the workflows of quantization run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import page


@pytest.mark.parametrize("name", ["weight-only", "calibration"])
def test_the_pages_code_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page(f"docs/{name}.md").run()
