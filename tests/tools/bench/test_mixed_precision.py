"""The study of mixed precision on the example model, made small."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from graphpress.palettization import KMeansPalettizerConfig
from graphpress.tools.bench.mixed_precision import main


@pytest.mark.slow
def test_the_study_leaves_a_recipe_and_a_picture_and_goes_on_where_it_was(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    small = ["--crops", "1", "--size", "16", "--largest", "24", "--width", "2", "--width", "4", "--width", "6"]
    arguments = ["--out", str(tmp_path), *small, "--budget", "3", "--budget", "4"]
    first = CliRunner().invoke(main, arguments, catch_exceptions=False)
    rows = [line.split("|")[1].strip() for line in first.stdout.splitlines() if line.startswith("| ")]
    assert rows == ["float", "4 bits everywhere", "6 bits everywhere", "exact", "exact", "greedy", "greedy"]
    config = KMeansPalettizerConfig.from_yaml(tmp_path / "recipe.yaml")
    assert len(config.module_name_configs) == 36
    assert (tmp_path / "mixed-precision.png").stat().st_size > 10_000
    measured = (tmp_path / "sensitivities.json").stat().st_mtime_ns
    second = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert second.stdout == first.stdout
    assert (tmp_path / "sensitivities.json").stat().st_mtime_ns == measured
