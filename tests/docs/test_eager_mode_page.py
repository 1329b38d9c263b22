from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import page


def test_the_pages_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = page("docs/eager-mode.md").run()["model"]  # which stays as it is
    kinds = [type(module).__name__ for module in model.modules()]
    assert kinds == [
        "Gate",
        "Linear",
        "Linear",
        "Sequential",
        "Linear",
        "ReLU",
        "Linear",
    ]
    assert not list(model.buffers())
