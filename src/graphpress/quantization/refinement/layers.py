"""The layers of a prepared model with optimizable weight rounding or correctable bias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor, fx

from graphpress.ir.ops import OpDef, OpError, op_of_target
from graphpress.layer_inputs import LayerMatrix
from graphpress.modules.expressions import Slot
from graphpress.quantization.batch_norm import BatchNormLayer
from graphpress.quantization.expressions import ConstantExpression
from graphpress.quantization.fake_quantize import FakeQuantize, FakeQuantizeImplBase
from graphpress.quantization.refinement.running import is_constant_node
from graphpress.quantization.switches import quantizers_of

LAYERS = frozenset({"linear"} | {f"conv{d}d" for d in (1, 2, 3)} | {f"conv_transpose{d}d" for d in (1, 2, 3)})


@frozen
class RefinableLayer:
    """A layer whose weight expression ends with a fake-quantizer.

    Attributes:
        node: the call of the layer.
        input: the producer of its input.
        quantizer: the fake-quantizer of its weight.
        matrix: its matrix form.
        read_weight: returns the weight before the quantizer.
        correction: the buffer that is added to its bias, or None.
        shares_quantizer: True if another layer uses the same quantizer.
    """

    node: fx.Node
    input: fx.Node
    quantizer: FakeQuantizeImplBase
    matrix: LayerMatrix
    read_weight: Callable[[], Tensor]
    correction: Tensor | None
    shares_quantizer: bool = False

    @property
    def takes_codes(self) -> bool:
        """True if codes can be chosen: the quantizer supports this and is not shared."""
        return isinstance(self.quantizer, FakeQuantize) and not self.shares_quantizer

    def channel_means(self, output: Tensor) -> tuple[Tensor, int]:
        """Return float64 sums of `output` per channel, and the number of elements of each."""
        axis = output.ndim - 1 - self.matrix.spatial
        others = [i for i in range(output.ndim) if i != axis]
        sums = output.detach().double().sum(others) if others else output.detach().double()
        return sums.cpu(), output.numel() // max(1, output.shape[axis])


def refinable_layers(module: fx.GraphModule) -> list[RefinableLayer]:
    """Return the layers in execution order."""
    found = [layer for node in module.graph.nodes if (layer := _layer(module, node)) is not None]
    uses = _uses_of_quantizers(module)
    return [evolve(layer, shares_quantizer=uses[id(layer.quantizer)] > 1) for layer in found]


def activation_quantizers(module: fx.GraphModule) -> Iterator[tuple[fx.Node, FakeQuantizeImplBase]]:
    """Yield each activation quantizer that has parameters, with the first node that calls it, in execution order."""
    seen: set[int] = set()
    for node in module.graph.nodes:
        called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(called, FakeQuantizeImplBase) and not called.is_state and id(called) not in seen:
            seen.add(id(called))
            if called.qparams() is not None:
                yield node, called


def _uses_of_quantizers(module: fx.GraphModule) -> Counter[int]:
    """Count the nodes that read the result of each quantizer, such as an embedding and the layer it is tied to."""
    uses: Counter[int] = Counter()
    for node in module.graph.nodes:
        called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if called is not None:
            readers = len(node.users) if isinstance(called, ConstantExpression) else 1
            uses.update({id(quantizer): readers for quantizer in quantizers_of(called)})
    return uses


def correction_buffers(module: fx.GraphModule) -> list[Tensor]:
    """Return the buffers of the bias corrections of all layers."""
    return [layer.correction for layer in refinable_layers(module) if layer.correction is not None]


def _layer(module: fx.GraphModule, node: fx.Node) -> RefinableLayer | None:
    if node.op == "call_module":
        called = module.get_submodule(str(node.target))
        return _folded(module, node, called) if isinstance(called, BatchNormLayer) else None
    if node.op != "call_function":
        return None
    op = _op(node)
    if op is None or op.short_name not in LAYERS:
        return None
    bound = op.bind(node.args, node.kwargs)
    weight, input = bound.get("weight"), bound.get("input")
    if not (isinstance(weight, fx.Node) and isinstance(input, fx.Node)) or is_constant_node(module, input):
        return None
    expression = _expression(module, weight)
    if expression is None:
        return None
    correction = None
    if isinstance(bias := bound.get("bias"), fx.Node):
        correction = _correction(module, bias)
    return _make(module, node, input, op, bound, expression, list(weight.args), correction)  # type: ignore[arg-type]


def _folded(module: fx.GraphModule, node: fx.Node, layer: BatchNormLayer) -> RefinableLayer | None:
    parameters: list[fx.Node] = list(node.args[1:])  # type: ignore[arg-type]
    input = node.args[0]
    if not isinstance(input, fx.Node) or layer.op.short_name not in LAYERS:
        return None
    arguments = [parameters[i] for i in layer.weight_arguments]
    shift = _shift(layer.bias, [parameters[i] for i in layer.bias_arguments])
    correction = None if shift is None else attribute(module, shift)
    return _make(module, node, input, layer.op, layer.attributes, layer.weight, arguments, correction)


def _make(
    module: fx.GraphModule,
    node: fx.Node,
    input: fx.Node,
    op: OpDef,
    attributes: dict[str, Any],
    expression: ConstantExpression,
    arguments: Sequence[fx.Node],
    correction: Tensor | None,
) -> RefinableLayer | None:
    steps = expression.steps
    if not steps or steps[-1].quantizer is None or len(expression.quantizers) != 1:
        return None
    quantizer = expression.quantizers[steps[-1].quantizer]
    assert isinstance(quantizer, FakeQuantizeImplBase)

    def read_weight() -> Tensor:
        before = quantizer.fake_quant_enabled
        quantizer.fake_quant_enabled = False
        try:
            with torch.no_grad():
                return expression.compute(*(attribute(module, argument) for argument in arguments)).detach()
        finally:
            quantizer.fake_quant_enabled = before

    matrix = LayerMatrix.of(op.short_name, read_weight().shape, attributes)
    return RefinableLayer(node, input, quantizer, matrix, read_weight, correction)


def _op(node: fx.Node) -> OpDef | None:
    try:
        return op_of_target(node.target)  # type: ignore[arg-type]
    except OpError:
        return None


def _expression(module: fx.GraphModule, node: fx.Node) -> ConstantExpression | None:
    if node.op != "call_module":
        return None
    called = module.get_submodule(str(node.target))
    plain = all(isinstance(argument, fx.Node) and argument.op == "get_attr" for argument in node.args)
    return called if isinstance(called, ConstantExpression) and plain else None


def _correction(module: fx.GraphModule, bias: fx.Node) -> Tensor | None:
    expression = _expression(module, bias)
    shift = None if expression is None else _shift(expression, list(bias.args))  # type: ignore[arg-type]
    return None if shift is None else attribute(module, shift)


def _shift(expression: ConstantExpression, arguments: Sequence[fx.Node]) -> fx.Node | None:
    """Return the argument that the last step of a bias expression adds."""
    if not expression.steps or expression.steps[-1].op.name != "fold.shift_bias":
        return None
    slot = dict(expression.steps[-1].operands)["shift"]
    return arguments[slot.index] if isinstance(slot, Slot) and slot.is_argument else None


def attribute(module: fx.GraphModule, node: fx.Node) -> Tensor:
    """Return the parameter or buffer that a node reads."""
    owner, _, name = str(node.target).rpartition(".")
    value: Tensor = getattr(module.get_submodule(owner), name)
    return value
