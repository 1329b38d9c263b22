"""The trained digits classifiers are as good as their record says, and training repeats bit for bit."""

from __future__ import annotations

import pytest
import torch

from graphpress.tools.digits import NETWORKS, accuracy, digits, load_trained, train
from graphpress.tools.digits.trained import UnknownNetworkError, training_record


@pytest.mark.parametrize("name", NETWORKS)
def test_a_packaged_network_classifies_held_out_digits_as_its_record_says(name):
    data = digits()
    model = load_trained(name)
    assert not model.training
    held_out = accuracy(model, data.test_images, data.test_labels)
    assert held_out == pytest.approx(float(training_record(name)["accuracy"]), abs=0.0025)
    assert held_out > 0.97


def test_no_image_is_in_both_halves_of_the_data():
    data = digits()
    assert len(data.train_labels) == 900
    assert len(data.test_labels) == 897
    pixels = torch.cat([data.train_images, data.test_images]).flatten(1)
    assert len(pixels.unique(dim=0)) == 1797


def test_training_repeats_bit_for_bit():
    models = []
    for _ in range(2):
        model = load_trained("transformer")
        model.layers[0].perceptron[2].p = 0.5
        model.train()
        torch.manual_seed(3)
        train(model, epochs=1, seed=1)
        models.append(model)
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], load_trained("transformer").head.weight)


def test_a_network_that_does_not_exist_suggests_one_that_does():
    with pytest.raises(UnknownNetworkError, match="did you mean 'conv_net'"):
        load_trained("convnet")
