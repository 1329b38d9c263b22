"""Folding of constant arithmetic in an exported program.

Core AI's converter folds constants of float32 and float16, except by some ops, and none of bfloat16: ``1 + weight`` of
a norm would be computed at every inference, and so would what a model computes from ``torch.ones`` or ``torch.arange``.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

_CONSTANT = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_SMALL_BYTES = 1 << 16


def fold_constants(program: ExportedProgram) -> None:
    """Replace nodes that compute from constants alone, or from nothing, by constants, in place.

    Compressed weights are not expanded, nor are constants that would take more bytes than those they replace, beyond
    64 KiB. Nodes that only rearrange elements remain, since a weight would be stored in another layout than the
    model's, except in bfloat16, where the converter leaves even the reshape of a bias to run time.
    """
    tensors = dict(_constants(program))
    computed: dict[fx.Node, Tensor] = {}
    known = ChainMap(computed, tensors)
    created = set[fx.Node]()  # those among the computed that depend on no constant of the model
    for node in program.graph.nodes:
        if node.op != "call_function" or not _is_foldable(node):
            continue
        if not all(each in known for each in node.all_input_nodes) or _creates_much(node):
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        with torch.no_grad():
            result = node.target(*args, **kwargs)
        read = sum(known[each].nbytes for each in node.all_input_nodes)
        if isinstance(result, Tensor) and result.nbytes <= max(read, _SMALL_BYTES):
            computed[node] = result
            if created.issuperset(node.all_input_nodes):
                created.add(node)
    for node, tensor in computed.items():
        is_index = node in created and not tensor.is_floating_point()  # or a mask: the converter makes it
        if any(user not in computed for user in node.users) and not is_index and _is_worthwhile(node, computed):
            _replace(program, node, tensor)
    program.graph.eliminate_dead_code()
    _drop_unused(program, set(tensors))
    program.graph_module.recompile()


_SAMPLED = frozenset(
    [
        "bartlett_window",
        "blackman_window",
        "fft_fftfreq",
        "fft_rfftfreq",
        "hamming_window",
        "hann_window",
        "kaiser_window",
    ]
)


def fold_samples(program: ExportedProgram) -> None:
    """Replace windows and frequencies, which no converter computes in all forms, by constants, in place."""
    nodes = [node for node in program.graph.nodes if _is_aten(node) and _name(node) in _SAMPLED]
    for node in nodes:
        if not node.all_input_nodes:
            _replace(program, node, node.target(*node.args, **node.kwargs))
    if nodes:
        program.graph.eliminate_dead_code()
        program.graph_module.recompile()


def _constants(program: ExportedProgram) -> Iterator[tuple[fx.Node, Tensor]]:
    """Yield placeholders of parameters, unmutated buffers and literals, with their tensors."""
    signature = program.graph_signature
    mutated = set(signature.buffers_to_mutate.values())
    placeholders = program.graph.find_nodes(op="placeholder")
    for node, spec in zip(placeholders, signature.input_specs, strict=True):
        if spec.kind in _CONSTANT and spec.target not in mutated:
            held = program.state_dict if spec.target in program.state_dict else program.constants
            tensor = held.get(spec.target)
            if type(tensor) in (Tensor, torch.nn.Parameter):
                yield node, tensor.detach()


def _is_aten(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"


def _is_foldable(node: fx.Node) -> bool:
    target: Any = node.target
    return (
        _is_aten(node)
        and not target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in target.tags
        and isinstance(node.meta.get("val"), Tensor)
    )


_CREATING = frozenset(["full", "ones", "zeros", "arange", "linspace", "eye", "scalar_tensor"])


def _creates_much(node: fx.Node) -> bool:
    """Return True for a node without operands, unless it creates a small tensor that depends on its numbers alone."""
    return not node.all_input_nodes and (_name(node) not in _CREATING or node.meta["val"].nbytes > _SMALL_BYTES)


def _name(node: fx.Node) -> str:
    name: str = node.target._schema.name.partition("::")[2]  # type: ignore[union-attr]
    return name


_REARRANGING = frozenset(["view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "slice"])


def _is_worthwhile(node: fx.Node, computed: dict[fx.Node, Tensor]) -> bool:
    """Return True if a computed node does arithmetic, or reshapes bfloat16; the converter creates tensors itself."""
    pending = [node]
    while pending:
        each = pending.pop()
        name = _name(each)
        is_reshape = name in ("view", "reshape", "unsqueeze") and each.meta["val"].dtype is torch.bfloat16
        if name in _CREATING:
            continue
        if name not in _REARRANGING or is_reshape:
            return True
        pending.extend(read for read in each.all_input_nodes if read in computed)
    return False


def _replace(program: ExportedProgram, node: fx.Node, tensor: Tensor) -> None:
    """Replace a node by a new buffer, whose placeholder comes first, or an output by a copy of it."""
    graph, name = program.graph, f"folded_{node.name}"
    with graph.inserting_before(next(iter(graph.nodes))):
        placeholder = graph.placeholder(name)
    placeholder.meta = {key: value for key, value in node.meta.items() if key in ("val", "tensor_meta")}
    spec: Any = InputSpec(InputKind.BUFFER, TensorArgument(placeholder.name), name, persistent=True)
    program.graph_signature.input_specs.insert(0, spec)
    program.state_dict[name] = tensor.contiguous().clone()
    if any(user.op == "output" for user in node.users):
        node.target, node.args, node.kwargs = torch.ops.aten.clone.default, (placeholder,), {}
    else:
        node.replace_all_uses_with(placeholder)


def _drop_unused(program: ExportedProgram, before: set[fx.Node]) -> None:
    """Remove the placeholders among `before` that nothing reads any more."""
    specs = program.graph_signature.input_specs
    for node, spec in zip(program.graph.find_nodes(op="placeholder"), list(specs), strict=True):
        if node in before and not node.users:
            specs.remove(spec)
            program.graph.erase_node(node)
