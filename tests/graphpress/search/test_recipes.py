from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from graphpress.search import (
    Layer,
    Measurement,
    SearchError,
    Sensitivities,
    against,
    exact_recipe,
    greedy_recipe,
    measure_sensitivities,
    peak_signal_to_noise,
    uniform_recipe,
    verify_recipe,
)
from graphpress.search.sensitivities import Candidate, Setting
from tests.graphpress.search.models import DATA, INPUTS, Pictures, bits, palettization

WIDTHS = (2, 4, 6)


def made(scores: dict[str, dict[int, float]], weights: int = 800, higher_is_better: bool = False) -> Sensitivities:
    """Sensitivities with the scores given by layer and width, for layers of so many float16 weights."""
    layers = tuple(Layer(name, (name,), weights, 2 * weights) for name in scores)
    whole = 2 * weights * len(layers)
    return Sensitivities(
        Setting("model", "compression", "metric", higher_is_better),
        KMeansPalettizerConfig(global_config=None),
        Measurement(math.inf if higher_is_better else 0.0, whole),
        layers,
        {
            name: tuple(
                Candidate(
                    f"{n} bits", ModuleKMeansPalettizerConfig(), Measurement(score, whole - weights * (16 - n) // 8)
                )
                for n, score in row.items()
            )
            for name, row in scores.items()
        },
        tuple(scores),
    )


@pytest.fixture(scope="module")
def measured() -> Sensitivities:
    model, compression, metric = palettization(Pictures())
    return measure_sensitivities(model, compression, bits(1, 2, 3, 4, 6), metric)


# The walk, by hand: pairs in the order of their scores, the least harmful first; each replaces an earlier one for its
# layer; the walk stops as soon as the budget is met.
WALK = {"a": {2: 9.0, 4: 3.0, 6: 1.0}, "b": {2: 5.0, 4: 4.0, 6: 2.0}, "c": {2: 8.0, 4: 7.0, 6: 6.0}}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (16.0, (None, None, None)),
        (15.9, ("6 bits", None, None)),
        (12.0, ("6 bits", "6 bits", None)),
        (9.0, ("4 bits", "6 bits", None)),
        (8.0, ("4 bits", "4 bits", None)),
        (7.5, ("4 bits", "2 bits", None)),
        (4.0, ("4 bits", "2 bits", "6 bits")),
        (3.5, ("4 bits", "2 bits", "4 bits")),
        (2.0, ("2 bits", "2 bits", "2 bits")),
    ],
)
def test_the_greedy_walk_goes_as_documented(budget: float, expected: tuple[str | None, ...]) -> None:
    assert tuple(greedy_recipe(made(WALK), bits_per_weight=budget).choices.values()) == expected


def test_the_greedy_walk_sorts_qualities_the_other_way_round() -> None:
    qualities = {name: {n: -score for n, score in row.items()} for name, row in WALK.items()}
    for budget in (12.0, 7.5, 4.0, 2.0):
        by_error = greedy_recipe(made(WALK), bits_per_weight=budget)
        by_quality = greedy_recipe(made(qualities, higher_is_better=True), bits_per_weight=budget)
        assert by_error.choices == by_quality.choices


def test_a_walk_that_ends_above_the_budget_is_an_error() -> None:
    with pytest.raises(
        SearchError, match=r"ends at 600 bytes \(2\.000 bits per weight\), above the budget of 540 \(1\.8"
    ):
        greedy_recipe(made(WALK), bits_per_weight=1.8)
    with pytest.raises(SearchError, match=r"below the smallest candidates of all layers: 600 bytes \(2\.000 bits"):
        exact_recipe(made(WALK), bits_per_weight=1.8)


def test_the_exact_recipe_costs_no_more_than_any_other(measured: Sensitivities) -> None:
    options = [
        [(measured.weight_bytes(layer, None), 0.0)]
        + [(measured.weight_bytes(layer, c), measured.cost(c)) for c in measured.candidates[layer.name]]
        for layer in measured.layers
    ]
    every = [
        (sum(size for size, _ in chosen), sum(cost for _, cost in chosen)) for chosen in itertools.product(*options)
    ]
    for budget in (1.5, 2.0, 2.7, 3.0, 4.0, 5.0, 10.0, 33.0):
        recipe = exact_recipe(measured, bits_per_weight=budget)
        assert recipe.bits_per_weight <= budget
        least = min(cost for size, cost in every if 8 * size <= budget * measured.weights)
        assert recipe.predicted_cost == pytest.approx(least, rel=1e-12)
        assert recipe.predicted_cost <= greedy_recipe(measured, bits_per_weight=budget).predicted_cost


