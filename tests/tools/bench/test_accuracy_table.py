"""The table of what accuracy options buy: small parts of it, and that it can be extended."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from graphpress.tools.bench import accuracy_table
from graphpress.tools.bench.accuracy_table import CALCULATORS, METHODS, OPTIONS, SETTINGS, Method, main


def rows(text: str) -> dict[tuple[str, str], list[float]]:
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 4 and cells[2][:1].isdigit():
            found[cells[0], cells[1]] = [float(cell) for cell in cells[2:-1]]
    return found


@pytest.mark.slow
def test_the_options_keep_more_of_the_logits_of_a_digits_model_at_four_bits():
    options = ("to nearest", "adaptive rounding", "GPTQ", "GPTQ, not asymmetric", "bias correction, empirical")
    arguments = ["--model", "conv_net", "--setting", "W4A8"]
    for option in options:
        arguments += ["--option", option]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    noise = {option: figures[1] for (setting, option), figures in rows(result.stdout).items() if setting == "W4A8"}
    assert set(noise) == set(options)
    assert noise["GPTQ"] > noise["GPTQ, not asymmetric"] + 1
    assert noise["GPTQ, not asymmetric"] > noise["to nearest"] + 1
    assert noise["adaptive rounding"] > noise["to nearest"] + 1
    assert noise["bias correction, empirical"] > noise["to nearest"]


def test_other_techniques_add_rows(monkeypatch):
    monkeypatch.setattr(accuracy_table, "METHODS", [Method("W32", "as it was", lambda model, batches: model)])
    result = CliRunner().invoke(main, ["--model", "transformer"])
    assert rows(result.stdout)["W32", "as it was"][1:] == [float("inf")]


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_has_rows(setting):
    options = {method.option for method in METHODS if method.setting == setting}
    calculators = set(CALCULATORS) if setting in ("W8A8", "W4A8") else set()
    placed = {"operands of products only"} if setting == "W8A8" else set()
    assert options == ({"as it is"} if setting == "best" else set(OPTIONS) | calculators | placed)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["conv_net", "transformer"])
def test_the_preset_best_is_no_worse_than_the_default(model):
    arguments = ["--model", model, "--setting", "W8A8", "--setting", "best"]
    result = CliRunner().invoke(main, [*arguments, "--option", "to nearest", "--option", "as it is"])
    found = rows(result.stdout)
    accuracy, logits = found["best", "as it is"][:2]
    default_accuracy, default_logits = found["W8A8", "to nearest"][:2]
    assert logits > default_logits
    assert accuracy >= default_accuracy
