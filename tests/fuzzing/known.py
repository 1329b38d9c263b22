"""Failures that are known, and wait for their correction; each is removed with it."""

from __future__ import annotations

import re

from attrs import frozen

from tests.fuzzing.campaign import Find


@frozen
class Known:
    """A known failure.

    Attributes:
        formats: those that it is found in.
        failure: a pattern of what is reported.
        why: what is wrong.
    """

    formats: tuple[str, ...]
    failure: str
    why: str


KNOWN: tuple[Known, ...] = ()


def known(find: Find) -> Known | None:
    """The entry of the table that describes a find."""
    for each in KNOWN:
        if find.format in each.formats and re.match(each.failure, find.failure):
            return each
    return None
