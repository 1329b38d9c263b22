"""Programs with a state, compressed without the torch model they were made from."""

from __future__ import annotations

import torch
from torch import nn

from graphpress import coreai_utils, coreml_utils
from graphpress.backends import coreai, coreml
from graphpress.backends.coreai.asset import open_asset

X = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)
        self.register_buffer("total", torch.zeros(64))

    def forward(self, x):
        self.total.add_(x.sum(0))
        return self.layer(x) + self.total


def counter() -> Counter:
    torch.manual_seed(0)
    return Counter().eval()


def test_an_asset_keeps_its_state_when_its_weights_become_codes(tmp_path):
    coreai.convert(counter(), tmp_path / "float.aimodel", X)
    program = open_asset(tmp_path / "float.aimodel").program
    coreai_utils.quantize_weights(program, weight_num_threshold=0).save_asset(tmp_path / "int8.aimodel")
    sizes = [coreai.read(tmp_path / name).weight_bytes for name in ("float.aimodel", "int8.aimodel")]
    assert sizes[0] - sizes[1] >= 64 * 64 * 3 - 64 * 4
    expected = counter()
    with coreai.load(tmp_path / "int8.aimodel") as loaded:
        for _ in range(3):  # the state goes on from run to run
            torch.testing.assert_close(loaded(X), expected(X), rtol=0, atol=0.02)


def test_a_package_keeps_its_state_when_its_weights_become_tables(tmp_path):
    coreml.convert(counter(), tmp_path / "float.mlpackage", X)
    made = coreml_utils.palettize_weights(tmp_path / "float.mlpackage", n_bits=4, weight_num_threshold=0)
    made.save(str(tmp_path / "tables.mlpackage"))
    before, after = (coreml.read(tmp_path / f"{name}.mlpackage") for name in ("float", "tables"))
    assert before.weight_bytes - after.weight_bytes == 64 * 64 * 4 - 64 * 64 // 2 - 16 * 4
    assert after.operations["read_state"] == after.operations["write_state"] == 1
