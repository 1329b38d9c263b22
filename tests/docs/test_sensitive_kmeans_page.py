from __future__ import annotations

from pathlib import Path

import pytest

from graphpress.palettization import KMeansPalettizerConfig
from tests.documents import page

PAGE = page("docs/sensitive-kmeans.md")


def test_the_pages_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    namespace = PAGE.run()
    (text,) = PAGE.blocks("yaml")
    assert KMeansPalettizerConfig.from_yaml(text.code) == namespace["config"](activation_aware=True)
