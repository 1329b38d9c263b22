"""The table of `docs/coming-from-coreai-opt.md` is that of the code, and every difference has a reason."""

from __future__ import annotations

import re

import pytest

from graphpress.tools.maintenance import surface
from graphpress.tools.maintenance.record_surface import parameters_of


@pytest.fixture(scope="module")
def generated() -> str:
    return surface.compared()


def test_the_page_has_the_table_of_the_code(generated: str) -> None:
    assert surface.page_with(generated) == surface.PAGE.read_text(encoding="utf-8"), (
        "run python -m graphpress.tools.maintenance.surface"
    )


def test_every_difference_has_a_reason(generated: str) -> None:
    differing = generated.partition("The others:")[0]
    rows = re.findall(r"^\| `([^`]*)` \|[^|]*\|[^|]*\| ([^|]*) \|", differing, flags=re.MULTILINE)
    unexplained = [
        (name, item)
        for name, lacking in rows
        for item in re.findall(r"`([^`]*)`", lacking)
        if not surface.reason_for(name, item)
    ]
    assert rows
    assert unexplained == []


def test_a_difference_without_a_reason_is_noticed() -> None:
    assert surface.reason_for("quantization.quantizer.Quantizer", ".prepare(state_dict)") == 0


def test_parameters_are_recorded_by_name_and_default() -> None:
    def function(self, a, b=1, *rest, c, d=None, **more): ...

    assert parameters_of(function) == ["a", "b=", "*rest", "c", "d=", "**more"]
    assert surface._difference(["a", "z=", "**kwargs"], ["a=", "b="]) == (["z"], ["b"])