def test_a_budget_in_bytes_is_the_same_as_in_bits(measured: Sensitivities) -> None:
    whole = 3 * measured.weights // 8
    for solve in (exact_recipe, greedy_recipe):
        assert solve(measured, weight_bytes=whole).choices == solve(measured, bits_per_weight=3).choices
        assert solve(measured, weight_bytes=whole).weight_bytes <= whole


def test_a_sensitive_layer_gets_more_bits(measured: Sensitivities) -> None:
    widths = {name: int(str(choice)[0]) for name, choice in exact_recipe(measured, bits_per_weight=3).choices.items()}
    assert widths["stem"] > widths["block.0"]


def test_a_recipe_is_a_config_that_saves_and_does_what_was_predicted(measured: Sensitivities, tmp_path: Path) -> None:
    model, compression, metric = palettization(Pictures())
    recipe = exact_recipe(measured, bits_per_weight=3)
    recipe.config.to_yaml(tmp_path / "recipe.yaml")
    config = KMeansPalettizerConfig.from_yaml(tmp_path / "recipe.yaml")
    assert config == recipe.config
    prepared = KMeansPalettizer(model, config).prepare((DATA[:2],))
    for name, choice in recipe.choices.items():
        assert choice is not None
        assert prepared.get_submodule(name).weight.unique().numel() <= 2 ** int(choice[0])
    verification = verify_recipe(recipe, measured, model, compression, metric)
    with torch.no_grad():
        assert verification.score == metric(prepared.eval())
    assert verification.weight_bytes == verification.predicted_bytes == recipe.weight_bytes
    assert verification.cost == pytest.approx(recipe.predicted_cost, rel=0.5)
    assert f"{recipe.weight_bytes} bytes" in str(verification)
    with pytest.raises(SearchError, match="by the metric"):
        verify_recipe(recipe, measured, model, compression, against(model, [DATA]))


def test_layers_that_a_recipe_leaves_whole_are_whole(measured: Sensitivities) -> None:
    recipe = exact_recipe(measured, bits_per_weight=14)
    whole = [name for name, choice in recipe.choices.items() if choice is None]
    assert whole
    assert "skipped" in str(recipe)
    model = Pictures().eval()
    prepared = KMeansPalettizer(model, recipe.config).prepare((DATA[:2],))
    for name in recipe.choices:
        same = torch.equal(prepared.get_submodule(name).weight, model.get_submodule(name).weight)
        assert same == (name in whole)


def test_a_uniform_recipe_takes_what_fits_and_is_the_uniform_config(measured: Sensitivities) -> None:
    recipe = uniform_recipe(measured, "4 bits")
    assert set(recipe.choices.values()) == {"4 bits"}
    assert recipe.bits_per_weight == pytest.approx(4 + 8 * 4 * 64 / measured.weights)
    with pytest.raises(SearchError, match="no candidate '5 bits'; did you mean"):
        uniform_recipe(measured, "5 bits")


def test_costs_that_cannot_be_added_are_refused_by_the_exact_solver_only() -> None:
    model, compression, _ = palettization(Pictures())
    decibels = against(model, INPUTS, peak_signal_to_noise, higher_is_better=True)
    found = measure_sensitivities(model, compression, bits(2, 4), decibels)
    assert found.baseline is not None
    assert found.baseline.score == math.inf
    assert greedy_recipe(found, bits_per_weight=4).bits_per_weight <= 4
    with pytest.raises(SearchError, match=r"must be finite to be added: use an error metric, such as relative_error"):
        exact_recipe(found, bits_per_weight=4)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "pass one of the two"),
        ({"bits_per_weight": 4, "weight_bytes": 4}, "pass one of the two"),
        ({"bits_per_weight": 0}, "accepted: a positive number"),
        ({"bits_per_weight": math.inf}, "accepted: a positive number"),
        ({"weight_bytes": "4"}, "accepted: a positive number"),
    ],
)
def test_a_budget_that_is_none_is_refused(budget: dict, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        exact_recipe(made(WALK), **budget)


def test_half_of_the_measurements_make_no_recipe() -> None:
    half = made(WALK)
    unmeasured = {"a": (Candidate("2 bits", ModuleKMeansPalettizerConfig()),)}
    partial = Sensitivities(
        half.setting, half.base, half.baseline, half.layers, {**half.candidates, **unmeasured}, half.module_names
    )
    with pytest.raises(SearchError, match="1 candidates are not measured yet"):
        exact_recipe(partial, bits_per_weight=4)
