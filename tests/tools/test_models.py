"""The shared models build, run, export, and are the same every time."""

import pytest
import torch
from torch import nn

from graphpress.tools.models import MODELS, conv_bn_relu_chain, gpt_small, randomize, small_resnet, vgg11

SMALL = sorted(set(MODELS) - {"gpt", "resnet50", "vit_small", "mobilenet_v2"})


@pytest.mark.parametrize("name", SMALL)
def test_each_small_model_exports_and_the_export_computes_the_same(name):
    entry = MODELS[name]
    model, inputs = entry.build(), entry.example_inputs()
    with torch.no_grad():
        expected = model(*inputs)
        exported = torch.export.export(model, inputs).module()(*inputs)
    assert not model.training
    assert expected.isfinite().all()
    torch.testing.assert_close(exported, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet50", 25_557_032), ("mobilenet_v2", 3_504_872), ("vit_small", 22_050_664)],
)
def test_each_large_image_model_has_the_published_size_and_runs(name, parameters):
    entry = MODELS[name]
    model = entry.build()
    assert sum(p.numel() for p in model.parameters()) == parameters
    with torch.no_grad():
        output = model(*entry.example_inputs())
    assert output.shape == (1, 1000)
    assert output.isfinite().all()


def test_weights_follow_the_seed():
    first, again, other = small_resnet(seed=3), small_resnet(seed=3), small_resnet(seed=4)
    assert torch.equal(first.fc.weight, again.fc.weight)
    assert not torch.equal(first.fc.weight, other.fc.weight)


def test_weights_are_heavy_tailed_and_keep_the_size_of_activations():
    weight = randomize(nn.Linear(512, 512), seed=0).weight
    kurtosis = (weight / weight.std()).pow(4).mean()
    assert kurtosis > 4  # a normal distribution has 3, a uniform one 1.8
    assert 0.8 < weight.std() / (2 / 512) ** 0.5 < 1.2
    with torch.no_grad():
        output = conv_bn_relu_chain(blocks=40)(torch.randn(1, 8, 16, 16))
    assert 1e-3 < output.std() < 1e3


def test_batch_norm_statistics_are_not_the_identity():
    norm = small_resnet().stem.bn1
    assert norm.running_mean.abs().max() > 0
    assert norm.running_var.min() >= 0.5
    assert norm.running_var.std() > 0


def test_the_head_of_the_language_model_is_tied_to_its_embedding():
    model = gpt_small()
    assert model.lm_head.weight is model.wte.weight


def test_every_relu_of_the_vgg_is_in_place():
    relus = [module for module in vgg11().modules() if isinstance(module, nn.ReLU)]
    assert len(relus) == 10
    assert all(relu.inplace for relu in relus)
