"""The tensors of an exported program as constants: every name of a tensor on one constant."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from graphpress.ir.graph import Constant, Graph


class ProgramTensors:
    """The program's tensors by name; names of one tensor are kept together."""

    def __init__(self, program: ExportedProgram):
        non_persistent = set(program.graph_signature.non_persistent_buffers)
        self._tensors: dict[str, Any] = dict(program.state_dict)
        for name, tensor in program.constants.items():
            self._tensors.setdefault(name, tensor)
        self._non_persistent = non_persistent
        self._groups: dict[Any, list[str]] = {}
        literal = {s.target for s in program.graph_signature.input_specs if s.kind is InputKind.CONSTANT_TENSOR}
        for name, tensor in self._tensors.items():
            if isinstance(tensor, torch.Tensor) and name not in literal:
                self._groups.setdefault(tensor_identity(tensor), []).append(name)
        self._constants: dict[Any, Constant] = {}

    def constant(self, graph: Graph, spec: Any) -> Constant:
        """The constant of `graph` for an input spec."""
        tensor = self._tensors[spec.target]
        key = spec.target if spec.kind is InputKind.CONSTANT_TENSOR else tensor_identity(tensor)
        if key not in self._constants:
            if spec.kind is InputKind.CONSTANT_TENSOR:
                made = graph.add_constant(spec.target, tensor, "literal")
            else:
                names = self._groups[key]
                kind = "parameter" if isinstance(tensor, torch.nn.Parameter) else "buffer"
                persistent = any(name not in self._non_persistent for name in names)
                made = graph.add_constant(names[0], tensor, kind, names, persistent=persistent)
            self._constants[key] = made
        return self._constants[key]

    def constant_named(self, graph: Graph, name: str) -> Constant:
        """The constant that the program calls `name`; made when nothing reads it."""
        tensor = self._tensors[name]
        key = tensor_identity(tensor)
        if key not in self._constants:
            names = self._groups[key]
            persistent = any(n not in self._non_persistent for n in names)
            self._constants[key] = graph.add_constant(names[0], tensor, "buffer", names, persistent=persistent)
        return self._constants[key]


def tensor_identity(tensor: torch.Tensor) -> Any:
    """Equal for two tensors that are the same elements of the same memory."""
    if tensor.numel() == 0 or tensor.layout is not torch.strided or tensor.device.type == "meta":
        return id(tensor)
    try:
        storage = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a tensor subclass around others
        return id(tensor)
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
