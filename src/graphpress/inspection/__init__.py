"""Model inspection: modules and ops by the names that configs use, and bits per weight."""

from graphpress.inspection.bits import BitsPerWeightResult, bits_per_weight
from graphpress.inspection.inspector import ModelInspector
from graphpress.inspection.types import (
    BoundaryEdge,
    InputEdge,
    ModelSummary,
    ModuleContext,
    ModuleInfo,
    OpInfo,
    SourceFrame,
)

__all__ = [
    "BitsPerWeightResult",
    "BoundaryEdge",
    "InputEdge",
    "ModelInspector",
    "ModelSummary",
    "ModuleContext",
    "ModuleInfo",
    "OpInfo",
    "SourceFrame",
    "bits_per_weight",
]
