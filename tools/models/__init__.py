"""Plain torch models for tests, benchmarks and examples: standard names, seeded weights, no downloads.

Every factory (`resnet50`, `small_resnet`, ...) returns a module in eval mode, the same one for the same seed.
`MODELS` lists them by name, each with inputs to trace it by::

    entry = MODELS["small_resnet"]
    program = torch.export.export(entry.build(), entry.example_inputs())
"""

from graphpress.tools.models.chain import conv_bn_relu_chain
from graphpress.tools.models.gpt import gpt, gpt_small
from graphpress.tools.models.mobilenet import mobilenet_v2
from graphpress.tools.models.randomize import randomize
from graphpress.tools.models.registry import MODELS, ModelEntry
from graphpress.tools.models.resnet import resnet50, small_resnet
from graphpress.tools.models.transformer import small_transformer
from graphpress.tools.models.vgg import vgg11
from graphpress.tools.models.vit import vit_small

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
