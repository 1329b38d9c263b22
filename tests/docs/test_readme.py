from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import page


def test_the_readmes_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page("README.md").run()
    assert (tmp_path / "model.aimodel").exists()
