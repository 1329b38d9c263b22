"""Quantization of a stack of experts that a module gathers before it multiplies with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphpress.quantization import Quantizer, QuantizerConfig

BLOCK = (1, 1, 1, 16)


class Experts(nn.Module):
    """A linear layer of the chosen experts for each token."""

    def __init__(self, experts: int = 4, inputs: int = 32, outputs: int = 8):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, experts, outputs, inputs))

    def forward(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        turned = self.weight.transpose(-1, -2)
        gathered = torch.index_select(turned, 1, chosen.flatten()).view(1, *chosen.shape, *turned.shape[-2:])
        return tokens @ gathered


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = Experts()

    def forward(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        return self.up(tokens, chosen)


INPUTS = (torch.randn(5, 1, 1, 32), torch.randint(0, 4, (5, 2)))


def _prepared(**module_config: Any) -> tuple[Quantizer, nn.Module]:
    torch.manual_seed(0)
    entry = {"op_input_spec": None, "op_output_spec": None, **module_config}
    config = {
        "execution_mode": "eager",
        "global_config": None,
        "module_type_configs": {f"{__name__}.Experts": entry},
    }
    quantizer = Quantizer(Mixture(), QuantizerConfig.from_dict({"quantization_config": config}))
    return quantizer, quantizer.prepare(INPUTS)


SPEC = {
    "dtype": "int4",
    "qscheme": "symmetric_with_clipping",
    "granularity": {"type": "per_block", "block_size": list(BLOCK), "axis": None},
}


def test_the_state_spec_of_a_module_quantizes_a_weight_that_its_ops_only_gather() -> None:
    quantizer, prepared = _prepared(module_state_spec={"weight": SPEC})
    ((found,),) = quantizer._get_fake_quantize_modules().values()
    layer = prepared.get_submodule("up")
    stored = layer._parameters["weight"]
    blocks = stored.detach().reshape(1, 4, 8, 2, 16)
    scale = blocks.abs().amax(-1) / 7
    codes = (blocks / scale[..., None]).round().clamp(-7, 7)
    assert torch.allclose(layer.weight, (codes * scale[..., None]).reshape(stored.shape), atol=1e-3)
    assert found.n_bits == 4
    finalized = quantizer.finalize()
    assert torch.equal(finalized(*INPUTS), prepared(*INPUTS))
    floats = [each for each in finalized.state_dict().values() if each.is_floating_point()]
    assert all(each.numel() < stored.numel() for each in floats)


@pytest.mark.parametrize("mode", ["op_state_spec", "global"])
def test_a_blanket_weight_entry_still_leaves_it_whole(mode: str) -> None:
    if mode == "op_state_spec":
        quantizer, _ = _prepared(op_state_spec={"weight": SPEC})
    else:
        config = {"execution_mode": "eager", "global_config": {"op_state_spec": {"weight": SPEC}}}
        quantizer = Quantizer(Mixture(), QuantizerConfig.from_dict({"quantization_config": config}))
        quantizer.prepare(INPUTS)
    targets = [each for found in quantizer._get_fake_quantize_modules().values() for each in found if each.is_state]
    assert not targets


def test_preparing_weights_alone_runs_the_model_once() -> None:
    calls: list[int] = []
    model = Mixture()
    model.register_forward_hook(lambda *_: calls.append(1))
    weights = {"op_state_spec": {"weight": SPEC}, "op_input_spec": None, "op_output_spec": None}
    config = {"execution_mode": "eager", "global_config": weights}
    Quantizer(model, QuantizerConfig.from_dict({"quantization_config": config})).prepare(INPUTS)
    assert len(calls) == 1
