"""The table of what options of palettization buy: a small part of it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from graphpress.tools.bench.palettization_table import OPTIONS, SETTINGS, main


def logits(*arguments: str) -> dict[str, float]:
    """The noise of the logits in dB by option."""
    result = CliRunner().invoke(main, ["--model", "conv_net", "--setting", "4 bits", *arguments])
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines() if line]
    return {cells[1]: float(cells[3]) for cells in rows if cells[0] == "4 bits"}


def test_each_option_keeps_more_of_the_logits_than_plain_clustering():
    options = ["plain", "activation-aware", "tables trained"]
    noise = logits("--steps", "20", *(word for option in options for word in ("--option", option)))
    assert list(noise) == options
    assert noise["activation-aware"] > noise["plain"] + 0.5
    assert noise["tables trained"] > noise["plain"] + 1


@pytest.mark.slow
def test_gradients_and_training_add_up():
    noise = logits()
    assert set(noise) == set(OPTIONS)
    assert noise["sensitive"] > noise["plain"] + 1
    for trained in [option for option in OPTIONS if "trained" in option]:
        assert noise[trained] > noise["sensitive"] + 1, trained


def test_settings_are_specs_with_other_tables():
    assert len({repr(sorted(map(repr, fields.items()))) for fields in SETTINGS.values()}) == len(SETTINGS)
