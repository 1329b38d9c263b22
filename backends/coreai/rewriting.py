"""Store weights of a Core AI program in fewer bits, in the program itself: no torch model is needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphpress.backends.coreai import ops
from graphpress.backends.errors import AssetError, ConversionError

Replace = Callable[[Tensor, str, str], "Callable[[ProgramBuilder], Any] | None"]
"""From a weight, the type of the op that reads it, and its name, to what makes its stored form with a builder."""

_READERS = {
    ("conv1d", 1): "conv1d",
    ("conv2d", 1): "conv2d",
    ("conv3d", 1): "conv3d",
    ("conv_transpose2d", 1): "conv_transpose2d",
    ("transpose", 0): "linear",
    ("broadcasting_batch_matmul", 1): "linear",
    ("gather_nd", 0): "embedding",
}


def rewrite(program: Any, replace: Replace, threshold: int, *, in_place: bool) -> Any:
    """A Core AI program like `program`, whose weights of more than `threshold` elements are what `replace` makes.

    Args:
        program: what the converter made, an `AIProgram`, or one read from an asset.
        replace: see `Replace`; None leaves the weight.
        threshold: of elements.
        in_place: whether `program` itself is changed.

    Raises:
        AssetError: when `program` is none.
        ConversionError: when the program that was made is not valid.
    """
    asset = ops.require("coreai.authoring.asset")
    if not isinstance(program, asset.AIProgram):
        raise AssetError(f"a {type(program).__name__} is no Core AI program; expected an AIProgram")
    if not in_place:
        module = asset.clone_module(module=program._module._mlir_module)
        program = asset.AIProgram._from_mlir_module(module)
    ir = ops.require("coreai._compiler.ir")
    mlir = program._module._mlir_module
    try:
        with mlir.context, ir.Location.unknown():
            found = list(_weights(mlir.operation, threshold))
            data = _resources(mlir) if found else {}
            for count, (op, op_type) in enumerate(found):
                _compress(op, op_type, f"weight_{count}", replace, ir, data)
        program._module.verify()
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConversionError(f"the program cannot be stored so: {type(error).__name__}: {error}") from error
    return program


class ProgramBuilder:
    """Makes ops of a Core AI program before the one that is replaced."""

    def __init__(self, ir: Any) -> None:
        self._ir = ir
        self._mlir = ops.require("coreai._compiler._mlir_libs._coreaiIR._bindings.mlir").dialects.coreai
        self.ops = ops.require("coreai._compiler.dialects.coreai")
        self._types = ops.require("coreai_torch._type_mapping").TORCH_TO_COREAI_DTYPE

    def constant(self, tensor: Tensor, bits: int | None = None) -> Any:
        """A constant; of unsigned or signed codes of `bits` bits where given, held one per byte."""
        if bits in (None, 8) or tensor.is_floating_point():
            return self.ops.constant(tensor.contiguous().numpy())
        packed = _packed(tensor, bits or 8)
        dtype = getattr(torch, f"{'int' if tensor.dtype.is_signed else 'uint'}{bits}")
        kind = self._ir.RankedTensorType.get(list(tensor.shape), self._types[dtype]())
        attribute = self._mlir.create_elements_attr(self._ir.Location.unknown(), kind, packed)
        return self.ops.ConstantOp(value=attribute).result

    def table(self, indices: Tensor, bits: int, lut: Tensor, axis: int) -> Any:
        """Indices into a table."""
        axis_value = self.ops.constant(np.array(axis, dtype=np.int16))
        return self.ops.lut_to_dense(self.constant(indices, bits), self.constant(lut), axis_value)

    def scaled(self, data: Any, scale: Tensor, zero_point: Tensor | None, like: Tensor, bits: int) -> Any:
        """``(data - zero point) * scale``, block by block; `like` is a tensor of the dtype of codes."""
        zeros = torch.zeros(scale.shape, dtype=like.dtype) if zero_point is None else zero_point.round().to(like.dtype)
        offsets = self.constant(zeros.expand(scale.shape).contiguous(), bits), self.constant(torch.zeros_like(scale))
        return self.ops.blockwise_shift_scale(data, self.constant(scale), *offsets)

    def sparse(self, values: Tensor, mask: Tensor) -> Any:
        """Kept elements and where they stand."""
        made = self.ops.build_sparse_with_bitmask(self.constant(values), self.constant(mask.to(torch.uint8), 1))
        return self.ops.sparse_with_bitmask_to_dense(made)


def _packed(codes: Tensor, bits: int) -> np.ndarray[Any, Any]:
    """Codes of `bits` bits as a stream of bits, lowest first."""
    flat = codes.reshape(-1).view(torch.uint8).numpy()
    stream = np.unpackbits(flat[:, None], axis=1, count=bits, bitorder="little").reshape(-1)
    return np.packbits(stream, bitorder="little")


def _weights(operation: Any, threshold: int) -> Iterator[tuple[Any, str]]:
    """Float constants that ops read as weights, with the type of the op as torch names it."""
    for op in _walk(operation):
        if op.name != "coreai.constant":
            continue
        kind = op.attributes["value"].type
        shape = list(kind.shape)
        if str(kind.element_type) not in ("f32", "f16") or len(shape) < 2 or int(np.prod(shape)) <= threshold:
            continue
        uses = [(use.owner.name.rpartition(".")[2], use.operand_number) for use in op.results[0].uses]
        types = {_READERS.get(use) for use in uses}
        if len(types) == 1 and None not in types:
            yield op, str(types.pop())


def _walk(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region.blocks:
            for op in block.operations:
                yield op
                yield from _walk(op)


def _compress(op: Any, op_type: str, name: str, replace: Replace, ir: Any, data: Mapping[str, bytes]) -> None:
    attribute = op.attributes["value"]
    kind = ir.RankedTensorType(attribute.type)
    dtype = np.float32 if str(kind.element_type) == "f32" else np.float16
    resource = _RESOURCE.match(str(attribute))
    if resource is None:
        array = np.array(ir.DenseFPElementsAttr(attribute), dtype=dtype)
    else:
        array = np.frombuffer(data[resource[1]], dtype=dtype)
    make = replace(torch.from_numpy(array.reshape(list(kind.shape)).copy()), op_type, name)
    if make is None:
        return
    with ir.InsertionPoint(op):
        made = make(ProgramBuilder(ir))
    op.results[0].replace_all_uses_with(made)
    op.operation.erase()


_RESOURCE = re.compile(r"dense_resource<(\w+)>")
_BLOB = re.compile(r'(\w+): "0x([0-9A-Fa-f]+)"')
_ALIGNMENT = 4  # bytes before the data of a blob, which say how it is aligned


def _resources(module: Any) -> dict[str, bytes]:
    """The data of constants that are kept beside the program, by name, from its text form: nothing else has them."""
    return {name: bytes.fromhex(blob)[_ALIGNMENT:] for name, blob in _BLOB.findall(str(module))}
