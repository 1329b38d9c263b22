"""Export of models as programs in the ops that the Core AI converter supports."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.fx.experimental.symbolic_shapes import statically_known_true

from graphpress.backends import exporting
from graphpress.backends.complexes import with_real_tensors
from graphpress.backends.constant_folding import fold_constants
from graphpress.backends.coreai.lowering import LowerToCoreai
from graphpress.backends.coreai.ops import require
from graphpress.backends.coreai.pt2e import with_stored_codes
from graphpress.backends.decompositions import (
    ELEMENTARY,
    REARRANGING,
    antialiased_bilinear,
    counted_mean_pool,
    covered_scatter,
    nearest,
    variance,
    variance_and_mean,
)
from graphpress.backends.errors import ConversionError
from graphpress.backends.exporting import export, head
from graphpress.backends.norms import without_norms
from graphpress.ir.errors import GraphpressError
from graphpress.ir.graph import Graph
from graphpress.ir.ops import Trait
from graphpress.ir.torch import to_exported_program
from graphpress.passes.analysis.facts import QUANTIZERS_CONVERTED
from graphpress.passes.framework import Pipeline, Runner


def exported(model: Any, example_inputs: Any, dynamic_shapes: Any) -> ExportedProgram:
    """Return the exported program of a model, in real tensors and Core AI's ops; a graph is lowered first, in a copy.

    Args:
        model: a module, which is exported in eval mode, a program, or a graph.
        example_inputs, dynamic_shapes: for a module, as for `export`.

    Raises:
        ConversionError: if torch cannot export the model, a graph has opaque ops, or `model` is of another type.
        FactError: for a graph with fake-quantizers.
        LoweringError: for compressed values that no backend can store.
    """
    return with_stored_codes(with_real_tensors(_exported(model, example_inputs, dynamic_shapes)))


def _exported(model: Any, example_inputs: Any, dynamic_shapes: Any) -> ExportedProgram:
    if isinstance(model, torch.nn.Module):
        return export(model, example_inputs, dynamic_shapes)
    if dynamic_shapes is not None:
        what = "program is exported already" if isinstance(model, ExportedProgram) else "graph has its own"
        raise ConversionError(f"dynamic_shapes belong to the export: this {what}")
    if isinstance(model, ExportedProgram):
        return model
    if isinstance(model, Graph):
        return _exported_graph(model)
    raise ConversionError(
        f"cannot convert a {type(model).__name__}: expected a module, an ExportedProgram or a graph of the IR"
    )


def _exported_graph(graph: Graph) -> ExportedProgram:
    opaque = sorted({node.op.name for node in graph.nodes if node.op.has(Trait.OPAQUE)})
    if opaque:
        raise ConversionError(
            f"the graph {graph.name} has opaque ops, which cannot be converted: {', '.join(opaque)}; accepted: ops "
            "of aten and quant, and those of the backends"
        )
    QUANTIZERS_CONVERTED.check(graph, "convert")
    lowered = Runner().run(graph, Pipeline(LowerToCoreai(), assume=[QUANTIZERS_CONVERTED])).graph
    try:
        return to_exported_program(lowered)
    except GraphpressError:
        raise
    except Exception as error:
        raise ConversionError(
            f"torch.export cannot trace the graph {graph.name}: {type(error).__name__}: {head(error)}"
        ) from error


def _norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    momentum: float,
    eps: float,
) -> Any:
    """Decompose a batch norm that is not folded, such as an instance norm's, so that its constants are computed here.

    The converter lacks norms without parameters. In 16 bits the mean is subtracted first, since products with values
    far from zero would be rounded.
    """
    factor = torch.rsqrt(var.float() + eps)
    factor = factor if weight is None else factor * weight.float()
    shape = [1, -1] + [1] * (x.dim() - 2)
    if x.dtype.itemsize > 2:
        shift = -mean * factor if bias is None else bias - mean * factor
        return x * factor.reshape(shape) + shift.reshape(shape), x.new_empty(0), x.new_empty(0)
    scaled = (x - mean.to(x.dtype).reshape(shape)) * factor.to(x.dtype).reshape(shape)
    shifted = scaled if bias is None else scaled + bias.to(x.dtype).reshape(shape)
    return shifted, x.new_empty(0), x.new_empty(0)


def _instance_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Any:
    """Decompose an instance norm with running statistics, which is a batch norm."""
    if use_input_stats or mean is None or var is None:
        return NotImplemented
    return _norm(x, weight, bias, mean, var, momentum, eps)[0]


def _convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *settings: Any) -> Any:
    """Add a bias of bfloat16 as a constant of the result's rank; the converter would reshape it at run time."""
    if bias is None or bias.dtype is not torch.bfloat16:
        return NotImplemented
    shape = [-1] + [1] * (x.dim() - 2)
    return torch.ops.aten.convolution.default(x, weight, None, *settings) + bias.reshape(shape)


