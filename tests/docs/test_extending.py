from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import ROOT, page

PAGE = page("docs/extending.md")


def test_the_pages_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PAGE.run()
    assert (tmp_path / "ops.txt").read_text(encoding="utf-8").count("aten.neg") == 2


def test_the_customizations_are_short() -> None:
    registering = [block.code for block in PAGE.blocks() if "register_fusion_pattern(Fusion" in block.code]
    assert len(registering) == 3
    assert all(len(code.strip().splitlines()) < 15 for code in registering)


def test_the_plugins_configuration_is_the_one_the_page_shows() -> None:
    (shown,) = PAGE.blocks("toml")
    assert shown.code in (ROOT / "tests" / "plugin" / "pyproject.toml").read_text(encoding="utf-8")
