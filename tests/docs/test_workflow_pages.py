"""The pages about the workflows of quantization run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import page


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_page_about_weights_alone_runs(tmp_path: Path) -> None:
    page("docs/weight-only.md").run()
    assert {path.name for path in tmp_path.iterdir()} == {"digits.aimodel", "digits-float.aimodel", "digits.mlpackage"}


def test_the_page_about_calibration_runs(tmp_path: Path) -> None:
    page("docs/calibration.md").run()
    assert [path.name for path in tmp_path.iterdir()] == ["digits.aimodel"]


def test_the_page_about_training_runs(tmp_path: Path) -> None:
    page("docs/qat.md").run()
    assert {path.name for path in tmp_path.iterdir()} == {"digits.aimodel", "checkpoint.pt"}
