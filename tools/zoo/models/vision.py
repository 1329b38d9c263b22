"""Vision models of `transformers`."""

from typing import Any

from graphpress.tools.zoo.entry import ZooModel
from graphpress.tools.zoo.models.hub import image_model

_VIT: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
_STAGES: dict[str, Any] = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}
_SEGFORMER: dict[str, Any] = {
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
    "decoder_hidden_size": 32,
}


def _model(name: str, kind: str, config: str, size: int = 32, **options: Any) -> ZooModel:
    return image_model(name, "vision", kind, config, size, **options)


MODELS = (
    _model("vit", "ViTForImageClassification", "ViTConfig", **_VIT),
    _model("deit", "DeiTForImageClassification", "DeiTConfig", **_VIT),
    _model("beit", "BeitForImageClassification", "BeitConfig", use_relative_position_bias=True, **_VIT),
    _model("dinov2", "Dinov2ForImageClassification", "Dinov2Config", **_VIT),
    _model("siglip-vision", "SiglipVisionModel", "SiglipVisionConfig", **_VIT),
    _model("clip-vision", "CLIPVisionModel", "CLIPVisionConfig", **_VIT),
    _model(
        "swin",
        "SwinForImageClassification",
        "SwinConfig",
        32,
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 4],
        window_size=4,
    ),
    _model("resnet", "ResNetForImageClassification", "ResNetConfig", 32, embedding_size=16, **_STAGES),
    _model("convnext", "ConvNextForImageClassification", "ConvNextConfig", 32, **_STAGES),
    _model("segformer", "SegformerForSemanticSegmentation", "SegformerConfig", 64, **_SEGFORMER),
    _model(
        "mobilevit",
        "MobileViTForImageClassification",
        "MobileViTConfig",
        64,
        image_size=64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 16, 24, 32],
    ),
    _model("poolformer", "PoolFormerForImageClassification", "PoolFormerConfig", 64, **_STAGES),
    _model(
        "dpt",
        "DPTForDepthEstimation",
        "DPTConfig",
        32,
        neck_hidden_sizes=[8, 16, 16, 32],
        fusion_hidden_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        reassemble_factors=[4, 2, 1, 0.5],
        is_hybrid=False,
        **(_VIT | {"num_hidden_layers": 4}),
    ),
)
