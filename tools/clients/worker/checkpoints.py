"""Checkpoints of small language models with random weights, in the layout of a cache of the Hugging Face hub."""

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
_WINDOWS = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}


def write(cache: str) -> dict[str, Any]:
    """Write a checkpoint and a tokenizer of every model to a cache that does not have them yet."""
    for name in MODELS:
        folder = Path(cache) / "hub" / f"models--{OWNER}--{name}"
        if (folder / "refs" / "main").exists():
            continue
        snapshot = folder / "snapshots" / _COMMIT
        snapshot.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        _model(name).to(torch.float16).save_pretrained(snapshot)
        _write_tokenizer(snapshot)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(_COMMIT)
    return {}


def _model(name: str) -> Any:
    transformers: Any = importlib.import_module("transformers")
    if name == "gemma3":
        text = {**_SIZES, **_WINDOWS, "head_dim": 64}
        vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision |= {"image_size": 28, "patch_size": 14}
        config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
        return transformers.Gemma3ForConditionalGeneration(config)
    config = {
        "qwen2": lambda: transformers.Qwen2Config(**_SIZES),
        "qwen3": lambda: transformers.Qwen3Config(**_SIZES, head_dim=64),
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
    return transformers.AutoModelForCausalLM.from_config(config)


def _write_tokenizer(folder: Path) -> None:
    tokenizers: Any = importlib.import_module("tokenizers")
    transformers: Any = importlib.import_module("transformers")
    words = {f"w{number}": number for number in range(_SIZES["vocab_size"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = {"unk_token": "w0", "pad_token": "w1", "bos_token": "w2", "eos_token": "w3"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
