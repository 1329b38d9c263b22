"""The number of stored bits per weight of a model."""

from __future__ import annotations

from collections.abc import Iterable
from math import log2
from typing import Any

import torch
from attrs import define, field
from torch import Tensor, fx, nn

from graphpress.compressor import ArgumentTypeError, mode_restored
from graphpress.ir.dtypes import DType
from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Constant, Graph, Node, Value
from graphpress.ir.torch.arguments import Arguments
from graphpress.ir.torch.capture import from_module
from graphpress.ir.torch.emitted_module import CAPTURED_TYPE
from graphpress.ir.types import TensorType
from graphpress.palettization.learning import TRAINED
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.analysis.weights import is_compressed, is_sparse, is_weight
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.weights import is_smaller_sparse
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase

_PARTS = ("scale", "zero_point", "minval")
_COREML, _PRUNED = "_COREML_/", 1
_KEPT = "_nonzero_data"


class NoWeightsError(GraphpressError, ValueError):
    """The model has no weights to count."""


@define
class _Count:
    bits: float = 0
    elements: int = 0
    counted: set[int] = field(factory=set)

    def add(self, elements: int, bits: float, key: object) -> None:
        """Count a weight once per key, since tied weights are stored once."""
        if id(key) not in self.counted:
            self.counted.add(id(key))
            self.elements += elements
            self.bits += bits


