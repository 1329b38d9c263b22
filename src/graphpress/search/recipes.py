"""Recipes: a candidate for each layer, chosen from measurements under a budget."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from attrs import field, frozen
from torch import nn

from graphpress.search.layers import Compression, Layer, entries, with_entries
from graphpress.search.measuring import judged
from graphpress.search.metrics import Metric, SearchError, name_of
from graphpress.search.sensitivities import Candidate, Sensitivities

Option: TypeAlias = tuple[int, float]
"""An integer size and a finite cost; both may be negative."""


def solve(groups: Sequence[Sequence[Option]], budget: int) -> tuple[int, ...] | None:
    """Choose an option in each group with least total cost and a total size of at most `budget`.

    Among solutions of equal cost, one of the smallest is returned. Costs are added in float64, in the order of groups.

    Returns:
        the index of the option in each group, or None if even the smallest options exceed the budget.
    """
    reduced = [_undominated(group) for group in groups]
    slack = budget - sum(int(group.sizes[0]) for group in reduced)
    if slack < 0:
        return None
    tails = _relaxations(reduced)
    sizes, costs = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    best = float(tails[0].rounded(np.array([slack]))[0])
    # Tolerance for sums in another order, which differ in the last bits.
    tolerance = 1e-12 * sum(float(np.abs(group.costs).max()) for group in reduced)
    for group, tail in zip(reduced, tails[1:], strict=True):
        extra = group.sizes - group.sizes[0]
        all_sizes = (sizes[:, None] + extra[None, :]).ravel()
        all_costs = (costs[:, None] + group.costs[None, :]).ravel()
        kept = np.flatnonzero(all_sizes <= slack)
        room = slack - all_sizes[kept]
        best = min(best, float((all_costs[kept] + tail.rounded(room)).min()))
        kept = kept[all_costs[kept] + tail.bound(room) <= best + tolerance]
        kept = kept[np.lexsort((all_costs[kept], all_sizes[kept]))]
        before = np.concatenate([[np.inf], np.minimum.accumulate(all_costs[kept])[:-1]])
        kept = kept[all_costs[kept] < before]
        sizes, costs = all_sizes[kept], all_costs[kept]
        steps.append(np.divmod(kept, len(extra)))
    return _traced(reduced, steps, int(np.argmin(costs)))


@frozen(eq=False)
class _Group:
    """Options by increasing size and decreasing cost, with their original indices."""

    sizes: np.ndarray
    costs: np.ndarray
    places: tuple[int, ...]


@frozen(eq=False)
class _Relaxation:
    """The linear relaxation of some groups: least cost as a function of the room above their smallest sizes.

    Attributes:
        rooms, costs: the corners of the function, which is convex and decreasing; corners are integral solutions.
    """

    rooms: np.ndarray
    costs: np.ndarray

    def bound(self, room: np.ndarray) -> np.ndarray:
        """Return the relaxed least cost, a lower bound of every choice."""
        return np.interp(room, self.rooms, self.costs)

    def rounded(self, room: np.ndarray) -> np.ndarray:
        """Return the cost of the last corner that fits, an upper bound that a choice attains."""
        return self.costs[np.searchsorted(self.rooms, room, side="right") - 1]


def _undominated(group: Sequence[Option]) -> _Group:
    """Remove options that another one dominates in size and cost."""
    order = sorted(range(len(group)), key=lambda place: (*group[place], place))
    kept: list[int] = []
    for place in order:
        if not kept or group[place][1] < group[kept[-1]][1]:
            kept.append(place)
    return _Group(
        np.array([group[place][0] for place in kept], np.int64),
        np.array([group[place][1] for place in kept], np.float64),
        tuple(kept),
    )


def _relaxations(groups: Sequence[_Group]) -> list[_Relaxation]:
    """Return the relaxation of the groups from each index on, ending with that of no groups."""
    tails = [_Relaxation(np.zeros(1), np.zeros(1))]
    steps: list[tuple[float, int, float]] = []  # slope, size, cost
    least = 0.0
    for group in reversed(groups):
        least += float(group.costs[0])
        corners = _convex(group)
        for a, b in pairwise(corners):
            size, cost = int(group.sizes[b] - group.sizes[a]), float(group.costs[b] - group.costs[a])
            steps.append((cost / size, size, cost))
        steps.sort(key=lambda step: step[0])  # stable: keeps steps of a group in order
        rooms = np.cumsum([0, *(size for _, size, _ in steps)]).astype(np.float64)
        costs = least + np.cumsum([0.0, *(cost for _, _, cost in steps)])
        tails.append(_Relaxation(rooms, costs))
    return tails[::-1]


def _convex(group: _Group) -> list[int]:
    """Return the corners of the lower convex hull of a group's options, from the smallest to the cheapest."""
    corners: list[int] = []
    for place in range(len(group.sizes)):
        while len(corners) > 1 and _slope(group, corners[-2], corners[-1]) >= _slope(group, corners[-1], place):
            corners.pop()
        corners.append(place)
    return corners


