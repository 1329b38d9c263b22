"""The stored bytes of a finalized model, by the size formula of saved assets.

A constant takes ``ceil(numel * bits / 8)`` bytes, where bits are those of the lookup table for indices and those of the
element type for codes. A constant of equal elements counts 0 bytes, since only one element is stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from graphpress.backends.exporting import export
from graphpress.ir.dtypes import DType
from graphpress.modules.coreai_form import StoredParameter
from graphpress.modules.forms import forms_of


def stored_bytes(finalized: nn.Module, example_inputs: Any = None) -> int:
    """Return the bytes of the constants of a float model, or of a model finalized for Core AI.

    Args:
        finalized: the model. A model emitted from a graph is exported; others are only traversed.
        example_inputs: the inputs of the export.
    """
    if isinstance(finalized, fx.GraphModule):
        return _of_program(export(finalized, example_inputs))
    bits = {
        id(tensor): bits
        for module in finalized.modules()
        for form in forms_of(module).values()
        if isinstance(form, StoredParameter)
        for tensor, bits in zip(form.tensors(module), form.bits.values(), strict=True)
    }
    tensors = {id(tensor): tensor for tensor in (*finalized.parameters(), *finalized.buffers())}
    return sum(_bytes(tensor, bits.get(key)) for key, tensor in tensors.items())


def _of_program(program: ExportedProgram) -> int:
    signature = program.graph_signature
    targets = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    found: dict[int, tuple[Tensor, int | None]] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in targets and node.users:
            target = targets[node.name]
            tensor = program.state_dict[target] if target in program.state_dict else program.constants[target]
            bits = [known for user in node.users if (known := _bits_read_by(user, node)) is not None]
            found[id(tensor)] = tensor, min(bits, default=None)
    return sum(_bytes(tensor, bits) for tensor, bits in found.values())


def _bits_read_by(user: fx.Node, constant: fx.Node) -> int | None:
    """Return the bits per element of `constant` by its use in `user`, or None if its dtype determines them."""
    target: Any = user.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "coreai":
        return None
    schema = [argument.name for argument in target._schema.arguments]
    arguments = dict(zip(schema, user.args, strict=False)) | dict(user.kwargs)
    role = next((name for name, value in arguments.items() if value is constant), None)
    if role == "indices":
        table: Any = arguments["lut"]
        return (int(table.meta["val"].shape[-2]) - 1).bit_length()
    if role == "mask":
        return 1
    stated: Any = arguments.get("input_dtype") or arguments.get("output_dtype")
    if stated is None or role not in ("input", "zero_point"):
        return None
    dtype = DType.of(stated)
    return dtype.bits if dtype.is_integer else None  # small floats are packed already


def _bytes(tensor: Tensor, bits: int | None) -> int:
    if not tensor.numel() or bool((tensor.flatten()[0] == tensor).all()):
        return 0
    return -(-tensor.numel() * (DType.of(tensor.dtype).bits if bits is None else bits) // 8)
