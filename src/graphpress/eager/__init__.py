"""Models as they run: which ops they call, in which module, under which name.

Nothing is captured. Calls of torch functions are seen through a `TorchFunctionMode`, and named as configs and
documents name them: ``module.path.op``, ``module.path.op_1``.
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
