"""Mixtures of experts, and hybrids of attention and linear attention."""

from typing import Any

from graphpress.tools.zoo.models.hub import causal

_KV: dict[str, Any] = {"num_key_value_heads": 2}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_LATENT: dict[str, Any] = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "qk_nope_head_dim": 16,
}
_DEEP: dict[str, Any] = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_key_value_heads": 4,
}
_NEXT: dict[str, Any] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 16,
    "shared_expert_intermediate_size": 48,
}
_MIX = "mixture"

MODELS = (
    causal("qwen2-moe", "Qwen2Moe", _MIX, shared_expert_intermediate_size=48, **_KV, **_EXPERTS),
    causal("olmoe", "Olmoe", _MIX, **_KV, **_EXPERTS),
    causal("deepseek-v2", "DeepseekV2", _MIX, **_DEEP, **_LATENT),
    causal("deepseek-v3", "DeepseekV3", _MIX, **_DEEP, **_LATENT),
    causal("granite-moe", "GraniteMoe", _MIX, num_local_experts=4, **_KV),
    causal("phimoe", "Phimoe", _MIX, num_local_experts=4, **_KV),
    causal("qwen3-next", "Qwen3Next", _MIX, **_KV, **_EXPERTS, **_NEXT),
    causal("glm4-moe", "Glm4Moe", _MIX, **(_DEEP | {"head_dim": 16})),
)
