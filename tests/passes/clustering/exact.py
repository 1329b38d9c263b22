"""The exact optimum of scalar k-means on large weights, by a method that shares nothing with ours."""

from __future__ import annotations

import numba
import numpy as np

MOST_PRICES = 100


def least_error(values: np.ndarray, k: int) -> float:
    """Return a lower bound of the squared error of any `k` clusters of `values`, exact where the price is found.

    A price on each cluster takes the place of their number (Lagrange): for any price, the least sum of error and prices
    less the price of `k` clusters is a lower bound, and the optimum itself where the best number of clusters is `k`.
    The optimum is convex in `k`, so some price gets there (Groenlund et al., "Fast exact k-means, k-medians and Bregman
    divergence clustering in 1D", 2017). O(n log n) for each price, in float64: good to about 1e-9 of the error.
    """
    ascending = np.sort(np.asarray(values, np.float64).ravel())
    ascending -= ascending.mean()
    sums = np.r_[0.0, np.cumsum(ascending.astype(np.longdouble)).astype(np.float64)]
    squares = float((ascending.astype(np.longdouble) ** 2).sum())
    low, high = 0.0, np.inf
    price = squares / k**3
    bound = 0.0
    for _ in range(MOST_PRICES):
        cost, clusters = cheapest(sums, price)
        bound = max(bound, cost - price * k + squares)
        if clusters == k or high - low <= 1e-13 * high < np.inf:
            break
        low, high = (price, high) if clusters > k else (low, price)
        price = 4 * low if high == np.inf else high / 4 if low == 0 else (low * high) ** 0.5
    return bound


@numba.njit(cache=True)
def cheapest(sums: np.ndarray, price: float) -> tuple[float, int]:
    """Return the least cost of any clusters at a price each, errors less squares, and their number.

    `sums` [n + 1] are prefix sums. A later start overtakes an earlier one once and for all, so the starts that are best
    for some end form a queue, each with the first end where it is (Galil and Park, 1992).
    """
    size = sums.size - 1
    best = np.zeros(size + 1)
    counts = np.zeros(size + 1, np.int64)
    starts = np.zeros(size + 1, np.int64)
    begins = np.ones(size + 1, np.int64)
    head = tail = 0
    for end in range(1, size + 1):
        while head < tail and begins[head + 1] <= end:
            head += 1
        best[end] = cost(sums, best, starts[head], end) + price
        counts[end] = counts[starts[head]] + 1
        while end < size:
            first = max(begins[tail], end + 1)
            if cost(sums, best, end, first) < cost(sums, best, starts[tail], first):
                if tail > head:
                    tail -= 1
                    continue
                starts[head], begins[head] = end, end + 1
                break
            low, high = first, size + 1
            while high - low > 1:
                middle = (low + high) // 2
                if cost(sums, best, end, middle) < cost(sums, best, starts[tail], middle):
                    high = middle
                else:
                    low = middle
            if high <= size:
                tail += 1
                starts[tail], begins[tail] = end, high
            break
    return best[size], counts[size]


@numba.njit(cache=True)
def cost(sums: np.ndarray, best: np.ndarray, start: int, end: int) -> float:
    """Return the cost of the best clusters up to `start` and one from there to `end`, without its price."""
    moment = sums[end] - sums[start]
    return best[start] - moment * moment / (end - start)
