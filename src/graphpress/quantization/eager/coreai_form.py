"""An eagerly quantized model in the form that `torch.export` and the Core AI converter keep packed."""

from __future__ import annotations

from typing import Any

import torch
from attrs import define
from torch import Tensor, nn

from graphpress import pipelines
from graphpress.backends.coreai import register
from graphpress.backends.coreai.ops import quantize
from graphpress.backends.errors import LoweringError
from graphpress.export_backend import ExportBackend
from graphpress.ir import reference
from graphpress.ir.dtypes import DType
from graphpress.ir.graph import Constant, Graph
from graphpress.ir.ops import lookup_op
from graphpress.ir.types import TensorType
from graphpress.modules.forms import ParameterForm, set_form
from graphpress.modules.mapping import Mapped
from graphpress.passes.analysis.facts import CONSTANTS_FOLDED, QUANTIZERS_INSERTED
from graphpress.passes.convert_fake_quant import ConvertFakeQuant
from graphpress.passes.framework import Pipeline, Runner
from graphpress.passes.weights.quantize import QParams, stored_scale
from graphpress.quantization.eager.finalizing import QuantizedParameter, copied, settle_activations
from graphpress.quantization.eager.quantized_module import HELD
from graphpress.quantization.expressions import ConstantExpression
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.outlining import constant_expression

ACTIVATION_DTYPES = frozenset(
    {DType.INT4, DType.UINT4, DType.INT8, DType.UINT8, DType.FLOAT8_E4M3FN, DType.FLOAT8_E5M2}
)


def stored_for_coreai(prepared: nn.Module, mmap_dir: str | None = None) -> nn.Module:
    """A copy of `prepared` whose weights are codes, and whose activations are quantized and dequantized.

    Raises:
        MissingDependencyError: when the Core AI converter is not installed.
        LoweringError: for something Core AI cannot store.
    """
    register()
    model, parameters = copied(prepared)
    _store(parameters, mmap_dir)
    settle_activations(model, QuantizeDequantize.of)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


@define(eq=False, slots=False)
class StoredParameter(ParameterForm):
    """A parameter that exists only as codes, which the module holds under its name."""

    name: str

    def value(self, module: nn.Module) -> Tensor:
        """The parameter, dequantized."""
        dense: Tensor = module._modules[HELD]._modules[self.name]()  # type: ignore[union-attr,misc]
        return dense


class StoredWeight(nn.Module):
    """Codes of a weight as buffers, and the expression that makes it of them. Evaluation keeps the result."""

    def __init__(self, expression: ConstantExpression, constants: list[Constant]):
        super().__init__()
        self.expression = expression
        self.names: list[str] = []
        for constant in constants:
            name = constant.name.rpartition(".")[2]
            while name in self._buffers:
                name += "_"
            self.register_buffer(name, constant.tensor)
            self.names.append(name)

    def forward(self) -> Tensor:
        """The weight."""
        weight: Tensor = self.expression(*(self._buffers[name] for name in self.names))
        return weight


class QuantizeDequantize(nn.Module):
    """``coreai.quantize`` and ``coreai.dequantize`` with the parameters of a fake-quantizer, which it equals.

    Buffers: `scale` (one entry, or one for each index along `axis`), and where there are such `zero_point`, in the
    dtype of the codes, `minval`, and `low` and `high`, the values of the lowest and highest code that may be used.
    """

    def __init__(self, dtype: DType, axis: int, **buffers: Tensor | None):
        super().__init__()
        self.dtype = dtype
        self.axis = axis
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    @classmethod
    def of(cls, quantizer: FakeQuantizeImplBase, qparams: QParams) -> QuantizeDequantize:
        """What `quantizer` becomes.

        Raises:
            LoweringError: for a dtype or granularity that Core AI has for no activations.
        """
        dtype = quantizer.spec.element_type
        if dtype not in ACTIVATION_DTYPES:
            names = ", ".join(sorted(each.long_name for each in ACTIVATION_DTYPES))
            raise LoweringError(
                f"{quantizer.name}: Core AI stores no activations of {dtype.long_name}; accepted: {names}"
            )
        scale, zero_point, minval = (None if p is None else p.detach().clone() for p in qparams)
        assert scale is not None
        wide = [axis for axis, extent in enumerate(scale.shape) if extent != 1]
        block = quantizer.calculator.block_size
        if len(wide) > 1 or (wide and block[wide[0]] != 1):
            raise LoweringError(
                f"{quantizer.name}: Core AI quantizes activations per tensor or per channel, not in blocks"
            )
        bounds = _bounds(quantizer, scale, zero_point, minval)
        codes = None if zero_point is None else zero_point.round().to(dtype.torch_dtype)
        flat = {"scale": scale, "zero_point": codes, "minval": minval}
        named = {name: None if p is None else p.reshape(-1) for name, p in flat.items()}
        return cls(dtype, wide[0] if wide else 0, **named, **bounds)

    def forward(self, data: Tensor) -> Tensor:
        """`data` as its codes stand for it, in its own dtype."""
        ops: Any = torch.ops.coreai
        scale, zero_point, minval = (self._buffers[name] for name in ("scale", "zero_point", "minval"))
        assert scale is not None
        values = data if data.dtype is scale.dtype else data.to(scale.dtype)
        low, high = self._buffers["low"], self._buffers["high"]
        if low is not None or high is not None:
            values = values.clamp(low, high)
        if self.dtype.is_dense or torch.compiler.is_compiling():
            codes = ops.quantize(values, scale, self.dtype.torch_scalar_type, zero_point, minval, self.axis)
        else:
            codes = quantize(values, scale, self.dtype, zero_point, minval, self.axis)
        made: Tensor = ops.dequantize(codes, scale, zero_point, minval, self.axis, self.dtype.torch_scalar_type, None)
        return made if made.dtype is data.dtype else made.to(data.dtype)

    def extra_repr(self) -> str:
        """The element type of the codes."""
        return self.dtype.long_name


