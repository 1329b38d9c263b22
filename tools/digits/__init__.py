"""Two small trained classifiers of scikit-learn's handwritten digits: a convolutional network and a transformer.

`load_trained("conv_net")` and `load_trained("transformer")` return them in eval mode, `digits()` their data::

    data = digits()
    model = load_trained("conv_net")
    accuracy(model, data.test_images, data.test_labels)
"""

from graphpress.tools.digits.conv_net import ConvNet
from graphpress.tools.digits.data import Digits, accuracy, digits
from graphpress.tools.digits.distillation import Distillation
from graphpress.tools.digits.trained import NETWORKS, load_trained
from graphpress.tools.digits.training import train
from graphpress.tools.digits.transformer import Transformer

__all__ = [
    "NETWORKS",
    "ConvNet",
    "Digits",
    "Distillation",
    "Transformer",
    "accuracy",
    "digits",
    "load_trained",
    "train",
]
