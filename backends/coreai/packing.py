"""Preparation and validation of the compressed constants of a decomposed program.

The converter recognizes the operands of `lut_to_dense` by words in their names, expects packed data in the state dict,
guesses missing bit widths, and wraps codes that are out of range. `make_packable` makes all of this explicit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec

from graphpress.backends.coreai.ops import require
from graphpress.backends.errors import ConversionError
from graphpress.backends.exporting import place
from graphpress.ir.dtypes import DType

TABLE_BITS = (1, 2, 3, 4, 6, 8)
"""Index widths of Core AI lookup tables."""

_LUT, _SHIFT_SCALE, _SPARSE, _QUANTIZE, _DEQUANTIZE = (
    "coreai::lut_to_dense",
    "coreai::constexpr_blockwise_shift_scale",
    "coreai::sparse_to_dense",
    "coreai::quantize",
    "coreai::dequantize",
)


def make_packable(program: ExportedProgram) -> ExportedProgram:
    """Prepare `program` for the converter, in place, and return it.

    Raises:
        ConversionError: for a table, index, code or zero point that the backend cannot store, with its source.
    """
    constants = _Constants(program)
    for count, (node, name) in enumerate(_compressed(program.graph)):
        node.args, node.kwargs = _positional(node), {}
        _refuse_float64(node, constants)
        if name == _LUT:
            _settle_table(node, constants, count)
        elif name == _SHIFT_SCALE:
            _settle_shift_scale(node, constants)
        elif name == _QUANTIZE:
            _type_zero_point(node.args[3], node.args[2], constants)
        elif name == _DEQUANTIZE:
            _type_zero_point(node.args[2], node.args[5], constants)
        else:
            constants.persist(node.args[1])
    program.graph_module.recompile()
    return program


def _refuse_float64(node: fx.Node, constants: _Constants) -> None:
    for each in node.all_input_nodes:
        if each.op == "placeholder" and each.meta["val"].dtype is torch.float64:
            raise ConversionError(
                f"{constants.name(each)!r} {place(node)} is float64; Core AI stores tables, scales and kept elements "
                "in float32, float16 and bfloat16: cast the model with model.float()"
            )


def _settle_table(node: fx.Node, constants: _Constants, count: int) -> None:
    arguments: Any = node.args
    indices, table, axis = arguments
    entries = table.meta["val"].shape[-2]
    if entries not in [2**bits for bits in TABLE_BITS]:
        raise ConversionError(
            f"a lookup table of {entries} entries {place(node)}: Core AI stores tables of "
            f"{', '.join(str(2**bits) for bits in TABLE_BITS)} entries"
        )
    codes = constants.persist(indices)
    if codes is None:
        raise ConversionError(f"the indices of a lookup table {place(node)} must be a stored tensor")
    if codes.numel() and int(codes.max()) >= entries:
        raise ConversionError(
            f"index {int(codes.max())} in {constants.name(indices)!r} {place(node)} is outside its table of "
            f"{entries} entries"
        )
    constants.rename(indices, f"graphpress_{count}_indices")
    constants.rename(table, f"graphpress_{count}_lut")
    if axis < 0:
        node.update_arg(2, axis + indices.meta["val"].dim())


def _settle_shift_scale(node: fx.Node, constants: _Constants) -> None:
    arguments: Any = node.args
    data, _, zero_point, _, dtype, _ = arguments
    codes = constants.persist(data)
    zeros = constants.persist(zero_point)
    if codes is None or codes.is_floating_point():
        return
    if dtype is None:
        dtype = codes.dtype
        node.update_arg(4, dtype)
    limits = DType.of(dtype)
    for node_, tensor in ((data, codes), (zero_point, zeros)):
        if tensor is None or not tensor.numel():
            continue
        low, high = (int(bound) for bound in tensor.aminmax())
        if low < limits.minimum or high > limits.maximum:
            raise ConversionError(
                f"{constants.name(node_)!r} {place(node)} holds codes {low} to {high}, but {limits.long_name} "
                f"holds {limits.minimum} to {limits.maximum}"
            )


def _type_zero_point(node: Any, dtype: Any, constants: _Constants) -> None:
    """Type the zero point of activation codes below 8 bits, which the converter does for weights only."""
    zeros = constants.persist(node)
    if zeros is None or dtype is None or DType.of(dtype).bits == 8 or zeros.dtype not in (torch.int8, torch.uint8):
        return
    utils: Any = require("coreai_torch._compression.utils")
    packed = utils.IntxTensor if zeros.dtype == torch.int8 else utils.UintxTensor
    constants.replace(node, packed.from_unpacked(zeros, DType.of(dtype).bits))


class _Constants:
    """The constant placeholders of a program, by node name."""

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        self._at = {spec.arg.name: at for at, spec in enumerate(program.graph_signature.input_specs)}

    def name(self, node: fx.Node) -> str:
        """Return the qualified name of the constant of a placeholder."""
        spec = self._spec(node)
        return str(node) if spec is None else str(spec.target)

    def persist(self, node: Any) -> torch.Tensor | None:
        """Put a copy of a constant into the state dict; returns None if `node` is not a constant."""
        spec = self._spec(node)
        if spec is None or spec.target is None:
            return None
        program = self._program
        held = program.state_dict if spec.target in program.state_dict else program.constants
        program.state_dict[spec.target] = held[spec.target].detach()
        if spec.kind != InputKind.BUFFER or not spec.persistent:
            program.graph_signature.input_specs[self._at[node.name]] = InputSpec(
                InputKind.BUFFER, spec.arg, spec.target, persistent=True
            )
        return program.state_dict[spec.target]

    def replace(self, node: fx.Node, tensor: torch.Tensor) -> None:
        """Replace a constant in the state dict."""
        spec = self._spec(node)
        assert spec is not None
        assert spec.target is not None
        self._program.state_dict[spec.target] = tensor

    def rename(self, node: fx.Node, name: str) -> None:
        """Rename a node, also in the signature."""
        spec = self._spec(node)
        if spec is not None:
            self._at[name] = self._at.pop(node.name)
            node.target = spec.arg.name = name
        node.name = name

    def _spec(self, node: Any) -> InputSpec | None:
        at = self._at.get(node.name) if isinstance(node, fx.Node) else None
        spec = None if at is None else self._program.graph_signature.input_specs[at]
        return None if spec is None or spec.kind == InputKind.USER_INPUT else spec


def _compressed(graph: fx.Graph) -> Iterator[tuple[fx.Node, str]]:
    """Yield the nodes that read compressed constants, with their operator's name."""
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            name = node.target.name()
            if name in (_LUT, _SHIFT_SCALE, _SPARSE, _QUANTIZE, _DEQUANTIZE):
                yield node, name


def _positional(node: fx.Node) -> tuple[Any, ...]:
    """Return all arguments by position with defaults, as the converter reads them."""
    target: Any = node.target
    schema = target._schema.arguments
    return tuple(
        node.args[at] if at < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        for at, argument in enumerate(schema)
    )