def bits_per_weight(model: nn.Module, example_inputs: Any = None) -> float:
    """Return the stored bits of the weights of `model`, divided by the number of weights.

    Weights are the floating parameters of two or more axes, compressed or not. Codes, indices, lookup tables, scales,
    zero points and minimum values all count; tied weights count once. A prepared model counts as its finalized form.

    Args:
        model: an original, prepared or finalized model.
        example_inputs: the model's arguments as for `Quantizer.prepare`, required for a model with fake-quantizers in
            eager mode; captured graphs contain the shapes of their inputs.

    Raises:
        ArgumentTypeError: if `model` is not a module, or `example_inputs` is required.
        NoWeightsError: if it has no weights.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"bits_per_weight takes a torch.nn.Module, not a {type(model).__name__}")
    count = _Count()
    observed = [m for m in model.modules() if isinstance(m, FakeQuantizeImplBase)]
    if observed:
        _count_prepared(model, _inputs(model, example_inputs), count)
    elif isinstance(model, fx.GraphModule) and _captured_inputs(model) is not None:
        arguments = _inputs(model, example_inputs)
        _count_graph(from_module(model, arguments.positional, arguments.named), count)
    else:
        _count_modules(model, count)
    if not count.elements:
        raise NoWeightsError(f"{type(model).__name__} has no floating parameters of two or more axes")
    return count.bits / count.elements


def _count_modules(model: nn.Module, count: _Count) -> None:
    for module in model.modules():
        names = {name.removesuffix("_lut") for name in module._buffers if name.endswith("_lut")}
        tables = [name for name in names if module._buffers.get(f"{name}_indices") is not None]
        for name in tables:
            _count_table(module, name, count)
        trained = {f"{name}_{part}" for name in tables for part in TRAINED}
        for name in [name.removesuffix(_KEPT) for name in module._parameters if name.endswith(_KEPT)]:
            values, mask = module._parameters[f"{name}{_KEPT}"], module._buffers.get(f"{name}_mask")
            if values is not None and mask is not None:
                count.add(mask.numel(), mask.numel() + values.numel() * _width(values), values)
        for name, parameter in module._parameters.items():
            if parameter is None or name in tables or name in trained or not _is_weight(parameter):
                continue
            count.add(parameter.numel(), _parameter_bits(module, name, parameter), parameter)


def _parameter_bits(module: nn.Module, name: str, parameter: Tensor) -> float:
    """Return the stored bits of a float parameter, by its mask or its Core ML metadata if it has one."""
    mask, table = module._buffers.get(f"{name}_mask"), module._buffers.get(f"{_COREML}{name}/lut")
    types = module._buffers.get(f"{_COREML}{name}/compression_type")
    if mask is not None and mask.shape == parameter.shape:
        return _sparse_bits(mask, _width(parameter))
    is_pruned = types is not None and int(types.reshape(-1)[0]) == _PRUNED
    if table is not None:
        bits = _coreml_bits(module, name, parameter, table)
        zeros = int((parameter == 0).sum())
        return bits + parameter.numel() - zeros * _index_bits(table) if is_pruned else bits
    return _sparse_bits(parameter != 0, _width(parameter)) if is_pruned else parameter.numel() * _width(parameter)


def _count_table(module: nn.Module, name: str, count: _Count) -> None:
    indices, table = module._buffers[f"{name}_indices"], module._buffers[f"{name}_lut"]
    assert indices is not None
    assert table is not None
    parts = (module._buffers.get(f"{name}_{part}") for part in _PARTS)
    bits = indices.numel() * _index_bits(table) + _bits_of([table, *parts])
    mask = module._buffers.get(f"{name}_mask")
    if mask is not None and indices.ndim == 1:  # of kept elements
        count.add(mask.numel(), mask.numel() + bits, indices)
    else:
        count.add(indices.numel() * table.shape[-1], bits, indices)


def _sparse_bits(mask: Tensor, width: float) -> float:
    """Return the bits of kept elements and their mask, or of all elements if these are fewer."""
    kept = int(mask.sum())
    return mask.numel() + kept * width if is_smaller_sparse(mask, int(width)) else mask.numel() * width if kept else 0


def _coreml_bits(module: nn.Module, name: str, parameter: Tensor, table: Tensor) -> float:
    def part(key: str) -> Tensor | None:
        return module._buffers.get(f"{_COREML}{name}/{key}")

    width = part("quantization_n_bits")
    scales = [part("palettization_scale"), part("quantization_scale"), part("zero_point")]
    entries = table.numel() * (_width(table) if width is None else int(width))
    return parameter.numel() / table.shape[-1] * _index_bits(table) + entries + _bits_of(scales)


def _count_prepared(model: nn.Module, arguments: Arguments, count: _Count) -> None:
    """Run the model once, and count the codes and parameters of every fake-quantizer of a weight."""
    quantized: dict[torch.dtype, int] = {}

    def note(module: Any, args: tuple[Any, ...]) -> None:
        data = args[0]
        if not module.is_state or id(module) in count.counted:
            return
        quantized[data.dtype] = quantized.get(data.dtype, 0) + data.numel()
        parameters = module.qparams(data.detach()) or (None, None, None)
        scale, zero_point, minval = parameters
        bits = data.numel() * module.spec.n_bits + _bits_of([scale, minval])
        bits += 0 if zero_point is None else zero_point.numel() * module.spec.n_bits
        count.add(data.numel(), bits, module)

    modules = [module for module in model.modules() if isinstance(module, FakeQuantizeImplBase)]
    handles = [module.register_forward_pre_hook(note) for module in modules]
    try:
        with mode_restored(model), torch.no_grad():
            model.eval()
            arguments.call(model)
    finally:
        for handle in handles:
            handle.remove()
    whole = _Count()
    _count_modules(model, whole)
    # Weights without a quantizer keep their dtype.
    rest = whole.elements - count.elements
    if rest > 0:
        left = whole.bits - sum(elements * _width(torch.empty((), dtype=d)) for d, elements in quantized.items())
        count.add(rest, left, whole)


def _count_graph(graph: Graph, count: _Count) -> None:
    from graphpress.backends.coreai.raising import RaiseFromCoreai

    graph = Runner().run(graph, Pipeline(RaiseFromCoreai(), Canonicalize()), in_place=True).graph
    constant = constant_values(graph)
    for node in graph.nodes:
        if any(id(result) in constant for result in node.results):
            continue
        for operand, _, value in node.operand_values():
            if id(value) not in constant:
                continue
            if is_weight(node, operand, value) and not is_sparse(value):
                count.add(_elements(value), _elements(value) * value.tensor_type.dtype.bits, value)
            elif _is_stored_weight(value):
                _count_stored(value, count)


def _count_stored(value: Value, count: _Count) -> None:
    parts = _parts(value)
    largest = max(parts, key=_elements)
    if id(largest) not in count.counted:
        new = (_elements(part) * width for part, width in parts.items() if id(part) not in count.counted)
        count.add(_elements(value), sum(new), largest)
        count.counted.update(map(id, parts))


def _is_stored_weight(value: Value) -> bool:
    type = value.type
    return (
        isinstance(type, TensorType)
        and type.rank > 1
        and type.dtype.is_floating
        and (is_compressed(value) or is_sparse(value))
    )


def _parts(value: Value) -> dict[Constant, float]:
    """Return the constants that `value` is computed from, each with its bits per element."""
    found: dict[Constant, float] = {}
    work = [value.node]
    while work:
        node = work.pop()
        for operand, _, read in node.operand_values() if node is not None else ():
            if read.constant is not None:
                found.setdefault(read.constant, _stored_width(node, operand, read.constant))
            else:
                work.append(read.node)
    return found


def _stored_width(node: Node | None, operand: str, constant: Constant) -> float:
    """Return the stored bits per element of `constant`; codes of less than 8 bits are held in int8 or uint8."""
    assert node is not None
    if node.op.name == "quant.blockwise_shift_scale" and operand in ("input", "zero_point"):
        dtype = node.attributes.get("dtype")
        return constant.type.dtype.bits if dtype is None else min(constant.type.dtype.bits, DType.of(dtype).bits)
    if node.op.name == "quant.lut_to_dense" and operand == "indices":
        entries = node.operands["lut"].tensor_type.shape[-2]
        return log2(entries)
    if node.op.name == "quant.sparse_to_dense" and operand == "mask":
        return 1
    return constant.type.dtype.bits


def _elements(each: Constant | Value) -> int:
    type = each.type
    assert isinstance(type, TensorType)
    count = 1
    for size in type.shape:
        assert isinstance(size, int)
        count *= size
    return count


def _is_weight(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim > 1


def _width(tensor: Tensor) -> int:
    return tensor.element_size() * 8


def _index_bits(table: Tensor) -> float:
    return log2(table.shape[-2])


def _bits_of(tensors: Iterable[Tensor | None]) -> int:
    return sum(tensor.numel() * _width(tensor) for tensor in tensors if tensor is not None)


def _inputs(model: nn.Module, example_inputs: Any) -> Arguments:
    if example_inputs is not None:
        return Arguments.of(example_inputs)
    made = _captured_inputs(model)
    if made is None:
        raise ArgumentTypeError(
            f"{type(model).__name__} has fake-quantizers and was not captured as a graph: pass example_inputs, a tuple "
            "of its positional arguments"
        )
    return Arguments(made)


def _captured_inputs(model: nn.Module) -> tuple[Tensor, ...] | None:
    """Return zeros of the input types of a captured model, or None for other models."""
    if not isinstance(model, fx.GraphModule):
        return None
    types = [node.meta.get(CAPTURED_TYPE) for node in model.graph.nodes if node.op == "placeholder"]
    if not types or not all(isinstance(type, TensorType) for type in types):
        return None
    # Symbolic dims become 2, which neither broadcasts nor is specialized to a constant.
    return tuple(
        torch.zeros([size if isinstance(size, int) else 2 for size in type.shape], dtype=type.dtype.torch_dtype)
        for type in types
    )