def _as_strided(x: torch.Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Any:
    """Drop changes of strides that move no elements, as in torch's pooling to one element."""
    same = not storage_offset and list(x.shape) == list(size)
    moved = any(dim > 1 and has != wanted for dim, has, wanted in zip(size, x.stride(), stride, strict=same))
    return x if same and not moved else NotImplemented


def _select_scatter(x: torch.Tensor, source: torch.Tensor, dim: int, index: int) -> torch.Tensor:
    """Write one position, as a loop over time steps does, by an update of a slice of one.

    Torch selects every element of the result by a mask instead, after it has expanded what is written to all positions.
    """
    axis = dim % x.dim()
    start = index if index >= 0 else index + x.shape[axis]
    return torch.ops.aten.slice_scatter.default(x, source.unsqueeze(axis), axis, start, start + 1)


def _squeeze(x: torch.Tensor, dim: Sequence[int]) -> Any:
    """Leave out the axes that have more than one element, which torch keeps and the converter refuses."""
    axes = [axis for axis in dim if x.dim() and x.shape[axis] == 1]
    if len(axes) == len(dim):
        return NotImplemented
    return torch.ops.aten.squeeze.dims(x, axes) if axes else x.clone()


def _sort(x: torch.Tensor, dim: int = -1, descending: bool = False) -> Any:
    """Decompose a sort into top-k of all elements; ties are in any order."""
    return torch.topk(x, x.shape[dim], dim, descending)


def _stable_sort(x: torch.Tensor, *, stable: bool | None = False, dim: int = -1, descending: bool = False) -> Any:
    return NotImplemented if stable else _sort(x, dim, descending)


def _full(size: Sequence[Any], value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    """Fill in float32 and cast, since the converter fails to fill in bfloat16."""
    if dtype is not torch.bfloat16:
        return NotImplemented
    aten = torch.ops.aten
    return aten._to_copy.default(aten.full.default(size, value, dtype=torch.float32), dtype=dtype)


def _empty(size: Sequence[Any], *, dtype: torch.dtype | None = None, **_: Any) -> Any:
    """Fill memory that is written later, as in circular padding, with zeros, by the same detour."""
    return _full(size, 0.0, dtype=dtype)


def _of_all(reduce: Any) -> Callable[..., Any]:
    """Make the axes explicit: none means all."""

    def reduced(x: torch.Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> Any:
        return NotImplemented if dim or not x.dim() else reduce(x, list(range(x.dim())), keepdim)

    return reduced


_SPELLED_OUT: Mapping[Any, Callable[..., Any]] = {
    **ELEMENTARY,
    **REARRANGING,
    torch.ops.aten.var.correction: variance,
    torch.ops.aten.var_mean.correction: variance_and_mean,
    torch.ops.aten._native_batch_norm_legit_no_training.default: _norm,
    torch.ops.aten.instance_norm.default: _instance_norm,
    torch.ops.aten.convolution.default: _convolution,
    torch.ops.aten.as_strided.default: _as_strided,
    torch.ops.aten.full.default: _full,
    torch.ops.aten.empty.memory_format: _empty,
    torch.ops.aten.scatter_add.default: covered_scatter(torch.ops.aten.scatter.reduce, reduce="add"),
    torch.ops.aten.amax.default: _of_all(torch.ops.aten.amax.default),
    torch.ops.aten.amin.default: _of_all(torch.ops.aten.amin.default),
    torch.ops.aten.select_scatter.default: _select_scatter,
    torch.ops.aten.squeeze.dims: _squeeze,
    torch.ops.aten.sort.default: _sort,
    torch.ops.aten.sort.stable: _stable_sort,
    torch.ops.aten.argmin.default: lambda x, *where: torch.ops.aten.argmax.default(-x, *where),
    torch.ops.aten.avg_pool2d.default: counted_mean_pool(2),
    torch.ops.aten.avg_pool3d.default: counted_mean_pool(3),
    torch.ops.aten.upsample_nearest2d.vec: nearest(2),
    torch.ops.aten._upsample_bilinear2d_aa.vec: antialiased_bilinear,
}
"""Decompositions of ops that the converter lacks, supports in one form only, or computes incorrectly."""


def prepared(program: ExportedProgram) -> ExportedProgram:
    """Return the program without batch norms, as it is decomposed and compared with an asset.

    Raises:
        ConversionError: if torch cannot trace it.
    """
    return without_norms(program)


def decompose(program: ExportedProgram) -> ExportedProgram:
    """Return a copy of `program` in the ops that the converter supports.

    Raises:
        ConversionError: if an unsupported operator is left; names its source locations.
    """
    table = {**require("coreai_torch").get_decomp_table(), **_SPELLED_OUT}
    lowerings = require("coreai_torch._aten_to_core")._aten_to_core_resolver
    program = exporting.decompose(
        program, table, lambda op: str(op).removeprefix("aten.") in lowerings, "the Core AI converter"
    )
    _lower_casts(program)
    _sort_symbolic_sizes(program)
    _decide_symbolic_extremes(program)
    _add_axis_to_flat_products(program)
    fold_constants(program)
    _copy_repeated_outputs(program)
    return program


def _copy_repeated_outputs(program: ExportedProgram) -> None:
    """Copy a value that is returned again, since the converter keeps one output of each value."""
    (output,) = program.graph.find_nodes(op="output")
    specs, values = program.graph_signature.output_specs, list(output.args[0])
    for place, value in enumerate(values):
        if value not in values[:place]:
            continue
        with program.graph.inserting_before(output):
            values[place] = program.graph.call_function(torch.ops.aten.clone.default, (value,))
        values[place].meta = dict(value.meta)
        specs[place] = dataclasses.replace(specs[place], arg=TensorArgument(values[place].name))
    output.args = (tuple(values),)
    program.graph_module.recompile()


def _add_axis_to_flat_products(program: ExportedProgram) -> None:
    """Give products of flattened rows an axis of one, unless their results are reshaped at once.

    The converter moves such a reshape behind the product, also where an elementwise op reads the flat product beside
    another operand; it then ends the process, since the shapes differ.
    """
    aten = torch.ops.aten
    for node in program.graph.find_nodes(op="call_function", target=aten.mm.default):
        rows, matrix = node.args
        is_flattened = rows.target is aten.view.default and rows.args[0].meta["val"].dim() > 2
        if not is_flattened or all(user.target is aten.view.default for user in node.users):
            continue
        with program.graph.inserting_before(node):
            operands = [_called(aten.unsqueeze.default, each, 0) for each in (rows, matrix)]
            product = _called(aten.squeeze.dims, _called(aten.bmm.default, *operands), [0])
        product.meta = {**node.meta, "val": product.meta["val"]}
        node.replace_all_uses_with(product)
        program.graph.erase_node(node)
    program.graph_module.recompile()


def _called(target: Any, *args: Any) -> fx.Node:
    """Insert a call at the place of insertion, with the type and place of its first operand's."""
    (first, *_) = (each for each in args if isinstance(each, fx.Node))
    node = first.graph.call_function(target, args)
    values = [each.meta["val"] if isinstance(each, fx.Node) else each for each in args]
    node.meta = {**first.meta, "val": target(*values)}
    return node


def _sort_symbolic_sizes(program: ExportedProgram) -> None:
    """Give top-k of all of a symbolic number of elements the largest number, since the converter takes constants."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.topk.default):
        count = node.args[1]
        if isinstance(count, fx.Node):
            values, dim = node.args[0].meta["val"], node.args[2] if len(node.args) > 2 else -1
            if count.meta["val"] == values.shape[dim]:
                node.update_arg(1, torch.iinfo(torch.int32).max)


def _decide_symbolic_extremes(program: ExportedProgram) -> None:
    """Replace maxima and minima of sizes by the operand that their ranges decide, since the converter has neither."""
    for target, keeps in ((torch.sym_max, operator.ge), (torch.sym_min, operator.le)):
        for node in program.graph.find_nodes(op="call_function", target=target):
            sizes = [each.meta["val"] if isinstance(each, fx.Node) else each for each in node.args]
            for kept, other in ((0, 1), (1, 0)):
                if statically_known_true(keeps(sizes[kept], sizes[other])):
                    _replace_by(node, node.args[kept])
                    break
    program.graph_module.recompile()


def _replace_by(node: fx.Node, replacement: Any) -> None:
    """Replace a node by another or by a number, and erase it."""
    for user in list(node.users):
        user.args, user.kwargs = fx.map_arg(
            (user.args, user.kwargs), lambda read: replacement if read is node else read
        )
    node.graph.erase_node(node)


def _lower_casts(program: ExportedProgram) -> None:
    """Replace casts of floats to bool by comparisons, and truncate floats that are cast to integers and back.

    The converter drops both casts.
    """
    aten = torch.ops.aten
    for node in program.graph.find_nodes(op="call_function", target=aten._to_copy.default):
        source, cast = node.args[0], node.meta["val"]
        if cast.is_floating_point() or not source.meta["val"].is_floating_point():
            continue
        if cast.dtype is torch.bool:
            node.target, node.args, node.kwargs = aten.ne.Scalar, (source, 0), {}
        elif any(user.target is node.target and user.meta["val"].is_floating_point() for user in node.users):
            with program.graph.inserting_before(node):
                truncated = program.graph.call_function(aten.trunc.default, (source,))
            truncated.meta = dict(source.meta)
            node.update_arg(0, truncated)