def _slope(group: _Group, a: int, b: int) -> float:
    return float(group.costs[b] - group.costs[a]) / int(group.sizes[b] - group.sizes[a])


def _traced(groups: Sequence[_Group], steps: Sequence[tuple[np.ndarray, np.ndarray]], state: int) -> tuple[int, ...]:
    chosen = []
    for group, (parents, options) in zip(reversed(groups), reversed(steps), strict=True):
        chosen.append(group.places[int(options[state])])
        state = int(parents[state])
    return tuple(reversed(chosen))


def _frozen(choices: Mapping[str, str | None]) -> Mapping[str, str | None]:
    return MappingProxyType(dict(choices))


@frozen(eq=False)
class Recipe:
    """A candidate for every layer.

    Attributes:
        choices: the candidate's name by layer; None does not compress the layer.
        config: the compressor's config; ``config.to_yaml(path)`` saves it.
        weight_bytes: stored bytes of the layers' weights, including lookup tables, scales and zero points.
        weights: number of elements of these weights.
        predicted_cost: the sum of the choices' costs, the predicted degradation of the score.
    """

    choices: Mapping[str, str | None] = field(converter=_frozen)
    config: Any = field(repr=False)
    weight_bytes: int
    weights: int
    predicted_cost: float

    @property
    def bits_per_weight(self) -> float:
        """Stored bits divided by the number of weights."""
        return 8 * self.weight_bytes / self.weights

    def __str__(self) -> str:
        counts = Counter("skipped" if choice is None else choice for choice in self.choices.values())
        layers = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        return f"{self.bits_per_weight:.3f} bits per weight ({self.weight_bytes} bytes); layers: {layers}"


@frozen
class Verification:
    """The evaluation of a recipe.

    Attributes:
        score: the score of the compressed model.
        cost: its degradation relative to the model with no layer compressed.
        predicted_cost: the prediction of the recipe.
        weight_bytes: stored bytes of the layers' weights, measured on the compressed model.
        predicted_bytes: the prediction of the recipe.
    """

    score: float
    cost: float
    predicted_cost: float
    weight_bytes: int
    predicted_bytes: int

    def __str__(self) -> str:
        return (
            f"score {self.score:.6g}; cost {self.cost:.4g}, predicted {self.predicted_cost:.4g}; "
            f"{self.weight_bytes} bytes, predicted {self.predicted_bytes}"
        )


def exact_recipe(
    sensitivities: Sensitivities, *, bits_per_weight: float | None = None, weight_bytes: int | None = None
) -> Recipe:
    """Return the recipe of least predicted cost within a budget, an exact solution of a multiple-choice knapsack.

    Args:
        sensitivities: complete sensitivities.
        bits_per_weight, weight_bytes: the budget, exactly one of the two, for the weights of all layers including
            lookup tables, scales and zero points. Layers may remain uncompressed.

    Raises:
        SearchError: if the budget is below the smallest possible size, or costs are not finite.
    """
    budget = _budget(sensitivities, bits_per_weight, weight_bytes)
    options = [_options(sensitivities, layer) for layer in sensitivities.layers]
    groups = [
        [
            (sensitivities.weight_bytes(layer, c), 0.0 if c is None else _finite_cost(sensitivities, layer, c))
            for c in options_of
        ]
        for layer, options_of in zip(sensitivities.layers, options, strict=True)
    ]
    places = solve(groups, budget)
    if places is None:
        raise _too_small(sensitivities, budget)
    chosen = {
        layer.name: options[at][place]
        for at, (layer, place) in enumerate(zip(sensitivities.layers, places, strict=True))
    }
    return _recipe(sensitivities, chosen)


def greedy_recipe(
    sensitivities: Sensitivities, *, bits_per_weight: float | None = None, weight_bytes: int | None = None
) -> Recipe:
    """Return the recipe of the greedy algorithm in the documentation of mixed-precision compression.

    All pairs of layer and candidate are sorted by score, the best first, and applied in that order until the budget is
    met; a later candidate replaces an earlier one of the same layer. Other layers are not compressed.

    Args:
        sensitivities, bits_per_weight, weight_bytes: as for `exact_recipe`.

    Raises:
        SearchError: if the budget is not met.
    """
    budget = _budget(sensitivities, bits_per_weight, weight_bytes)
    sign = -1.0 if sensitivities.setting.higher_is_better else 1.0
    pairs = [(layer, c) for layer in sensitivities.layers for c in sensitivities.fitting(layer)]
    pairs.sort(key=lambda pair: sign * _score(pair[1]))
    chosen: dict[str, Candidate | None] = {layer.name: None for layer in sensitivities.layers}
    taken = sensitivities.float_bytes
    for layer, c in pairs:
        if taken <= budget:
            break
        taken += sensitivities.weight_bytes(layer, c) - sensitivities.weight_bytes(layer, chosen[layer.name])
        chosen[layer.name] = c
    if taken > budget:
        raise SearchError(
            f"the greedy algorithm ends at {taken} bytes ({_bits(sensitivities, taken)}), above the budget of {budget} "
            f"({_bits(sensitivities, budget)})"
        )
    return _recipe(sensitivities, chosen)


