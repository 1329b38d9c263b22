"""Two small trained classifiers of scikit-learn's handwritten digits: a convolutional network and a transformer.

`load_trained("conv_net")` and `load_trained("transformer")` return them in eval mode, `digits()` their data::

    data = digits()
    model = load_trained("conv_net")
    accuracy(model, data.test_images, data.test_labels)
"""

from graphpress.tools.digits.networks import ConvNet, Transformer
from graphpress.tools.digits.trained import NETWORKS, Digits, accuracy, digits, load_trained
from graphpress.tools.digits.training import Distillation, train

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
