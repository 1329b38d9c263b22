"""The number of stored bits per weight of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log2, prod
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
from graphpress.modules.coreai_form import StoredParameter
from graphpress.modules.forms import forms_of
from graphpress.palettization.forms import FakePalettized
from graphpress.palettization.learning import TRAINED
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.analysis.weights import is_compressed, is_sparse, is_weight
from graphpress.passes.canonicalize import Canonicalize
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.weights import is_smaller_sparse
from graphpress.passes.weights.quantize import stored_scale
from graphpress.quantization.eager.quantized_module import held_by
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase

_COREML, _PRUNED = "_COREML_/", 1
_MASK = "mask"
_PARTS = ("scale", "zero_point", "minval")


class NoWeightsError(GraphpressError, ValueError):
    """The model has no weights to count."""


class BitsPerWeightResult(float):
    """The bits per weight of a model, as a number and with the counts behind it.

    Attributes:
        bpw: the number.
        per_module_map: bits per weight of each module with weights of its own, by path.
        total_bits: the bits of all weights.
        total_weights: the number of weights.
    """

    def __new__(
        cls, bpw: float, per_module_map: Mapping[str, float], total_bits: int, total_weights: int
    ) -> BitsPerWeightResult:
        """Return the number with its counts."""
        self = super().__new__(cls, bpw)
        self.bpw, self.per_module_map = bpw, dict(per_module_map)
        self.total_bits, self.total_weights = total_bits, total_weights
        return self

    bpw: float
    per_module_map: dict[str, float]
    total_bits: int
    total_weights: int

    def __reduce__(self) -> Any:
        """Pickle with the counts."""
        return type(self), (self.bpw, self.per_module_map, self.total_bits, self.total_weights)


@define
class _Sum:
    bits: float = 0
    elements: int = 0


@define
class _Count:
    """Bits and elements of weights, by path of the module that has them."""

    by_module: dict[str, _Sum] = field(factory=dict)
    counted: set[int] = field(factory=set)

    def add(self, elements: int, bits: float, key: object, path: str) -> None:
        """Count a weight once per key, since tied weights are stored once."""
        if id(key) not in self.counted:
            self.counted.add(id(key))
            module = self.by_module.setdefault(path, _Sum())
            module.elements += elements
            module.bits += bits

    def result(self) -> BitsPerWeightResult:
        """Return the totals."""
        bits = sum(module.bits for module in self.by_module.values())
        elements = sum(module.elements for module in self.by_module.values())
        each = {path: module.bits / module.elements for path, module in self.by_module.items() if module.elements}
        return BitsPerWeightResult(bits / elements, each, round(bits), elements)


def bits_per_weight(model: nn.Module, example_inputs: Any = None) -> BitsPerWeightResult:
    """Return the stored bits of the weights of `model`, divided by the number of weights.

    Weights are the floating parameters of two or more axes, compressed or not. Codes, indices, lookup tables, scales,
    zero points and minimum values all count; tied weights count once. A prepared model counts as its finalized form.

    Args:
        model: an original, prepared or finalized model.
        example_inputs: the model's arguments as for `Quantizer.prepare`, for a graph module that another program
            captured; those of graphpress contain the shapes of their inputs.

    Raises:
        ArgumentTypeError: if `model` is not a module, or `example_inputs` is required.
        NoWeightsError: if it has no weights.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"bits_per_weight takes a torch.nn.Module, not a {type(model).__name__}")
    count = _Count()
    if any(isinstance(module, FakeQuantizeImplBase) for module in model.modules()):
        if any(held_by(module) is not None for module in model.modules()):
            _count_held(model, count)
        else:
            _count_prepared(model, _inputs(model, example_inputs), count)
        _count_rest(model, count)
    elif isinstance(model, fx.GraphModule) and _captured_inputs(model) is not None:
        arguments = _inputs(model, example_inputs)
        _count_graph(from_module(model, arguments.positional, arguments.named), count)
    else:
        _count_modules(model, count)
    if not any(module.elements for module in count.by_module.values()):
        raise NoWeightsError(f"{type(model).__name__} has no floating parameters of two or more axes")
    return count.result()


def _count_modules(model: nn.Module, count: _Count) -> None:
    for path, module in model.named_modules():
        tables = set()
        for name, form in forms_of(module).items():
            if isinstance(form, StoredParameter):
                _count_parts(module, form, path, count)
            elif isinstance(form, FakePalettized):
                weight = form.stored(module)
                count.add(prod(weight.shape), weight.stored_bits, weight.indices, path)
                tables.add(name)
        if not forms_of(module):
            tables |= _count_buffers(module, path, count)
        trained = {f"{name}_{part}" for name in tables for part in TRAINED}
        for name, parameter in module._parameters.items():
            if parameter is None or name in tables or name in trained or not _is_weight(parameter):
                continue
            count.add(parameter.numel(), _parameter_bits(module, name, parameter), parameter, path)