def uniform_recipe(sensitivities: Sensitivities, candidate: str) -> Recipe:
    """Return the recipe that applies the candidate of one name to every layer it fits.

    Raises:
        SearchError: if a layer has no candidate of that name.
    """
    _check_complete(sensitivities)
    chosen = {layer.name: sensitivities.candidate(layer.name, candidate) for layer in sensitivities.layers}
    fits = {
        layer.name: c in sensitivities.fitting(layer)
        for layer, c in zip(sensitivities.layers, chosen.values(), strict=True)
    }
    return _recipe(sensitivities, {name: c if fits[name] else None for name, c in chosen.items()})


def verify_recipe(
    recipe: Recipe, sensitivities: Sensitivities, model: nn.Module, compression: Compression, metric: Metric
) -> Verification:
    """Apply `recipe` to `model`, evaluate it, and compare with the prediction.

    Raises:
        SearchError: if the metric is not that of the sensitivities.
    """
    _check_complete(sensitivities)
    setting, baseline = sensitivities.setting, sensitivities.baseline
    assert baseline is not None
    if name_of(metric) != setting.metric:
        raise SearchError(f"the sensitivities are by the metric {setting.metric!r}, not {name_of(metric)!r}")
    measured = judged(model, compression, recipe.config, metric)
    difference = measured.score - baseline.score
    return Verification(
        measured.score,
        -difference if setting.higher_is_better else difference,
        recipe.predicted_cost,
        sensitivities.float_bytes + measured.stored_bytes - baseline.stored_bytes,
        recipe.weight_bytes,
    )


def _recipe(sensitivities: Sensitivities, chosen: Mapping[str, Candidate | None]) -> Recipe:
    configs = {name: c.config for name, c in chosen.items() if c is not None}
    config = with_entries(sensitivities.base, entries(sensitivities.layers, configs, sensitivities.module_names))
    return Recipe(
        {name: None if c is None else c.name for name, c in chosen.items()},
        config,
        sum(sensitivities.weight_bytes(layer, chosen[layer.name]) for layer in sensitivities.layers),
        sensitivities.weights,
        sum(sensitivities.cost(c) for c in chosen.values() if c is not None),
    )


def _budget(sensitivities: Sensitivities, bits_per_weight: float | None, weight_bytes: int | None) -> int:
    _check_complete(sensitivities)
    given = bits_per_weight if weight_bytes is None else weight_bytes
    if given is None or (bits_per_weight is not None and weight_bytes is not None):
        raise SearchError("the budget is either bits_per_weight or weight_bytes: pass one of the two")
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given) or given <= 0:
        raise SearchError(f"a budget of {given!r}; accepted: a positive number")
    return math.floor(given if bits_per_weight is None else bits_per_weight * sensitivities.weights / 8)


def _check_complete(sensitivities: Sensitivities) -> None:
    if not sensitivities.is_complete:
        missing = len(sensitivities.unmeasured())
        raise SearchError(
            f"{missing} candidates are not measured yet: run measure_sensitivities with the same path again"
        )


def _options(sensitivities: Sensitivities, layer: Layer) -> list[Candidate | None]:
    return [None, *sensitivities.fitting(layer)]


def _finite_cost(sensitivities: Sensitivities, layer: Layer, candidate: Candidate) -> float:
    cost = sensitivities.cost(candidate)
    if not math.isfinite(cost):
        assert sensitivities.baseline is not None
        raise SearchError(
            f"layer {layer.name!r} as {candidate.name!r} costs {cost} (its score is {_score(candidate)}, with no layer "
            f"compressed {sensitivities.baseline.score}); costs must be finite to be added: use an error metric, "
            "such as relative_error, instead of a ratio in dB, or greedy_recipe, which only sorts scores"
        )
    return cost


def _score(candidate: Candidate) -> float:
    assert candidate.measurement is not None
    return candidate.measurement.score


def _too_small(sensitivities: Sensitivities, budget: int) -> SearchError:
    least = sum(
        min(sensitivities.weight_bytes(layer, c) for c in _options(sensitivities, layer))
        for layer in sensitivities.layers
    )
    return SearchError(
        f"a budget of {budget} bytes ({_bits(sensitivities, budget)}) is below the smallest candidates of all layers: "
        f"{least} bytes ({_bits(sensitivities, least)})"
    )


def _bits(sensitivities: Sensitivities, weight_bytes: int) -> str:
    return f"{8 * weight_bytes / sensitivities.weights:.3f} bits per weight"
