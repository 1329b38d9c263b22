from __future__ import annotations

from pathlib import Path

from tests.documents import page
from tests.test_conventions import ROOT


def test_the_pages_code_runs() -> None:
    graph = page("docs/testing.md").run()["graph"]
    assert [node.op.short_name for node in graph.nodes] == ["neg", "relu"]  # the pass ran over a copy


def test_the_folders_and_targets_that_the_page_names_exist() -> None:
    text = page("docs/testing.md").text
    folders = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `tests/")]
    assert len(folders) == 6
    assert [name for name in folders if not (ROOT / name).exists()] == []
    makefile = Path(ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [line.split("`")[1].removeprefix("make ") for line in text.splitlines() if line.startswith("| `make ")]
    assert targets == ["test", "test-slow", "test-matrix", "fuzz", "zoo-quick", "zoo", "mutation"]
    assert [target for target in targets if f"\n{target}: " not in makefile] == []
