import shutil

import pytest
import torch
from torch import nn

from graphpress.backends.coreai import AssetError, convert, load, read, stored_bytes, weight_bytes
from graphpress.ir.dtypes import DType

from .modules import IntegerConv, QuantizeDequantize


@pytest.fixture(scope="module")
def asset(tmp_path_factory):
    path = tmp_path_factory.mktemp("asset") / "m.aimodel"
    model = nn.Sequential(QuantizeDequantize(0.03), IntegerConv(), nn.PixelShuffle(2))
    convert(model, path, torch.randn(2, 3, 6, 6), ({0: torch.export.Dim("B", min=2, max=9)},))
    return path


def test_the_signature_and_operators_are_read_back(asset):
    info = read(asset)
    (main,) = info.functions
    assert [(each.name, each.dtype, each.shape) for each in main.inputs] == [("input", DType.FLOAT32, (None, 3, 6, 6))]
    assert [(each.dtype, each.shape) for each in main.outputs] == [(DType.FLOAT32, (None, 1, 12, 12))]
    for operation in ("quantize", "dequantize", "blockwise_shift_scale", "conv2d"):
        assert info.operations[operation] == 1
    assert "constant" not in info.operations


def test_weights_cost_their_bits_and_splats_nothing(asset):
    info = read(asset)
    data = 4 * 3 * 3 * 3
    scales_and_bias = 2 * 4 * 4
    shapes_and_other_small_constants = weight_bytes(asset) - data - scales_and_bias
    assert 0 <= shapes_and_other_small_constants < 200
    assert weight_bytes(asset) == sum(-(-c.numel * c.bits // 8) for c in info.constants if not c.is_splat)
    assert any(constant.is_splat and constant.stored_bytes == 0 for constant in info.constants)
    assert stored_bytes(asset) == info.stored_bytes > info.weight_bytes


def test_an_unknown_function_is_named(asset):
    with pytest.raises(AssetError, match="no function 'mian', only \\['main'\\]"):
        read(asset).function("mian")


def truncate(path):
    program = path / "main.mlirb"
    program.write_bytes(program.read_bytes()[:-100])


def flip_a_bit(path):
    program = path / "main.mlirb"
    data = bytearray(program.read_bytes())
    data[len(data) // 2] ^= 1
    program.write_bytes(data)


# Damaged bytes end the process inside the program reader, so every one of these must be caught before it.
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "damaged"),
        (flip_a_bit, "damaged"),
        (lambda path: (path / "main.hash").unlink(), "not a complete asset"),
        (lambda path: (path / "main.mlirb").unlink(), "not a complete asset"),
        (lambda path: (path / "metadata.json").write_text("{"), "cannot be opened"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_a_damaged_asset_is_an_error_and_not_a_crash(asset, tmp_path, damage, message):
    copy = shutil.copytree(asset, tmp_path / "copy.aimodel")
    damage(copy)
    for reader in (read, weight_bytes, load):
        with pytest.raises(AssetError, match=message):
            reader(copy)
