"""Emission of prepared and finalized graphs as modules, with constant expressions and folded layers as submodules.

Values that depend on constants only are outlined into a `ConstantExpression`. A layer with a folded batch norm becomes
a `BatchNormLayer`, so that training can use batch statistics. Parameters keep their names in the user's model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attrs import define, field
from torch import nn

from graphpress.backends.coreai.ops import has_exact_kernel
from graphpress.backends.coreml.metadata import ACTIVATIONS, describe
from graphpress.ir.collector import holding_collector
from graphpress.ir.graph import Graph, Node, Value
from graphpress.ir.ops import OpDef
from graphpress.ir.torch.emitted_module import EmittedModule
from graphpress.ir.torch.graph_module_writer import to_graph_module
from graphpress.modules.expressions import Operands, path_of, place_in, steps_to
from graphpress.modules.mapping import Mapped
from graphpress.passes.analysis.constants import constant_values
from graphpress.passes.analysis.layers import layer_of
from graphpress.passes.analysis.value_preserving import preserves_values
from graphpress.quantization.batch_norm import BatchNormLayer, FoldedNorm
from graphpress.quantization.expressions import ConstantExpression, QuantizedStep
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase, FixedFakeQuantize
from graphpress.quantization.finalized_ops import (
    IntegerConvolution,
    QuantizeExactly,
    TorchQuantizeDequantize,
)
from graphpress.quantization.mode_ops import mode_op

# Represents a submodule call during emission; it is not in the op tables.
_MODULE_CALL = OpDef("module.call", variadic=True)


@holding_collector
def emit_prepared(
    graph: Graph, quantizers: Mapping[str, FakeQuantizeImplBase], *, copy_constants: bool
) -> EmittedModule:
    """Emit the prepared model of `graph`, which is not changed; `quantizers` maps quantizer names to modules."""
    outlined = graph.clone()
    return _emit(outlined, _Outliner(outlined, quantizers, follows_mode=True), copy_constants)


def _emit(outlined: Graph, outliner: _Outliner, copy_constants: bool) -> EmittedModule:
    outliner.run()
    placed: set[str] = set()

    def module_for(node: Node) -> tuple[str, nn.Module, list[Value]] | None:
        if node.op is _MODULE_CALL:
            path = node.attributes["path"]
            return path, outliner.modules[path], [value for _, _, value in node.operand_values()]
        if node.op.name == "quant.fake_quantize":
            quantizer = outliner.quantizers[node.attribute("quantizer")]
            further = [True] if quantizer.name in placed else []
            placed.add(quantizer.name)
            return f"quantizers.{quantizer.name}", quantizer, [node.operands["input"], *further]
        if node.op.name == "coreml_metadata.quantize_dequantize":
            attributes = node.attributes
            module = TorchQuantizeDequantize(
                attributes["scale"], attributes["zero_point"], ACTIVATIONS[attributes["dtype"]]
            )
            return f"activations.{node.name}", module, [node.operands["input"]]
        return None

    return to_graph_module(outlined, module_for=module_for, copy_constants=copy_constants)


@holding_collector
def emit_finalized(graph: Graph, *, mmap_dir: str | None = None) -> EmittedModule:
    """Emit the finalized model of a lowered graph.

    Stored weights are expanded once in eval mode, and inline in exported programs.
    """
    Mapped(mmap_dir).map_constants(graph)
    outlined = graph.clone()
    module = _emit(outlined, _Outliner(outlined, {}, follows_mode=False), copy_constants=False)
    module.requires_grad_(False)
    return module.eval()


@holding_collector
def emit_for_torch(
    graph: Graph, quantizers: Mapping[str, FakeQuantizeImplBase], mmap_dir: str | None = None
) -> EmittedModule:
    """Emit the finalized model of a graph with dense weights, and fake-quantizers with fixed parameters."""
    Mapped(mmap_dir).map_constants(graph)
    fixed: dict[str, FixedFakeQuantize] = {}
    for node in graph.nodes_of(lambda op: op.name == "quant.fake_quantize"):
        quantizer = quantizers[node.attribute("quantizer")]
        with torch.no_grad():
            qparams = quantizer.qparams()
        assert qparams is not None
        fixed.setdefault(quantizer.name, FixedFakeQuantize.of(quantizer, qparams))
    outlined = graph.clone()
    module = _emit(outlined, _Outliner(outlined, fixed, follows_mode=False), copy_constants=False)
    module.requires_grad_(False)
    return module.eval()


@define(eq=False)
class _Outliner:
    graph: Graph
    quantizers: Mapping[str, FakeQuantizeImplBase] | Mapping[str, FixedFakeQuantize]
    follows_mode: bool  # whether ops that differ in training become modules
    modules: dict[str, nn.Module] = field(factory=dict)
    _constant: set[int] = field(init=False)
    _made: dict[int, Value] = field(factory=dict)

    def run(self) -> None:
        """Outline the graph, then remove dead nodes."""
        self._constant = constant_values(self.graph)
        for node in self.graph.nodes:
            if node.results and all(id(result) in self._constant for result in node.results):
                continue
            if not (self._outline_layer(node) or self._outline_integers(node)):
                self._outline_operands(node)
                self._outline_inexact_codes(node)
                self._outline_mode(node)
        for output in self.graph.outputs:
            if output.value is not None and self._is_expression(output.value):
                self.graph.set_output(output, self._call_expression(output.value, None))
        for node in reversed(self.graph.nodes):
            if node.is_dead:
                self.graph.erase(node)

    def _is_expression(self, value: Value) -> bool:
        return id(value) in self._constant and value.node is not None

    def _outline_operands(self, node: Node) -> None:
        for name, index, value in list(node.operand_values()):
            if not self._is_expression(value):
                continue
            call = self._call_expression(value, node)
            if index is None:
                self.graph.set_operand(node, name, call)
            else:
                items = list(node.operands[name])
                items[index] = call
                self.graph.set_operand(node, name, items)

    def _call_expression(self, value: Value, before: Node | None) -> Value:
        made = self._made.get(id(value))
        if made is None:
            arguments: list[Value] = []
            expression = self._expression(value, arguments)
            producer = value.node
            assert producer is not None
            path = f"expressions.{producer.name}"
            made = self._call(path, expression, arguments, producer, before, results=[value]).result
            self._made[id(value)] = made
            self._constant.discard(id(made))
        return made

    def _outline_layer(self, node: Node) -> bool:
        """Replace a layer with exactly one folded batch norm by a trainable module."""
        layer = layer_of(node)
        weight, bias, input = node.operand("weight"), node.operand("bias"), node.operand("input")
        if layer is None or weight is None or bias is None or input is None or not self._is_expression(weight):
            return False
        bias_node, after_norm = _through_channel_maps(bias)
        if bias_node is None or bias_node.op.name != "fold.batch_norm_bias" or id(input) in self._constant:
            return False
        factor = bias_node.operands["factor"].node
        layer_bias = bias_node.operand("bias")
        if factor.op.name != "fold.batch_norm_factor" or (layer_bias is not None and layer_bias.constant is None):
            return False
        arguments: list[Value] = []
        weight_module = self._expression(weight, arguments)
        weight_arguments = tuple(range(len(arguments)))
        if sum(step.op.name == "fold.batch_norm_factor" for step in weight_module.steps) != 1:
            return False
        bias_module = self._expression(bias, bias_reads := list[Value]())
        norm = FoldedNorm(
            running_var=place_in(arguments, factor.operands["running_var"]),
            running_mean=place_in(arguments, bias_node.operands["running_mean"]),
            weight=_place_optional(factor.operand("weight"), arguments),
            bias=_place_optional(bias_node.operand("norm_bias"), arguments),
            layer_bias=_place_optional(layer_bias, arguments),
            eps=factor.attribute("eps"),
            momentum=factor.attribute("momentum"),
            after=tuple((is_scale, place_in(arguments, value)) for is_scale, value in after_norm),
        )
        module = BatchNormLayer(
            node.op,
            node.attributes,
            norm,
            (weight_module, weight_arguments),
            (bias_module, tuple(place_in(arguments, value) for value in bias_reads)),
        )
        module.module_paths = tuple(origin.module_path for origin in node.location.origins)
        call = self._call(f"layers.{node.name}", module, [input, *arguments], node, node)
        self.graph.replace_uses(node.result, call.result)
        return True

    def _outline_integers(self, node: Node) -> bool:
        """Replace a convolution of dequantized values and a dequantized weight by a module with exact sums."""
        found = integer_operands(node)
        if found is None or not self._is_expression(node.operands["weight"]):
            return False
        scale, shift_scale = found
        constants: list[Value] = []
        weight = self._expression(shift_scale.result, constants)
        weight_arguments = tuple(range(len(constants)))
        codes = self._expression(shift_scale.operands["input"], code_reads := list[Value]())
        bias = node.operand("bias")
        module = IntegerConvolution(
            node.op,
            node.attributes,
            (weight, weight_arguments),
            (codes, tuple(place_in(constants, value) for value in code_reads)),
            place_in(constants, shift_scale.operands["scale"]),
            has_bias=bias is not None,
        )
        activation = [node.operands["input"], scale]
        optional = [] if bias is None else [bias]
        call = self._call(f"layers.{node.name}", module, [*activation, *optional, *constants], node, node)
        self.graph.replace_uses(node.result, call.result)
        return True

    def _outline_inexact_codes(self, node: Node) -> None:
        """Replace quantization that torch's kernel lacks, or rounds twice, by a module that is exact."""
        if node.op.name != "coreai.quantize":
            return
        if has_exact_kernel(node.attribute("output_dtype"), node.operands["scale"].tensor_type.dtype.torch_dtype):
            return
        optional = [node.operand(name) for name in ("zero_point", "minval")]
        module = QuantizeExactly(
            node.attribute("output_dtype"),
            node.attribute("axis"),
            has_zero_point=optional[0] is not None,
            has_minval=optional[1] is not None,
        )
        values = [node.operands["input"], node.operands["scale"], *(value for value in optional if value is not None)]
        call = self._call(f"codes.{node.name}", module, values, node, node)
        self.graph.replace_uses(node.result, call.result)

    def _outline_mode(self, node: Node) -> None:
        """Replace an op that differs in training by a module that follows the model's mode."""
        module = mode_op(node) if self.follows_mode else None
        if module is None:
            return
        values = [value for _, _, value in node.operand_values()]
        call = self._call(f"layers.{node.name}", module, values, node, node)
        for old, new in zip(node.results, call.results, strict=True):
            self.graph.replace_uses(old, new)

    def _expression(self, value: Value, arguments: list[Value]) -> ConstantExpression:
        """Create the module that computes `value`, and append the constants it reads to `arguments`."""
        quantizers: list[FakeQuantizeImplBase] = []

        def step(made: Value, operands: Operands) -> QuantizedStep:
            node, quantizer = made.node, None
            assert node is not None
            if node.op.name == "quant.fake_quantize":
                module = self.quantizers[node.attribute("quantizer")]
                assert isinstance(module, FakeQuantizeImplBase)
                quantizer = place_in(quantizers, module)
            return QuantizedStep(node.op, operands, tuple(node.attributes.items()), path_of(made), quantizer)

        return ConstantExpression(steps_to(value, arguments, step), quantizers)

    def _call(
        self,
        path: str,
        module: nn.Module,
        arguments: list[Value],
        like: Node,
        before: Node | None,
        results: Sequence[Value] = (),
    ) -> Node:
        """Insert a call of `module` that stands for `results`, or for all results of `like`."""
        while path in self.modules:
            path += "_"
        self.modules[path] = module
        operands = {f"arg{i}": value for i, value in enumerate(arguments)}
        types = [result.type for result in results or like.results]
        return self.graph.insert(
            _MODULE_CALL, operands, {"path": path}, types, name=like.name, location=like.location, before=before
        )


