from __future__ import annotations

from pathlib import Path

import pytest

from graphpress.palettization import KMeansPalettizerConfig
from tests.documents import page

PAGE = page("docs/palettization.md")


def test_the_pages_code_runs_and_prints_what_its_comments_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = PAGE.run()
    printed = capsys.readouterr().out
    for line in [line for block in PAGE.blocks() for line in block.code.splitlines() if line.startswith("# ")]:
        assert line.removeprefix("# ").removesuffix("...").strip() in printed
    (text,) = PAGE.blocks("yaml")
    assert KMeansPalettizerConfig.from_yaml(text.code) == namespace["config"]
