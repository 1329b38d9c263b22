from __future__ import annotations

from pathlib import Path

import pytest

from graphpress.passes.config import QPARAM_CALCULATORS, RANGE_CALCULATORS
from tests.documents import page


def test_the_pages_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        page("docs/quantization-config.md").run()
        registered = {*QPARAM_CALCULATORS.keys, *RANGE_CALCULATORS.keys}
        assert registered >= {"peak_decay", "three_sigma", "without_extremes"}
    finally:
        for key in ("peak_decay", "three_sigma"):
            QPARAM_CALCULATORS.unregister(key)
        RANGE_CALCULATORS.unregister("without_extremes")