def _through_channel_maps(bias: Value) -> tuple[Node | None, list[tuple[bool, Value]]]:
    """Return the producer of a bias before constants scale (True) or shift (False) its channels, and the constants."""
    node, maps = bias.node, list[tuple[bool, Value]]()
    while node is not None and node.op.name in ("fold.scale_axis", "fold.shift_bias"):
        is_scale = node.op.name == "fold.scale_axis"
        value, before = node.operands["factor" if is_scale else "shift"], node.operand("input" if is_scale else "bias")
        if value.constant is None or before is None:
            return None, []
        maps.insert(0, (is_scale, value))
        node = before.node
    return node, maps


def integer_operands(node: Node) -> tuple[Value, Node] | None:
    """Return the input's scale and the weight's dequantize node of a lowered integer convolution, or None.

    The input has one scale, the weight one, or one per output channel.
    """
    if node.op.name not in ("aten.conv1d", "aten.conv2d"):
        return None
    scale, shift_scale, bias = grid_of(node.operands["input"]), node.operands["weight"].node, node.operand("bias")
    if scale is None or shift_scale is None or shift_scale.op.name != "coreai.constexpr_blockwise_shift_scale":
        return None
    if shift_scale.operand("zero_point") is not None or not _are_integers(shift_scale):
        return None
    per_channel = all(extent == 1 for extent in shift_scale.operands["scale"].tensor_type.shape[1:])
    constant_bias = bias is None or bias.constant is not None
    return (scale, shift_scale) if per_channel and constant_bias else None


