"""States that torch.export lifts as literals.

A run of a model reads tensors as the Python objects that hold them. One that is not found at the path of a buffer, such
as the keys of a cache object, is lifted as a literal, although a buffer may be the same memory and although the model
writes to it. Literals that share memory with a buffer become that buffer here, and other written ones buffers of their
own, so that torch can functionalize the writes and later calls see them.
"""

from __future__ import annotations

import copy

import torch
from attrs import frozen
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from graphpress.ir.ops import Trait, op_of_target
from graphpress.ir.tensors import tensor_identity
from graphpress.ir.torch.functionalization import written_arguments


@frozen(eq=False)
class _Literal:
    """A lifted tensor: its placeholder's index among the inputs, and the index of the buffer it is, if any."""

    index: int
    buffer: int | None


def with_states_as_buffers(program: ExportedProgram) -> ExportedProgram:
    """Return `program` with its written literals as buffers, or `program` itself if it writes to none."""
    literals = _literal_states(program)
    if not literals:
        return program
    module = GraphModule(program.graph_module, copy.deepcopy(program.graph))
    module.meta.update(program.graph_module.meta)
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    signature = copy.deepcopy(program.graph_signature)
    specs, constants = list(signature.input_specs), dict(program.constants)
    for literal in reversed(literals):
        if literal.buffer is None:
            spec = specs[literal.index]
            specs[literal.index] = InputSpec(InputKind.BUFFER, spec.arg, spec.target, persistent=False)
        else:
            placeholders[literal.index].replace_all_uses_with(placeholders[literal.buffer])
            module.graph.erase_node(placeholders[literal.index])
            del constants[specs[literal.index].target]
            del specs[literal.index]
    signature.input_specs = specs
    module.recompile()
    return program._update(module, signature, constants=constants)


def _literal_states(program: ExportedProgram) -> list[_Literal]:
    """Return the literals to convert, in the order of the inputs."""
    specs = program.graph_signature.input_specs
    literals = {i: spec.target for i, spec in enumerate(specs) if spec.kind is InputKind.CONSTANT_TENSOR}
    if not literals:
        return []
    tensors = {**program.state_dict, **program.constants}
    buffers = {tensor_identity(tensors[s.target]): i for i, s in enumerate(specs) if s.kind is InputKind.BUFFER}
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    written = {argument for node in program.graph.nodes for argument in written_arguments(node)}
    found = []
    for index, target in literals.items():
        buffer = buffers.get(tensor_identity(tensors[target]))
        if buffer is not None or _is_written(placeholders[index], written):
            found.append(_Literal(index, buffer))
    return found


def _is_written(node: FxNode, written: set[FxNode]) -> bool:
    """Return True if `node` or a tensor computed from it without a copy may be written to."""
    pending, seen = [node], set[FxNode]()
    while pending:
        node = pending.pop()
        if node in written:
            return True
        if node not in seen:
            seen.add(node)
            pending += [user for user in node.users if _may_alias(user)]
    return False


def _may_alias(node: FxNode) -> bool:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    op = op_of_target(node.target)
    return node.target._schema.is_mutable or op.has(Trait.VIEW) or op.has(Trait.ALIASING)
