"""What is in a model, by the names that configs use; and how many bits its weights take."""

from graphpress.inspection.bits import bits_per_weight
from graphpress.inspection.inspector import ModelInspector
from graphpress.inspection.summary import ModelSummary, ModuleInfo, OpInfo

__all__ = ["ModelInspector", "ModelSummary", "ModuleInfo", "OpInfo", "bits_per_weight"]