def grid_of(value: Value) -> Value | None:
    """Return the scale of which all elements of a lowered `value` are integer multiples, or None."""
    scales: dict[int, Value] = {}
    seen, pending = set[int](), [value]
    while pending:
        value = pending.pop()
        node = value.node
        if id(value) in seen or not value.is_floating:  # indices and sizes only select and arrange elements
            continue
        seen.add(id(value))
        if node is not None and node.op.name == "coreai.dequantize" and _are_integers(node):
            scales[id(node.operands["scale"])] = node.operands["scale"]
        elif node is not None and preserves_values(node):
            pending.extend(read for _, _, read in node.operand_values())
        else:
            return None
    scale = next(iter(scales.values())) if len(scales) == 1 else None
    return scale if scale is not None and scale.tensor_type.shape in ((), (1,)) else None


def _are_integers(dequantize: Node) -> bool:
    """Return True if a dequantize node reads integer codes of stated type and adds no minimum value."""
    return dequantize.attributes.get("input_dtype") is not None and dequantize.operand("minval") is None


def _place_optional(value: Value | None, arguments: list[Value]) -> int | None:
    return None if value is None else place_in(arguments, value)


def emit_for_coreml(graph: Graph, mmap_dir: str | None = None) -> nn.Module:
    """Emit the finalized model for coremltools, with float weights and metadata buffers."""
    described: dict[str, dict[str, Value]] = {}
    for node in graph.nodes_of(lambda op: op.name == "coreml_metadata.described"):
        weight = node.operands["weight"]
        described[weight.constant.name] = dict(zip(node.attribute("keys"), node.operands["entries"], strict=True))
        graph.replace_uses(node.result, weight)
        graph.erase(node)
    tensors = {
        name: {key: value.constant.tensor for key, value in entries.items() if value.constant is not None}
        for name, entries in described.items()
    }
    for entries in described.values():
        for value in entries.values():
            if value.constant is not None and not value.use_count:
                graph.erase_constant(value.constant)
    module = emit_finalized(graph, mmap_dir=mmap_dir)
    for name, found in tensors.items():
        path, _, parameter = name.rpartition(".")
        describe(module, module.get_submodule(path), parameter, found)
    return module
