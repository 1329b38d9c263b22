from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import page


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::graphpress.quantization.quantizer.UncalibratedWarning")
def test_the_pages_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    page("docs/mixed-precision.md").run()
    assert {path.name for path in tmp_path.iterdir()} == {"sensitivities.json", "recipe.yaml", "trade-off.png"}
