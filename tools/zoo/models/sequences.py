"""Models from a sequence to a sequence."""

from typing import Any

from graphpress.tools.zoo.entry import ZooModel
from graphpress.tools.zoo.models.hub import VOCABULARY, from_config, pairs

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "use_cache": False,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "use_cache": False,
}


def _model(name: str, prefix: str, kind: str, **options: Any) -> ZooModel:
    names = ("input_ids", "decoder_input_ids")
    return ZooModel(name, "sequence", from_config(f"{prefix}{kind}", f"{prefix}Config", names, **options), pairs())


MODELS = (
    _model("t5", "T5", "ForConditionalGeneration", **_T5),
    _model("mt5", "MT5", "ForConditionalGeneration", feed_forward_proj="gated-gelu", **_T5),
    _model("bart", "Bart", "ForConditionalGeneration", **_SIZES),
    _model("marian", "Marian", "MTModel", **_SIZES),
    _model("pegasus", "Pegasus", "ForConditionalGeneration", **_SIZES),
    _model("m2m-100", "M2M100", "ForConditionalGeneration", **_SIZES),
    _model("mbart", "MBart", "ForConditionalGeneration", **_SIZES),
    _model("blenderbot", "Blenderbot", "ForConditionalGeneration", **_SIZES),
)
