"""Verification of a saved model's content: weights bit for bit, operators, bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from attrs import frozen

from graphpress.backends.coreai.raising import RaiseFromCoreai
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.interpreter import evaluate_node
from graphpress.ir.ops import Trait
from graphpress.passes.cse import Cse
from graphpress.passes.dce import Dce
from graphpress.passes.framework.pipeline import Pipeline
from graphpress.passes.framework.runner import Runner

COMPRESSED = ("blockwise_shift_scale", "lut_to_dense", "sparse_to_dense", "quantize", "dequantize")
_NORMS = ("batch_norm", "_native_batch_norm_legit_no_training")


@frozen
class WeightCheck:
    """A weight of the model, and whether the saved model has it.

    Attributes:
        name: the name of the value in the model's graph.
        shape: the shape of the weight.
        same: True if the saved model has the same bits, in this shape or transposed; None if the converter may have
            folded a following norm into the layer, so that the bits are not comparable.
    """

    name: str
    shape: tuple[int, ...]
    same: bool | None


def reference(graph: Graph) -> Graph:
    """Return the model's graph in the ops that a saved model is read back in, without what it does not store."""
    return Runner().run(graph, Pipeline(RaiseFromCoreai(), Cse(), Dce())).graph


def compare_weights(meant: Graph, stored: Graph) -> tuple[WeightCheck, ...]:
    """Return, for each weight of `meant` that an op on activations reads, whether `stored` has it."""
    found: dict[int, list[torch.Tensor]] = {}
    for _, tensor in _constant_values(stored).values():
        found.setdefault(tensor.numel(), []).append(tensor)
    checks = []
    values = _constant_values(meant)
    for value, tensor in values.values():
        readers = [node for node in _readers(value) if not _is_constant(node, values)]
        if tensor.dim() < 2 or not tensor.is_floating_point() or not readers:
            continue
        same: bool | None = any(_equal(tensor, each) for each in found.get(tensor.numel(), ()))
        if not same and any(map(_before_norm, readers)):
            same = None
        checks.append(WeightCheck(_name(value), tuple(tensor.shape), same))
    return tuple(checks)


def compressing_ops(graph: Graph) -> Mapping[str, int]:
    """Count the ops that unpack a weight or quantize an activation, by kind."""
    counts = Counter(node.op.short_name for node in graph.nodes if node.op.dialect in ("quant", "coreai"))
    return {name: counts[name] for name in COMPRESSED if counts[name]}


def constant_bytes(graph: Graph) -> int:
    """Return the packed size of the constants: the sum of ``ceil(numel * bits / 8)``."""
    constants = [constant for constant in graph.constants.values() if constant.value.use_count]
    return sum(-(-constant.tensor.numel() * _bits(constant.value) // 8) for constant in constants)


def _bits(value: Value) -> int:
    """Return the bits per element; a container of codes has the width that its reader declares."""
    widths = [value.tensor_type.dtype.bits]
    for node in _readers(value):
        if node.op.name == "quant.blockwise_shift_scale" and node.operands["input"] is value:
            widths.append(node.attribute("dtype").bits)
        if node.op.name == "quant.lut_to_dense" and node.operands["indices"] is value:
            widths.append((node.operands["lut"].tensor_type.shape[-2] - 1).bit_length())
        if node.op.name == "quant.sparse_to_dense" and node.operands["mask"] is value:
            widths.append(1)
    return max(1, min(widths))


def _constant_values(graph: Graph) -> dict[Value, tuple[Value, torch.Tensor]]:
    """Return the values that depend on constants only, with their data."""
    known: dict[Value, tuple[Value, torch.Tensor]] = {
        constant.value: (constant.value, constant.tensor.detach()) for constant in graph.constants.values()
    }
    for node in graph.nodes:
        operands = [value for _, _, value in node.operand_values()]
        if not operands or node.op.has(Trait.OPAQUE) or any(value not in known for value in operands):
            continue
        for result, tensor in zip(node.results, evaluate_node(node, lambda value: known[value][1]), strict=True):
            if isinstance(tensor, torch.Tensor):
                known[result] = (result, tensor.detach())
    return known


def _is_constant(node: Node, values: Mapping[Value, object]) -> bool:
    return all(result in values for result in node.results)


def _equal(meant: torch.Tensor, stored: torch.Tensor) -> bool:
    """Compare bit for bit, ignoring transposed layouts and 1-D kernels stored as 2-D ones."""
    return any(_same_bits(meant, each) for each in _arrangements(stored, meant.shape))


def _arrangements(stored: torch.Tensor, shape: torch.Size) -> Iterator[torch.Tensor]:
    squeezed = [dim for dim in shape if dim != 1]
    stored = stored.squeeze()
    if list(stored.shape) == squeezed:
        yield stored.reshape(shape)
    if stored.dim() == 2 and list(stored.shape[::-1]) == squeezed:
        yield stored.t().reshape(shape)


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def _readers(value: Value) -> list[Node]:
    return [use.user for use in value.uses if isinstance(use.user, Node)]


def _before_norm(node: Node) -> bool:
    return any(reader.op.family in _NORMS for result in node.results for reader in _readers(result))


def _name(value: Value) -> str:
    return value.constant.name if value.constant is not None else value.name
