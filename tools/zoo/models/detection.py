"""Detectors."""

from typing import Any

from graphpress.tools.zoo.entry import ZooModel
from graphpress.tools.zoo.models.hub import image_model

_DETR: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 8,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
}


def _with_backbone(name: str, prefix: str, **options: Any) -> ZooModel:
    backbone = {
        "model_type": "resnet",
        "embedding_size": 16,
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
        "out_features": ["stage4"],
    }
    return image_model(
        name, "detection", f"{prefix}ForObjectDetection", f"{prefix}Config", 64, backbone_config=backbone, **options
    )


MODELS = (
    _with_backbone("detr", "Detr", **_DETR),
    _with_backbone("conditional-detr", "ConditionalDetr", **_DETR),
    image_model(
        "yolos",
        "detection",
        "YolosForObjectDetection",
        "YolosConfig",
        32,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=[32, 32],
        patch_size=8,
        num_detection_tokens=8,
    ),
)
