"""The multiple-choice knapsack problem, solved exactly.

One option of each group, sizes within a budget, the least total cost (Kellerer, Pferschy and Pisinger, "Knapsack
Problems", 2004, chapter 11). A dynamic program over the groups keeps the states that no other state beats in both size
and cost, as Nemhauser and Ullmann do (1969), and drops those that cannot lead to a better total than one that is known:
the linear relaxation of the groups still to come bounds them from below, its rounding from above.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from attrs import frozen

Option: TypeAlias = tuple[int, float]
"""Size, a whole number, and cost, finite; both may be negative."""


def solve(groups: Sequence[Sequence[Option]], budget: int) -> tuple[int, ...] | None:
    """The place of the option chosen in each group, or None when even the smallest options exceed the budget.

    Of solutions with the same cost one of the smallest is returned. Costs are added in float64, in the order of groups.
    """
    reduced = [_undominated(group) for group in groups]
    slack = budget - sum(int(group.sizes[0]) for group in reduced)
    if slack < 0:
        return None
    tails = _relaxations(reduced)
    sizes, costs = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    best = float(tails[0].rounded(np.array([slack]))[0])
    # Sums in another order differ in their last bits; nothing is dropped for that.
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
    """Options of rising size and falling cost, and where they stood."""

    sizes: np.ndarray
    costs: np.ndarray
    places: tuple[int, ...]


@frozen(eq=False)
class _Relaxation:
    """The least cost of some groups as a function of the room above their smallest sizes, options being divisible.

    Attributes:
        rooms, costs: the corners of the function, which is convex and falls; at a corner nothing is divided.
    """

    rooms: np.ndarray
    costs: np.ndarray

    def bound(self, room: np.ndarray) -> np.ndarray:
        """The least cost with divided options: no choice costs less."""
        return np.interp(room, self.rooms, self.costs)

    def rounded(self, room: np.ndarray) -> np.ndarray:
        """The cost of the last corner that fits: a choice that exists."""
        return self.costs[np.searchsorted(self.rooms, room, side="right") - 1]


def _undominated(group: Sequence[Option]) -> _Group:
    """Without options that another one, not larger, matches in cost."""
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
    """The relaxation of the groups from each place on; of none at the end."""
    tails = [_Relaxation(np.zeros(1), np.zeros(1))]
    steps: list[tuple[float, int, float]] = []  # slope, size, cost
    least = 0.0
    for group in reversed(groups):
        least += float(group.costs[0])
        corners = _convex(group)
        for a, b in pairwise(corners):
            size, cost = int(group.sizes[b] - group.sizes[a]), float(group.costs[b] - group.costs[a])
            steps.append((cost / size, size, cost))
        steps.sort(key=lambda step: step[0])  # stable: steps of one group stay in order
        rooms = np.cumsum([0, *(size for _, size, _ in steps)]).astype(np.float64)
        costs = least + np.cumsum([0.0, *(cost for _, _, cost in steps)])
        tails.append(_Relaxation(rooms, costs))
    return tails[::-1]


def _convex(group: _Group) -> list[int]:
    """The corners of the lower convex hull of a group's options, from the smallest to the cheapest."""
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
