"""The note that marks the nodes of one fusion group."""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen

from graphpress.ir.annotations import annotation


class Role(StrEnum):
    """What a node is to its group."""

    ANCHOR = "anchor"
    """The first op; its config decides for the group."""
    MEMBER = "member"
    TAIL = "tail"
    """The last op; its result is the result of the group."""
    WHOLE = "whole"
    """Anchor and tail at once: a group of one."""


@annotation("fusion")
@frozen
class FusionGroup:
    """A node's place in a group that a backend runs as one op, so that nothing between its members is quantized."""

    anchor: str
    pattern: str
    role: Role
