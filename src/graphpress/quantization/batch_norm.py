"""A convolution or linear layer and the batch norm folded into it, as one layer that can still be trained.

In evaluation it is one convolution with the folded weight and bias. In training it normalizes with the statistics of
the batch and updates the running ones, while the weight is quantized as it will be after folding (arXiv 1806.08342,
section 3.2.2): convolve with the folded, fake-quantized weight, divide by the factor that was folded in, then
normalize.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from torch.nn import functional

from graphpress.ir.inference import to_torch
from graphpress.ir.ops import OpDef
from graphpress.ir.reference import batch_norm_factor
from graphpress.quantization.expressions import ConstantExpression
from graphpress.quantization.norm_freezing import FreezableNorm
from graphpress.quantization.uncompiled import uncompiled


@frozen
class FoldedNorm:
    """The batch norm that was folded. The integers say which argument of the layer holds each of its tensors.

    `after` has what scales (True) or shifts (False) the channels of its output, in order.
    """

    running_var: int
    running_mean: int
    weight: int | None
    bias: int | None
    layer_bias: int | None
    eps: float
    momentum: float
    after: tuple[tuple[bool, int], ...] = ()


class BatchNormLayer(FreezableNorm):
    """``op(input, weight, bias)`` whose weight and bias are expressions over the parameters of a layer and its batch
    norm.

    Called with the input and then the parameters.
    """

    def __init__(
        self,
        op: OpDef,
        attributes: Mapping[str, Any],
        norm: FoldedNorm,
        weight: tuple[ConstantExpression, tuple[int, ...]],
        bias: tuple[ConstantExpression, tuple[int, ...]],
    ):
        super().__init__()
        self.op = op
        self.attributes = dict(attributes)
        self.norm = norm
        self.weight, self.weight_arguments = weight
        self.bias, self.bias_arguments = bias

    def forward(self, input: Tensor, *parameters: Tensor) -> Tensor:
        """The layer's output, normalized."""
        if torch.compiler.is_compiling() and not self.weight.is_traceable:
            # As a whole: a graph that ends at the quantizer keeps for its gradient a variance that the norm updates.
            result: Tensor = uncompiled(self._apply_layer, input, *parameters)
            return result
        return self._apply_layer(input, *parameters)

    def _apply_layer(self, input: Tensor, *parameters: Tensor) -> Tensor:
        weight = self.weight(*(parameters[i] for i in self.weight_arguments))
        if self.uses_batch_statistics:
            return self._with_batch_statistics(input, weight, parameters)
        return self._run(input, weight, self.bias(*(parameters[i] for i in self.bias_arguments)))

    def _with_batch_statistics(self, input: Tensor, weight: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        norm = self.norm
        running_var, running_mean = parameters[norm.running_var], parameters[norm.running_mean]
        gain = None if norm.weight is None else parameters[norm.weight]
        factor = batch_norm_factor(running_var, gain, norm.eps)
        for is_scale, place in norm.after:
            factor = factor * parameters[place] if is_scale else factor
        output = self._run(input, weight, None)
        axis = -1 if self.op.short_name == "linear" and output.ndim == 2 else 1
        shape = [1] * output.ndim
        shape[axis] = -1
        # A channel whose factor is zero has lost its values; the norm's own weight makes it its bias again.
        safe = torch.where(factor == 0, torch.ones_like(factor), factor)
        output = output / safe.reshape(shape).to(output.dtype)
        if norm.layer_bias is not None:
            output = output + parameters[norm.layer_bias].reshape(shape)
        beta = None if norm.bias is None else parameters[norm.bias]
        output = functional.batch_norm(
            output, running_mean, running_var, gain, beta, training=True, momentum=norm.momentum, eps=norm.eps
        )
        for is_scale, place in norm.after:
            each = parameters[place].reshape(shape)
            output = output * each if is_scale else output + each
        return output

    def _run(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        bound: dict[str, Any] = {"input": input, "weight": weight}
        if bias is not None:
            bound["bias"] = bias
        bound |= {name: to_torch(value) for name, value in self.attributes.items()}
        args, kwargs = self.op.unbind(bound)
        assert self.op.target is not None
        output: Tensor = self.op.target(*args, **kwargs)
        return output

    def extra_repr(self) -> str:
        """The op."""
        return self.op.name
