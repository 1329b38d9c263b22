from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python(?: requires (\w+))?\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_pages_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "extending"}
    assert len(BLOCKS) == 11
    for number, (needed, block) in enumerate(BLOCKS, 1):
        if not needed or importlib.util.find_spec(needed) is not None:
            exec(compile(block, f"docs/extending.md, block {number}", "exec"), namespace)
    assert (tmp_path / "ops.txt").read_text(encoding="utf-8").count("aten.neg") == 2


def test_the_customizations_are_short() -> None:
    registering = [block for _, block in BLOCKS if "register_fusion_pattern(Fusion" in block]
    assert len(registering) == 3
    assert all(len(block.strip().splitlines()) < 15 for block in registering)


def test_the_plugins_configuration_is_the_one_the_page_shows() -> None:
    shown = re.search(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert shown[1] in (ROOT / "tests" / "plugin" / "pyproject.toml").read_text(encoding="utf-8")