def _count_parts(module: nn.Module, form: StoredParameter, path: str, count: _Count) -> None:
    """Count a stored parameter by its parts; a mask has one bit for each element."""
    with torch.no_grad():
        dense = form.value(module)
    if not _is_weight(dense):
        return
    tensors = dict(zip(form.parts, form.tensors(module), strict=True))
    bits = sum(tensor.numel() * (1 if role == _MASK else form.bits[role]) for role, tensor in tensors.items())
    largest = max(tensors.values(), key=Tensor.numel)
    count.add(dense.numel(), bits, largest, path)


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


def _count_buffers(module: nn.Module, path: str, count: _Count) -> set[str]:
    """Count the tables and codes among the buffers of a module of a captured model, and return their names."""
    found = set()
    for buffer, tensor in module._buffers.items():
        name, _, role = buffer.rpartition("_")
        table = module._buffers.get(f"{name}_lut")
        if tensor is None or role not in ("indices", "codes") or (role == "indices" and table is None):
            continue
        parts = _bits_of([table, *(module._buffers.get(f"{name}_{part}") for part in _PARTS)])
        width = _width(tensor) if table is None else _index_bits(table)
        mask = module._buffers.get(f"{name}_mask")
        elements = tensor.numel() * (1 if table is None else table.shape[-1])
        kept = 0 if mask is None or tensor.ndim != 1 else mask.numel()
        count.add(kept or elements, tensor.numel() * width + parts + kept, tensor, path)
        found.add(name)
    return found


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


def _count_held(model: nn.Module, count: _Count) -> None:
    """Count the codes and parameters of the quantized weights of a model prepared in eager mode."""
    for path, module in model.named_modules():
        held = held_by(module)
        for name, quantizer in held.named_children() if held is not None else ():
            if isinstance(quantizer, FakeQuantizeImplBase) and quantizer.is_state:
                with torch.no_grad():
                    _count_quantizer(quantizer, getattr(module, name).detach(), path, count)


def _count_prepared(model: nn.Module, arguments: Arguments, count: _Count) -> None:
    """Run the model once, and count the codes and parameters of every fake-quantizer of a weight."""

    def note(module: Any, args: tuple[Any, ...]) -> None:
        if module.is_state:
            _count_quantizer(module, args[0].detach(), next(iter(module.module_paths), ""), count)

    modules = [module for module in model.modules() if isinstance(module, FakeQuantizeImplBase)]
    handles = [module.register_forward_pre_hook(note) for module in modules]
    try:
        with mode_restored(model), torch.no_grad():
            model.eval()
            arguments.call(model)
    finally:
        for handle in handles:
            handle.remove()


def _count_quantizer(quantizer: FakeQuantizeImplBase, data: Tensor, path: str, count: _Count) -> None:
    scale, zero_point, minval = quantizer.qparams(data) or (None, None, None)
    scale = None if scale is None else stored_scale(scale, quantizer.spec, data.dtype)
    bits = data.numel() * quantizer.spec.n_bits + _bits_of([scale, minval])
    bits += 0 if zero_point is None else zero_point.numel() * quantizer.spec.n_bits
    count.add(data.numel(), bits, quantizer, path)


def _count_rest(model: nn.Module, count: _Count) -> None:
    """Count the weights without a quantizer, which keep their dtype."""
    whole = _Count()
    _count_modules(model, whole)
    for path, module in whole.by_module.items():
        quantized = count.by_module.setdefault(path, _Sum())
        rest = module.elements - quantized.elements
        if rest > 0:
            quantized.bits += module.bits * rest / module.elements
            quantized.elements += rest


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
                bits = _elements(value) * value.tensor_type.dtype.bits
                count.add(_elements(value), bits, value, node.location.module_path)
            elif _is_stored_weight(value):
                _count_stored(value, node.location.module_path, count)


def _count_stored(value: Value, path: str, count: _Count) -> None:
    parts = _parts(value)
    largest = max(parts, key=_elements)
    if id(largest) not in count.counted:
        new = (_elements(part) * width for part, width in parts.items() if id(part) not in count.counted)
        count.add(_elements(value), sum(new), largest, path)
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
            f"{type(model).__name__} has fake-quantizers, and its graph does not tell its inputs: pass example_inputs, "
            "a tuple of its positional arguments"
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
