"""Checkpoints of small models with random weights, in the layout of a cache of the Hugging Face hub."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

OWNER = "random"
MODELS = ("qwen2", "qwen3", "mistral", "mixtral", "qwen3_moe", "phi3", "gemma3", "gpt_oss")
_COMMIT = "0" * 40
_SIZES = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_EXPERTS = {"num_experts_per_tok": 2}
_LARGE = {"vocab_size": 8192, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 8}
_WINDOWS = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}


def write(cache: str, models: list[str]) -> dict[str, Any]:
    """Write a checkpoint and a tokenizer of each model to a cache that does not have them yet."""
    for name in models:
        folder = Path(cache) / "hub" / f"models--{OWNER}--{name}"
        if (folder / "refs" / "main").exists():
            continue
        snapshot = folder / "snapshots" / _COMMIT
        snapshot.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        _model(name).save_pretrained(snapshot)
        _write_tokenizer(snapshot)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(_COMMIT)
    return {}


def _model(name: str) -> Any:
    transformers: Any = importlib.import_module("transformers")
    if name == "sam3":
        return transformers.Sam3Model(_sam3())
    if name == "gemma3":
        return transformers.Gemma3ForConditionalGeneration(_gemma3()).to(torch.float16)
    config = {
        "qwen2": lambda: transformers.Qwen2Config(**_SIZES),
        "qwen3": lambda: transformers.Qwen3Config(**_SIZES, head_dim=64),
        "qwen3_large": lambda: transformers.Qwen3Config(**{**_SIZES, **_LARGE}, head_dim=128),
        "mistral": lambda: transformers.MistralConfig(**_SIZES, head_dim=64),
        "mixtral": lambda: transformers.MixtralConfig(**_SIZES, **_EXPERTS, num_local_experts=4),
        "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
            **_SIZES, **_EXPERTS, head_dim=64, num_experts=4, moe_intermediate_size=128
        ),
        "phi3": lambda: transformers.Phi3Config(**_SIZES),
        "gpt_oss": lambda: transformers.GptOssConfig(
            **_SIZES, **_EXPERTS, **_WINDOWS, head_dim=64, num_local_experts=4
        ),
    }[name]()
    return transformers.AutoModelForCausalLM.from_config(config).to(torch.float16)


def _gemma3() -> Any:
    transformers: Any = importlib.import_module("transformers")
    text = {**_SIZES, **_WINDOWS, "head_dim": 64}
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    return transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)


def _sam3() -> Any:
    """Return a config of SAM 3 with few layers, in the sizes that its exporter assumes."""
    transformers: Any = importlib.import_module("transformers")
    one = {"num_layers": 1, "intermediate_size": 64}
    backbone = {"hidden_size": 1024, "intermediate_size": 256, "num_hidden_layers": 2, "global_attn_indexes": [1]}
    text: dict[str, Any] = {"vocab_size": 49408, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 32, "projection_dim": 64, "hidden_act": "gelu"}
    return transformers.Sam3Config(
        vision_config={"backbone_config": {"model_type": "sam3_vit_model", **backbone}},
        text_config={"model_type": "clip_text_model", **text},
        geometry_encoder_config=one,
        detr_encoder_config=one,
        detr_decoder_config=one,
    )


def _write_tokenizer(folder: Path) -> None:
    tokenizers: Any = importlib.import_module("tokenizers")
    transformers: Any = importlib.import_module("transformers")
    words = {f"w{number}": number for number in range(_SIZES["vocab_size"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = {"unk_token": "w0", "pad_token": "w1", "bos_token": "w2", "eos_token": "w3"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
