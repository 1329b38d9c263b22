"""Model inspection: modules and ops by the names that configs use, and bits per weight."""

from graphpress.inspection.bits import bits_per_weight
from graphpress.inspection.inspector import ModelInspector
from graphpress.inspection.summary import ModelSummary, ModuleInfo, OpInfo

__all__ = ["ModelInspector", "ModelSummary", "ModuleInfo", "OpInfo", "bits_per_weight"]
