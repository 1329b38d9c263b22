"""What rounding a weight shifts, from the moments that a batch norm gives the layer's input.

A batch norm makes channel c normal with mean beta_c and standard deviation |gamma_c|, nearly; a relu after it leaves
the mean ``gamma phi(beta / gamma) + beta Phi(beta / gamma)``, with the density phi and the distribution Phi of the
standard normal (Nagel et al., arXiv 1906.04721, section 4.2.1 and appendix C). Rounding W to Q then shifts the output
by ``(Q - W) E[x]``; the zeros of padding are left out of account.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from graphpress.quantization.batch_norm import BatchNormLayer
from graphpress.quantization.fake_quantize import FakeQuantizeImplBase
from graphpress.quantization.refinement.layers import RefinableLayer, attribute

_RELU = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)


def analytic_shift(module: fx.GraphModule, layer: RefinableLayer) -> Tensor | None:
    """How far rounding the weight moves the mean of each output channel, float64; None where the mean of the layer's
    input is not known from a batch norm.
    """
    mean = _input_mean(module, layer.input)
    if mean is None:
        return None
    weight = layer.read_weight()
    qparams = layer.quantizer.qparams(weight)
    if qparams is None:
        return None
    lost = layer.matrix.to_matrices(layer.quantizer.quantize(weight, qparams).double() - weight.double())
    groups, outputs = lost.shape[:2]
    per_input = lost.reshape(groups, outputs, mean.numel() // groups, -1).sum(-1)
    return (per_input @ mean.reshape(groups, -1, 1)).reshape(groups * outputs)


def _input_mean(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """``E[x]`` for each channel of what `node` makes."""
    if node.op == "call_function" and node.target in _RELU:
        moments = _moments(module, node.args[0])
        if moments is None:
            return None
        beta, gamma = moments
        ratio = beta / gamma.clamp(min=1e-30)
        density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
        return gamma * density + beta * torch.special.ndtr(ratio)
    if node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), FakeQuantizeImplBase):
        return _input_mean(module, node.args[0])  # type: ignore[arg-type]
    moments = _moments(module, node)
    return None if moments is None else moments[0]


def _moments(module: fx.GraphModule, node: fx.node.Argument) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation of each channel of a layer's output, from the batch norm folded into it."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    called = module.get_submodule(str(node.target))
    if isinstance(called, FakeQuantizeImplBase):
        return _moments(module, node.args[0])
    if not isinstance(called, BatchNormLayer):
        return None
    norm, parameters = called.norm, node.args[1:]

    def read(place: int) -> Tensor:
        argument = parameters[place]
        assert isinstance(argument, fx.Node)
        return attribute(module, argument).detach().double()

    variance = read(norm.running_var)
    mean = torch.zeros_like(variance) if norm.bias is None else read(norm.bias)
    deviation = torch.ones_like(variance) if norm.weight is None else read(norm.weight).abs()
    for is_scale, place in norm.after:
        if is_scale:  # what shifts is the correction of rounding, which the float model does not have
            mean, deviation = mean * read(place), deviation * read(place).abs()
    return mean, deviation