def _bounds(
    quantizer: FakeQuantizeImplBase, scale: Tensor, zero_point: Tensor | None, minval: Tensor | None
) -> dict[str, Tensor | None]:
    """The values of the outermost codes where the spec leaves codes of its dtype unused; else None."""
    spec, dtype = quantizer.spec, quantizer.spec.element_type
    lowest, highest = spec.quant_min, spec.quant_max
    if dtype.is_floating or (lowest == dtype.minimum and highest == dtype.maximum):
        return {"low": None, "high": None}
    if minval is not None:  # codes count up from it, whichever the lowest is
        lowest, highest = dtype.minimum, dtype.minimum + highest - lowest
    used = {"low": (lowest, dtype.minimum), "high": (highest, dtype.maximum)}
    return {
        name: None
        if code == usual
        else reference.dequantize(torch.full_like(scale, code), scale, zero_point, minval, dtype=dtype)
        for name, (code, usual) in used.items()
    }


def _store(parameters: list[QuantizedParameter], mmap_dir: str | None) -> None:
    """Replace parameters by their codes, through the passes of graph mode. Tied ones share them."""
    graph = Graph("weights")
    places: dict[int, int] = {}
    for parameter in parameters:
        if id(parameter.quantizer) not in places:
            places[id(parameter.quantizer)] = len(places)
            _add(graph, parameter)
    steps = Pipeline(
        ConvertFakeQuant(),
        *pipelines.lowering(ExportBackend.CoreAI),
        assume=[QUANTIZERS_INSERTED, CONSTANTS_FOLDED],
    )
    graph = Runner().run(graph, steps, in_place=True).graph
    Mapped(mmap_dir).map_constants(graph)
    stored = []
    for output in graph.outputs:
        assert output.value is not None
        stored.append(StoredWeight(*constant_expression(output.value)).eval())
    for parameter in parameters:
        name, module = parameter.form.name, parameter.module
        weight = stored[places[id(parameter.quantizer)]]
        module._modules[HELD]._modules[name] = weight.to(parameter.data.device)  # type: ignore[union-attr]
        del module._parameters[name]
        set_form(module, name, StoredParameter(name))


def _add(graph: Graph, parameter: QuantizedParameter) -> None:
    spec, name = parameter.quantizer.spec, parameter.name
    data = parameter.data.cpu()
    operands = {"input": graph.add_constant(name, data).value}
    scale, *rest = parameter.qparams
    for role, tensor in zip(("scale", "zero_point", "minval"), (stored_scale(scale, spec), *rest), strict=True):
        if tensor is not None:
            operands[role] = graph.add_constant(f"{name}_{role}", tensor.detach().cpu().clone()).value
    attributes: dict[str, Any] = {"dtype": spec.element_type, "quantizer": name}
    if not spec.element_type.is_floating:
        attributes |= {"quant_min": int(spec.quant_min), "quant_max": int(spec.quant_max)}
    type = TensorType.of(data)
    op = lookup_op("quant.fake_quantize")
    node = graph.insert(op, operands, attributes, [type], name=name.replace(".", "_"))
    graph.add_output(node.result)
