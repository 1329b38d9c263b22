"""The families of Apple's public exporter of models for Core AI."""

from typing import Any

import torch

from graphpress.tools.zoo.entry import ZooModel
from graphpress.tools.zoo.models.hub import SMALL, causal, from_config, image_model, tokens

_KV: dict[str, Any] = {"num_key_value_heads": 2}
_MOE: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 48}
_EXPORTER = "exporter"

_GEMMA_3 = ZooModel(
    "gemma-3",
    _EXPORTER,
    from_config("Gemma3ForCausalLM", "Gemma3TextConfig", **(SMALL | _KV), head_dim=16, sliding_window=8),
    tokens(),
    tokens(12),
    ({1: torch.export.Dim("length", min=4, max=60)},),
)

MODELS = (
    causal("llama", "Llama", _EXPORTER, **_KV),
    causal("qwen2", "Qwen2", _EXPORTER, **_KV),
    causal("qwen3", "Qwen3", _EXPORTER, head_dim=16, **_KV),
    causal("mistral", "Mistral", _EXPORTER, sliding_window=8, **_KV),
    causal("mixtral", "Mixtral", _EXPORTER, **_KV, **_MOE),
    causal("qwen3-moe", "Qwen3Moe", _EXPORTER, head_dim=16, **_KV, **_MOE),
    causal("phi-3", "Phi3", _EXPORTER, **_KV),
    _GEMMA_3,
    causal("gpt-oss", "GptOss", _EXPORTER, head_dim=16, sliding_window=8, **_KV, **_MOE),
    image_model(
        "sam-vision",
        _EXPORTER,
        "SamVisionModel",
        "SamVisionConfig",
        32,
        hidden_size=32,
        output_channels=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        window_size=2,
        global_attn_indexes=[1],
        mlp_dim=64,
    ),
)
