from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import page


@pytest.mark.slow
def test_what_the_page_says_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page("docs/pruning.md").follow()
    assert Path("sparse_tables.aimodel").is_dir()
    assert Path("sparse_tables.mlpackage").is_dir()
