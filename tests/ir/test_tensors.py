"""Lazy copies are copies to everyone who reads or writes, and take memory only when somebody writes."""

import numpy as np
import pytest
import torch
from torch import nn

from graphpress.ir.tensors import lazy_copy
from graphpress.quantization import Quantizer


def shares(tensor: torch.Tensor) -> bool:
    return torch._C._is_cow_tensor(tensor)


@pytest.mark.parametrize("side", [0, 1])
def test_what_is_written_to_one_is_not_seen_in_the_other(side):
    tensor = torch.arange(6.0)
    sides = (tensor, lazy_copy(tensor))
    assert shares(sides[0])
    assert shares(sides[1])
    sides[side].add_(1)
    assert torch.equal(sides[1 - side], torch.arange(6.0))
    assert torch.equal(sides[side], torch.arange(6.0) + 1)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0)[:6],
        torch.from_numpy(np.arange(6.0)),
        torch.zeros(6).share_memory_(),
        torch.zeros(0),
        torch.zeros(6).to_sparse(),
    ],
    ids=["part of a storage", "memory of numpy", "memory of several processes", "nothing", "sparse"],
)
def test_what_torch_cannot_share_is_copied_at_once(tensor):
    copy = lazy_copy(tensor)
    assert torch.equal(copy.to_dense(), tensor.to_dense())
    if tensor.layout is torch.strided:
        assert not shares(copy)
        copy.add_(1)
        assert not tensor.numel() or not torch.equal(copy, tensor)


def test_a_prepared_model_takes_no_memory_for_its_weights_until_it_is_trained():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    image = torch.randn(2, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantizer = Quantizer(model)
    prepared = quantizer.prepare((image,))
    with quantizer.calibration_mode():
        prepared(image)
    with torch.no_grad():
        prepared(image), model(image)
    quantizer.finalize()
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    assert all(shares(weight) for weight in weights)

    optimizer = torch.optim.SGD(prepared.parameters(), 0.1)
    with quantizer.training_mode():
        prepared(image).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not torch.equal(prepared.get_parameter("0.weight"), before["0.weight"])


def test_a_model_that_is_trained_on_leaves_its_prepared_model_as_it_was():
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    data = torch.randn(3, 8)
    prepared = Quantizer(model).prepare((data,))
    expected = prepared(data)
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert torch.equal(prepared(data), expected)


def test_a_lazy_copy_of_a_loaded_program_can_be_read_and_written(tmp_path):
    exported = torch.export.export(torch.nn.Linear(4, 4), (torch.ones(1, 4),))
    torch.export.save(exported, tmp_path / "linear.pt2")
    weight = torch.export.load(tmp_path / "linear.pt2").state_dict["weight"]
    expected = weight.detach().clone()
    copy = lazy_copy(weight)
    copy.add_(1)
    assert torch.equal(weight, expected)
    assert torch.equal(copy, expected + 1)
