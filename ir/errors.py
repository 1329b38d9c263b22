"""The root of the error hierarchy, and name suggestions for messages.

A message says what is wrong, where (a config path, a module path, a source line), and what would be accepted. Each
layer derives its own classes from `GraphpressError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

_LONGEST, _MOST_KNOWN = 200, 10_000  # comparing names takes the product of their lengths


class GraphpressError(Exception):
    """Base class of every error that graphpress raises deliberately."""


def suggestion(name: str, known: Iterable[str], most: int = 3) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` for the names nearest to `name`, or ``""`` if none is near."""
    if len(name) > _LONGEST:
        return ""
    candidates = [each for each in islice(known, _MOST_KNOWN) if len(each) <= _LONGEST]
    near = get_close_matches(name, candidates, n=most, cutoff=0.6)
    if not near:
        return ""
    return "; did you mean " + " or ".join(repr(match) for match in near) + "?"
