"""Causal language models."""

from typing import Any

from graphpress.tools.zoo.entry import ZooModel
from graphpress.tools.zoo.models.hub import SMALL, causal, from_config, tokens

_KV: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 16}
_GPT: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 96}
_MAMBA: dict[str, Any] = {"state_size": 8, "n_groups": 1, "expand": 2, "num_heads": 8, "head_dim": 16, "chunk_size": 8}

_GPT_2 = ZooModel("gpt2", "language", from_config("GPT2LMHeadModel", "GPT2Config", **(SMALL | _GPT)), tokens())

MODELS = (
    _GPT_2,
    causal("opt", "OPT", ffn_dim=96, word_embed_proj_dim=64),
    causal("gpt-neo", "GPTNeo", num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=8),
    causal("gpt-neox", "GPTNeoX"),
    causal("gpt-j", "GPTJ", n_embd=64, n_layer=2, n_head=4, n_positions=64, rotary_dim=8),
    causal("bloom", "Bloom", n_layer=2, n_head=4),
    causal("falcon", "Falcon", num_kv_heads=2, new_decoder_architecture=True),
    causal("gemma", "Gemma", **_KV),
    causal("gemma-2", "Gemma2", sliding_window=8, **_KV),
    causal("cohere", "Cohere", num_key_value_heads=2),
    causal("olmo-2", "Olmo2", num_key_value_heads=2),
    causal("phi", "Phi", partial_rotary_factor=0.5),
    causal("stablelm", "StableLm", num_key_value_heads=2),
    causal("starcoder2", "Starcoder2", num_key_value_heads=2),
    causal("granite", "Granite", num_key_value_heads=2),
    causal("smollm3", "SmolLM3", num_key_value_heads=2),
    causal("glm", "Glm", **_KV),
    causal("nemotron", "Nemotron", num_key_value_heads=2),
    causal("mpt", "Mpt", d_model=64, n_heads=4, n_layers=2, max_seq_len=64),
    causal("codegen", "CodeGen", n_embd=64, n_layer=2, n_head=4, n_positions=64, rotary_dim=8),
    causal("mamba", "Mamba", state_size=8),
    causal("mamba-2", "Mamba2", **_MAMBA),
    causal("lfm2", "Lfm2", num_key_value_heads=2, layer_types=["conv", "full_attention"]),
    causal("recurrent-gemma", "RecurrentGemma", lru_width=64, num_key_value_heads=1, attention_window_size=8),
)
