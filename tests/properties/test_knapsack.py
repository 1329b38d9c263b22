from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from graphpress.search.recipes import Option, solve

Solver = Callable[[Sequence[Sequence[Option]], int], tuple[int, ...] | None]

# Few distinct numbers make ties, dominated options and options on one line; eighths add up without rounding.
COSTS = st.one_of(st.integers(-4, 4), st.integers(-8000, 8000).map(lambda n: n / 8)).map(float)
GROUPS = st.lists(
    st.lists(st.tuples(st.one_of(st.integers(0, 6), st.integers(0, 5000)), COSTS), min_size=1, max_size=5),
    max_size=6,
)


def brute_force(groups: Sequence[Sequence[Option]], budget: int) -> tuple[float, int] | None:
    """The least cost within the budget, and the least size that has it; None where nothing fits."""
    totals = [
        (sum(cost for _, cost in chosen), sum(size for size, _ in chosen)) for chosen in itertools.product(*groups)
    ]
    return min((total for total in totals if total[1] <= budget), default=None)


def totals(groups: Sequence[Sequence[Option]], places: Sequence[int]) -> tuple[float, int]:
    chosen = [group[place] for group, place in zip(groups, places, strict=True)]
    return sum(cost for _, cost in chosen), sum(size for size, _ in chosen)


def check_solver(solver: Solver, groups: Sequence[Sequence[Option]], budget: int) -> None:
    places, best = solver(groups, budget), brute_force(groups, budget)
    assert (places is None) == (best is None)
    if places is not None:
        assert totals(groups, places) == best


def best_ratio_first(groups: Sequence[Sequence[Option]], budget: int) -> tuple[int, ...] | None:
    """Wrong on purpose: upgrades by the most saved per byte, as long as they fit."""
    places = [min(range(len(group)), key=lambda place, g=group: g[place]) for group in groups]
    used = totals(groups, places)[1]
    if used > budget:
        return None
    while True:
        steps = [
            ((group[place][1] - group[now][1]) / max(group[place][0] - group[now][0], 1), at, place)
            for at, (group, now) in enumerate(zip(groups, places, strict=True))
            for place in range(len(group))
            if group[place][1] < group[now][1] and used + group[place][0] - group[now][0] <= budget
        ]
        if not steps:
            return tuple(places)
        _, at, place = min(steps)
        used += groups[at][place][0] - groups[at][places[at]][0]
        places[at] = place


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[Option]], int]:
    """Groups, and a budget that some choice meets exactly or misses by one."""
    groups = draw(GROUPS)
    places = [draw(st.integers(0, len(group) - 1)) for group in groups]
    return groups, totals(groups, places)[1] + draw(st.integers(-1, 1))


@settings(max_examples=200, deadline=None)
@given(problems())
def test_no_choice_within_the_budget_costs_less(problem: tuple[list[list[Option]], int]) -> None:
    check_solver(solve, *problem)


def test_a_solver_that_is_not_exact_is_found_out() -> None:
    @settings(max_examples=300, deadline=None, database=None, phases=[Phase.generate])
    @given(problems())
    def with_wrong_solver(problem: tuple[list[list[Option]], int]) -> None:
        check_solver(best_ratio_first, *problem)

    with pytest.raises(AssertionError):
        with_wrong_solver()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_costs_of_any_magnitude_are_told_apart(scale: float) -> None:
    generator = np.random.default_rng(4)
    for _ in range(30):
        groups = [
            [
                (int(size), float(cost) * scale)
                for size, cost in zip(*generator.random((2, 4)) * [[100], [1]], strict=True)
            ]
            for _ in range(5)
        ]
        budget = sum(min(size for size, _ in group) for group in groups) + int(generator.integers(0, 150))
        places, best = solve(groups, budget), brute_force(groups, budget)
        assert places is not None
        assert best is not None
        cost, size = totals(groups, places)
        assert math.isclose(cost, best[0], rel_tol=1e-12)
        assert size <= budget


def test_hundreds_of_layers_of_millions_of_bytes_agree_with_a_program_over_every_byte() -> None:
    """The plain dynamic program needs sizes with a common divisor to be feasible; ours does not look for one."""
    generator = np.random.default_rng(1)
    unit = 4096
    groups = []
    for _ in range(200):
        weights = int(generator.integers(8, 64))
        sensitivity = float(np.exp(generator.normal(0, 3)))
        groups.append([(weights * bits * unit, sensitivity * weights * 4.0**-bits) for bits in (1, 2, 3, 4, 6, 8, 16)])
    budget = sum(4 * group[0][0] for group in groups)
    places = solve(groups, budget)
    assert places is not None
    cost, size = totals(groups, places)
    assert size <= budget
    assert math.isclose(cost, over_every_unit(groups, budget, unit), rel_tol=1e-12)


def over_every_unit(groups: Sequence[Sequence[Option]], budget: int, unit: int) -> float:
    """The textbook's dynamic program: the least cost for each number of units, group by group."""
    least = np.zeros(budget // unit + 1)
    for group in groups:
        tried = []
        for size, cost in group:
            shifted = np.full_like(least, np.inf)
            units = size // unit
            shifted[units:] = least[: len(least) - units] + cost
            tried.append(shifted)
        least = np.min(tried, axis=0)
    return float(least.min())
