from __future__ import annotations

import sys
from pathlib import Path

import pytest

from graphpress.search import Point, SearchError, exact_recipe, greedy_recipe, plot_trade_off, trade_off
from tests.graphpress.search.test_recipes import WALK, made

CURVES = {"exact": [Point(2.0, 30.0), Point(4.0, 33.0)], "greedy": [Point(2.1, 29.0), Point(3.9, 32.0)]}


def test_each_recipe_is_one_point_by_its_size() -> None:
    judged = []
    points = trade_off(made(WALK), [6, 3, 3.01, 2], lambda recipe: judged.append(recipe) or recipe.predicted_cost)
    assert [point.bits_per_weight for point in points] == sorted({point.bits_per_weight for point in points})
    assert len(points) == len(judged) == 3
    costs = [point.quality for point in points]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == exact_recipe(made(WALK), bits_per_weight=2).predicted_cost
    (walked,) = trade_off(made(WALK), [3.5], lambda recipe: recipe.predicted_cost, greedy_recipe)
    assert walked.quality == 3.0 + 5.0 + 7.0


def test_the_picture_is_the_same_file_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        plot_trade_off(
            tmp_path / f"{name}.svg",
            CURVES,
            {"uniform": [Point(4.0, 32.5, "4 bits")]},
            float_quality=34,
            quality="PSNR, dB",
            title="A model",
        )
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert {each.name for each in tmp_path.iterdir()} == {"one.svg", "two.svg"}


def test_a_picture_in_pixels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_trade_off(tmp_path / "curve.png", CURVES)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "curves", "message"), [("a.jpg", CURVES, r"must end in \.png or \.svg"), ("a.png", {"x": []}, "no points")]
)
def test_what_cannot_be_drawn_is_refused(name: str, curves: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=message):
        plot_trade_off(tmp_path / name, curves)


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SearchError, match=r"pip install 'graphpress\[plot\]'"):
        plot_trade_off(tmp_path / "a.png", CURVES)
