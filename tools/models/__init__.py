"""Plain torch models for tests, benchmarks and examples: standard names, seeded weights, no downloads.

Every factory (`resnet50`, `small_resnet`, ...) returns a module in eval mode, the same one for the same seed.
`MODELS` lists them by name, each with inputs to trace it by::

    entry = MODELS["small_resnet"]
    program = torch.export.export(entry.build(), entry.example_inputs())
"""

from graphpress.tools.models.convolutional import conv_bn_relu_chain, mobilenet_v2, resnet50, small_resnet, vgg11
from graphpress.tools.models.randomize import randomize
from graphpress.tools.models.registry import MODELS, ModelEntry
from graphpress.tools.models.transformers import gpt, gpt_small, small_transformer, vit_small

__all__ = [
    "MODELS",
    "ModelEntry",
    "conv_bn_relu_chain",
    "gpt",
    "gpt_small",
    "mobilenet_v2",
    "randomize",
    "resnet50",
    "small_resnet",
    "small_transformer",
    "vgg11",
    "vit_small",
]
