"""Audio models."""

from typing import Any

from graphpress.tools.zoo.entry import ZooModel
from graphpress.tools.zoo.models.hub import VOCABULARY, from_config, normal, tokens

_CONV: dict[str, Any] = {
    "conv_dim": [32, 32],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_SIZES: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
_WHISPER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_mel_bins": 16,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_source_positions": 32,
    "max_target_positions": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "use_cache": False,
}
_AST: dict[str, Any] = {"num_mel_bins": 32, "max_length": 48, "patch_size": 16, **_SIZES}

MODELS = (
    ZooModel("wav2vec2", "audio", from_config("Wav2Vec2Model", "Wav2Vec2Config", **_SIZES, **_CONV), normal(400)),
    ZooModel("hubert", "audio", from_config("HubertModel", "HubertConfig", **_SIZES, **_CONV), normal(400)),
    ZooModel("wavlm", "audio", from_config("WavLMModel", "WavLMConfig", **_SIZES, **_CONV), normal(400)),
    ZooModel("ast", "audio", from_config("ASTModel", "ASTConfig", **_AST), normal(48, 32)),
    ZooModel(
        "whisper",
        "audio",
        from_config("WhisperModel", "WhisperConfig", ("input_features", "decoder_input_ids"), **_WHISPER),
        lambda generator, batch: (*normal(16, 64)(generator, batch), *tokens(8)(generator, batch)),
    ),
)
