"""Observation of eager models: the ops they call, with their modules and names.

No graph is captured. A `TorchFunctionMode` intercepts calls of torch functions; ops have the names that configs use:
``module.path.op``, ``module.path.op_1``.
"""

from graphpress.eager.naming import ModuleCalls, module_calls, module_scope, module_scopes, module_stack
from graphpress.eager.observing import CallObserver, Observed, detached, observed_by
from graphpress.eager.operators import Operand, Operator, tensor_operands
from graphpress.eager.recording import ModuleCall, OpCall, Recording, TensorUse, recorded

__all__ = [
    "CallObserver",
    "ModuleCall",
    "ModuleCalls",
    "Observed",
    "OpCall",
    "Operand",
    "Operator",
    "Recording",
    "TensorUse",
    "detached",
    "module_calls",
    "module_scope",
    "module_scopes",
    "module_stack",
    "observed_by",
    "recorded",
    "tensor_operands",
]
