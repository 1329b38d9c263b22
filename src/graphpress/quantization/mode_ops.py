"""Modules for ops that differ between training and evaluation.

A graph is captured in eval mode, in which dropout is the identity and batch norms use running statistics. In a
prepared model these ops are modules, so that ``train()`` and ``eval()`` work as in the user's model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from graphpress.ir.graph import Node, Value
from graphpress.ir.inference import to_torch
from graphpress.ir.ops import OpDef
from graphpress.passes.analysis.constants import DROPOUTS
from graphpress.quantization.batch_norm import FreezableNorm

# The argument that selects training, by op.
_FLAGS: Mapping[str, str] = (
    dict.fromkeys(DROPOUTS, "train")
    | dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), "train")
    | {"batch_norm": "training", "rrelu": "training", "instance_norm": "use_input_stats"}
)
_NORMS = frozenset({"batch_norm", "instance_norm"})


class ModeOp(nn.Module):
    """An op whose training flag is the mode of the module, called with the flattened operands of its node.

    Args:
        op: the op.
        attributes: its attributes.
        layout: name and number of values of each operand; None for a single value that is not a list.
        flag: the name of the training flag.
    """

    def __init__(
        self, op: OpDef, attributes: Mapping[str, Any], layout: Sequence[tuple[str, int | None]], flag: str
    ) -> None:
        super().__init__()
        self.op = op
        self.attributes = dict(attributes)
        self.layout = tuple(layout)
        self.flag = flag

    def forward(self, *values: Tensor) -> Any:
        """Return the results of the op."""
        remaining = list(values)
        bound: dict[str, Any] = {name: to_torch(value) for name, value in self.attributes.items()}
        for name, count in self.layout:
            taken = remaining[: 1 if count is None else count]
            del remaining[: len(taken)]
            bound[name] = taken[0] if count is None else taken
        bound[self.flag] = self.trains
        args, kwargs = self.op.unbind(bound)
        assert self.op.target is not None
        return self.op.target(*args, **kwargs)

    @property
    def trains(self) -> bool:
        """True in training mode."""
        return self.training

    def extra_repr(self) -> str:
        """Return the op."""
        return self.op.name


class NormOp(ModeOp, FreezableNorm):
    """A norm with running statistics that is not folded into a layer."""

    @property
    def trains(self) -> bool:
        """True if it uses batch statistics."""
        return self.uses_batch_statistics


def mode_op(node: Node) -> ModeOp | None:
    """Create the module of `node` for both modes, or return None if the modes do not differ."""
    flag = _FLAGS.get(node.op.family) if node.op.dialect == "aten" and node.op.target is not None else None
    if flag is None or flag not in {parameter.name for parameter in node.op.parameters} or node.attribute(flag):
        return None
    layout = [(name, None if isinstance(operand, Value) else len(operand)) for name, operand in node.operands.items()]
    if node.op.family not in _NORMS:
        return ModeOp(node.op, node.attributes, layout, flag)
    if node.operand("running_mean") is None or node.operand("running_var") is None:
        return None
    norm = NormOp(node.op, node.attributes, layout, flag)
    norm.module_paths = tuple(origin.module_path for origin in node.location.origins)
    return norm
