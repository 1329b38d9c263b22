"""Which ops a backend runs as one: patterns that users extend, and the note that marks a group."""

from graphpress.passes.fusion.groups import FusionGroup, Role
from graphpress.passes.fusion.patterns import (
    FusionPattern,
    fusion_patterns,
    register_fusion_pattern,
    unregister_fusion_pattern,
)

__all__ = [
    "FusionGroup",
    "FusionPattern",
    "Role",
    "fusion_patterns",
    "register_fusion_pattern",
    "unregister_fusion_pattern",
]
