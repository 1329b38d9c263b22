"""Image classifiers of timm."""

from typing import Any

from graphpress.tools.zoo.models.hub import timm_model

_VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
_SHALLOW: dict[str, Any] = {"depths": (1, 1, 1, 1)}
_NARROW: dict[str, Any] = {"dims": (16, 24, 32, 48)}

MODELS = (
    *(
        timm_model(name, 64)
        for name in (
            "resnet10t",
            "resnet18",
            "legacy_seresnet18",
            "mobilenetv2_035",
            "mobilenetv3_small_050",
            "lcnet_035",
            "tinynet_e",
            "efficientnet_lite0",
            "ghostnet_050",
            "mnasnet_small",
            "semnasnet_075",
            "regnetx_002",
            "regnety_002",
            "hardcorenas_a",
            "mobileone_s0",
            "repghostnet_050",
            "fbnetv3_b",
            "dla46_c",
            "hrnet_w18_small",
            "ese_vovnet19b_dw",
            "densenet121",
            "edgenext_xx_small",
            "fasternet_t0",
            "starnet_s050",
            "mobilenetv4_conv_small_035",
            "rexnet_100",
            "skresnet18",
            "repvgg_a0",
            "resnest14d",
        )
    ),
    timm_model("vit_tiny_patch16_224", 32, **_VIT),
    timm_model("deit_tiny_distilled_patch16_224", 32, **_VIT),
    timm_model("convnext_atto", 64, **_SHALLOW, **_NARROW),
    timm_model("convnextv2_atto", 64, **_SHALLOW, **_NARROW),
    timm_model("mixer_s32_224", 64, img_size=64),
    timm_model("gmlp_s16_224", 64, img_size=64),
    timm_model("poolformer_s12", 64),
    timm_model("levit_128s", 64, img_size=64),
    timm_model("mobilevit_xxs", 64),
    timm_model(
        "swin_tiny_patch4_window7_224", 56, img_size=56, embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4)
    ),
    timm_model("pvt_v2_b0", 64),
    timm_model("efficientvit_b0", 64),
    timm_model("cait_xxs24_224", 32, img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4),
    timm_model("eva02_tiny_patch14_224", 28, img_size=28, embed_dim=48, depth=2, num_heads=4),
    timm_model("repvit_m0_9", 64),
    timm_model("tiny_vit_5m_224", 224),
)
