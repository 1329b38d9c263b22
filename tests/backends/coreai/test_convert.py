import sys

import coreai_torch
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphpress.backends.coreai import (
    AssetError,
    ConversionError,
    check,
    convert,
    load,
    read,
)
from graphpress.ir import files
from graphpress.ir.dtypes import DType
from tests.backends.every_op import Lambda
from tests.backends.features import IMAGE

from .modules import IntegerConv, TableLinear, coreai


def stored(info, operand):
    """The one constant that feeds `operand`, such as lut_to_dense.indices."""
    (found,) = [constant for constant in info.constants if operand in constant.used_by]
    return found


def assert_equal_in_runtime(path, model, *inputs):
    report = check(path, model, inputs)
    assert report.ok, report


class SideBySide(nn.Module):
    """Gives each of its children the input, so that one conversion covers them all."""

    def __init__(self, *children):
        super().__init__()
        self.parts = nn.ModuleList(children)

    def forward(self, x):
        return [part(x) for part in self.parts]


def test_lookup_tables_are_stored_with_exactly_their_bits_and_run(tmp_path):
    widths = [1, 2, 3, 4, 6, 8]
    model, x = SideBySide(*(TableLinear(bits=bits) for bits in widths)), torch.randn(2, 16)
    info = convert(model, tmp_path / "m.aimodel", x)
    indices = [c for c in info.constants if "lut_to_dense.indices" in c.used_by]
    assert sorted(c.dtype.value for c in indices) == [f"u{bits}" for bits in widths]
    assert sum(c.stored_bytes for c in indices) == 9 * 16 * sum(widths) // 8
    assert_equal_in_runtime(tmp_path / "m.aimodel", model, x)


@pytest.mark.parametrize("lut_dtype", [torch.int8, torch.float16, torch.bfloat16])
def test_tables_of_other_types_and_blocks_run_too(tmp_path, lut_dtype):
    model = SideBySide(*(TableLinear(bits=bits, lut_dtype=lut_dtype, blocks=3) for bits in (3, 4)))
    x = torch.randn(2, 16).to(torch.float32 if lut_dtype == torch.int8 else lut_dtype)
    convert(model, tmp_path / "m.aimodel", x)
    assert check(tmp_path / "m.aimodel", model, x, tolerance=1e-6 if lut_dtype == torch.int8 else 2e-2).ok


def test_a_three_bit_table_converts_when_the_user_calls_the_stock_converter(tmp_path):
    model, x = TableLinear(bits=3), torch.randn(2, 16)
    program = torch.export.export(model, (x,)).run_decompositions(coreai_torch.get_decomp_table())
    path = tmp_path / "m.aimodel"
    coreai_torch.TorchConverter().add_exported_program(program).to_coreai().save_asset(path)
    assert stored(read(path), "lut_to_dense.indices").dtype is DType.UINT3
    assert_equal_in_runtime(path, model, x)


def test_a_vector_table_takes_a_negative_axis(tmp_path):
    model, x = TableLinear(vector=2, axis=1), torch.randn(2, 16)
    model.axis = -1
    convert(model, tmp_path / "m.aimodel", x)
    assert_equal_in_runtime(tmp_path / "m.aimodel", model, x)


def test_integer_weights_are_stored_with_the_bits_they_state(tmp_path):
    forms = [  # dtype, lowest and highest code, zero point
        (torch.int8, -127, 127, None),
        (torch.int8, -2, 1, None),  # fits 2 bits, but says 8
        (None, -2, 0, None),  # says nothing: as it is held
        (torch.uint8, 0, 255, 120),
        (torch.int4, -8, 7, None),
        (torch.uint4, 0, 15, 7),
        (torch.int2, -2, 1, None),
    ]
    model = SideBySide(*(IntegerConv(4, 3, *form) for form in forms))
    x = torch.randn(1, 3, 6, 6)
    info = convert(model, tmp_path / "m.aimodel", x)
    data = [c.dtype.value for c in info.constants if "blockwise_shift_scale.data" in c.used_by]
    assert sorted(data) == ["i2", "i4", "i8", "i8", "i8", "u4", "u8"]
    assert_equal_in_runtime(tmp_path / "m.aimodel", model, x)


def test_float8_float4_and_minimum_value_weights_run(tmp_path, caplog):
    class Scaled(nn.Module):
        def __init__(self, data, scale, minval=None, dtype=None):
            super().__init__()
            self.dtype = dtype
            for name, tensor in (("data", data), ("scale", scale), ("minval", minval)):
                self.register_buffer(name, tensor)

        def forward(self, x):
            out = torch.float32 if self.scale.dtype == torch.float8_e8m0fnu else None
            weight = coreai.constexpr_blockwise_shift_scale(self.data, self.scale, None, self.minval, self.dtype, out)
            return F.linear(x, weight)

    powers = (2.0 ** torch.randint(-3, 2, (9, 2))).to(torch.float8_e8m0fnu)
    scale = torch.rand(9, 4)
    model = SideBySide(
        Scaled(torch.randn(9, 16).to(torch.float8_e4m3fn), scale),
        Scaled(torch.randn(9, 16).to(torch.float8_e5m2), powers),
        Scaled(torch.randint(0, 256, (9, 8), dtype=torch.uint8), powers),  # float4, two to a byte
        Scaled(torch.randint(-8, 8, (9, 16), dtype=torch.int8), scale, -scale, torch.int4),
    )
    x = torch.randn(2, 16)
    info = convert(model, tmp_path / "m.aimodel", x)
    data = {c.dtype.value for c in info.constants if "blockwise_shift_scale.data" in c.used_by}
    assert data == {"f8e4m3fn", "f8e5m2", "f4e2m1fn", "i4"}
    assert "infer" not in caplog.text
    assert_equal_in_runtime(tmp_path / "m.aimodel", model, x)


def test_names_that_mislead_the_stock_converter_do_not_matter(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lut_layer = TableLinear()  # every placeholder of it has "lut" in its name
            self.register_buffer("codes", torch.randint(0, 4, (5, 9), dtype=torch.uint8), persistent=False)
            self.table = torch.randn(1, 1, 4, 1)  # a plain attribute: a lifted constant

        def forward(self, x):
            return F.linear(self.lut_layer(x), coreai.lut_to_dense(self.codes, self.table, 0))

    model, x = Model(), torch.randn(2, 16)
    info = convert(model, tmp_path / "m.aimodel", x)
    assert sorted(c.bits for c in info.constants if "lut_to_dense.indices" in c.used_by) == [2, 4]
    assert_equal_in_runtime(tmp_path / "m.aimodel", model, x)


def test_two_tables_may_share_their_indices(tmp_path):
    class Model(TableLinear):
        def forward(self, x):
            other = coreai.lut_to_dense(self.weight_indices, self.weight_lut * 2, 0)
            return super().forward(x) + F.linear(x, other)

    model, x = Model(bits=3), torch.randn(2, 16)
    convert(model, tmp_path / "m.aimodel", x)
    assert_equal_in_runtime(tmp_path / "m.aimodel", model, x)


def test_sparse_weights_keep_one_bit_per_element_for_their_mask(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.rand(9, 16) > 0.7)
            self.register_buffer("values", torch.randn(int(self.mask.sum())))

        def forward(self, x):
            return F.linear(x, coreai.sparse_to_dense(self.values, self.mask))

    model, x = Model(), torch.randn(2, 16)
    info = convert(model, tmp_path / "m.aimodel", x)
    assert stored(info, "build_sparse_with_bitmask.mask").stored_bytes == 9 * 16 // 8
    assert_equal_in_runtime(tmp_path / "m.aimodel", model, x)


def test_height_and_width_may_stay_free(tmp_path):
    model = IntegerConv()
    height, width = torch.export.Dim("H", min=4, max=64), torch.export.Dim("W", min=4, max=64)
    info = convert(model, tmp_path / "m.aimodel", torch.randn(1, 3, 8, 8), ({2: height, 3: width},))
    assert info.function().inputs[0].shape == (1, 3, None, None)
    for size in ((8, 8), (5, 13)):
        assert_equal_in_runtime(tmp_path / "m.aimodel", model, torch.randn(1, 3, *size))


def test_operators_the_converter_lacks_are_decomposed_where_torch_can(tmp_path):
    class Model(nn.Module):
        def forward(self, x):
            return F.selu(x) + F.elu(x, 0.5)

    assert_equal_after_conversion(Model(), tmp_path / "m.aimodel", torch.randn(3, 4))


def assert_equal_after_conversion(model, path, *inputs):
    convert(model, path, inputs)
    assert_equal_in_runtime(path, model, *inputs)


def test_a_value_that_is_returned_twice_is_two_outputs(tmp_path):
    class Repeated(nn.Module):
        def forward(self, x):
            y = x * 2
            return x, y, {"again": x, "more": y + 1}, y

    x = torch.randn(2, 3)
    info = convert(Repeated(), tmp_path / "m.aimodel", (x,))
    found = load(tmp_path / "m.aimodel")(x)

    for output, expected in zip(found, (x, x * 2, x, x * 2 + 1, x * 2), strict=True):
        assert torch.equal(output, expected)
    assert sum(info.operations.values()) == 2
    assert check(tmp_path / "m.aimodel", Repeated(), (x,)).ok


def test_neither_the_model_nor_an_exported_program_is_changed(tmp_path):
    model, x = nn.Sequential(TableLinear(bits=3), nn.Dropout(0.5)).train(), torch.randn(2, 16)
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    convert(model, tmp_path / "a.aimodel", x)
    assert all(module.training for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == before[name][0]
        assert torch.equal(tensor, before[name][1])

    program = torch.export.export(model.eval(), (x,))
    text = str(program.graph)
    first = convert(program, tmp_path / "b.aimodel")
    second = convert(program, tmp_path / "c.aimodel")
    assert str(program.graph) == text
    assert first.weight_bytes == second.weight_bytes
    assert torch.equal(program.state_dict["0.weight_indices"], model[0].weight_indices)


def test_nothing_is_printed_and_each_part_is_timed(tmp_path, capsys):
    info = convert(TableLinear(), tmp_path / "m.aimodel", torch.randn(2, 16))
    assert capsys.readouterr().out == ""
    assert list(info.seconds) == ["export", "decompose", "make_packable", "convert", "save", "read back"]
    assert info.path == tmp_path / "m.aimodel"


class Refused(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = Inverse()

    def forward(self, x):
        return self.head(x)


class Inverse(nn.Module):
    def forward(self, x):
        return torch.linalg.inv(x)


def test_an_operator_nobody_can_lower_is_named_with_its_module_and_line(tmp_path):
    with pytest.raises(ConversionError, match=r"linalg_inv_ex.*module 'head'.*test_convert\.py.*line \d+"):
        convert(Refused(), tmp_path / "m.aimodel", torch.eye(3))


def test_a_foreign_operator_the_converter_stumbles_on_is_named_too(tmp_path):
    @torch.library.custom_op("graphpress_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)

    class Model(nn.Module):
        def forward(self, x):
            return twice(x)

    with pytest.raises(ConversionError, match=r"graphpress_tests\.twice.*the model's own forward"):
        convert(Model(), tmp_path / "m.aimodel", torch.eye(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m, "weight_lut", torch.randn(1, 1, 32, 1)), "32 entries.*2, 4, 8, 16, 64, 256"),
        (lambda m: m.weight_indices.fill_(17), "index 17 in 'weight_indices'.*table of 16 entries"),
    ],
)
def test_a_table_that_cannot_be_stored_is_refused(tmp_path, change, message):
    model = TableLinear()
    change(model)
    # Exporting never looks at the codes, so the mistake would otherwise wrap silently.
    with pytest.raises(ConversionError, match=message):
        convert(model, tmp_path / "m.aimodel", torch.randn(2, 16))


def test_codes_out_of_range_are_refused_instead_of_wrapped(tmp_path):
    with pytest.raises(ConversionError, match=r"'weight_data'.*-\d+ to \d+, but int4 holds -8 to 7"):
        convert(IntegerConv(dtype=torch.int4), tmp_path / "m.aimodel", torch.randn(1, 3, 6, 6))
    model = IntegerConv(dtype=torch.int4, low=-8, high=7, zero_point=9)
    with pytest.raises(ConversionError, match=r"'weight_zero_point'.*9 to 9"):
        convert(model, tmp_path / "m.aimodel", torch.randn(1, 3, 6, 6))


def test_a_model_that_cannot_be_exported_gets_a_clear_error(tmp_path):
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ConversionError, match=r"cannot export \S*Branching at .*: Could not guard on data-dependent"):
        convert(Branching(), tmp_path / "m.aimodel", torch.ones(3))
    with pytest.raises(ConversionError, match="needs example_inputs"):
        convert(nn.Linear(3, 3), tmp_path / "m.aimodel")
    with pytest.raises(ConversionError, match="cannot convert a str"):
        convert("model.pt", tmp_path / "m.aimodel")


@pytest.mark.parametrize("name", ["m.mlmodel", "file.txt/m.aimodel", "holds_files.aimodel"])
def test_a_path_that_cannot_be_written_is_found_before_any_work(tmp_path, monkeypatch, name):
    (tmp_path / "file.txt").write_text("")
    (tmp_path / "holds_files.aimodel").mkdir()
    (tmp_path / "holds_files.aimodel" / "thesis.txt").write_text("")
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(AssetError, match=r"aimodel|cannot write"):
        convert(nn.Linear(3, 3), tmp_path / name, torch.ones(3))
    assert (tmp_path / "holds_files.aimodel" / "thesis.txt").exists()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_an_asset_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    path, x = tmp_path / "m.aimodel", torch.randn(2, 16)
    convert(TableLinear(bits=2), path, x)
    old = {file.name: file.read_bytes() for file in path.iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["graphpress.backends.coreai.convert"], "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(TableLinear(bits=4), path, x)
    with pytest.raises(ConversionError):
        convert(Refused(), path, torch.eye(3))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == old

    convert(TableLinear(bits=4), path, x)
    assert stored(read(path), "lut_to_dense.indices").bits == 4
    assert [file.name for file in tmp_path.iterdir()] == ["m.aimodel"]


def norm_without_parameters():
    norm = nn.BatchNorm2d(4, eps=0.1, affine=False).eval()
    norm.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0]))
    norm.running_var.copy_(torch.tensor([0.25, 1.0, 4.0, 2.0]))
    return norm


@pytest.mark.parametrize(
    "model",
    [
        Lambda(lambda x: x.var() + x.std() + x.var((1, -1), keepdim=True) + torch.var_mean(x, 1)[0].mean()),
        norm_without_parameters(),
    ],
    ids=["variance", "norm without parameters"],
)
def test_ops_that_the_converter_lacks_are_spelled_out(model, tmp_path):
    convert(model, tmp_path / "m.aimodel", (IMAGE,))
    report = check(tmp_path / "m.aimodel", model, (IMAGE,))
    assert report.max_error <= 1e-5  # `ok` would also take what is spelled out, run by torch


G, U = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "model",
    [
        lambda x: F.silu(x.reshape(-1, 8) @ G) * (x.reshape(-1, 8) @ U),
        lambda x: x.reshape(-1, 8) @ G + torch.arange(30.0).reshape(6, 5),
        lambda x: (x.reshape(-1, 8) @ G).reshape(2, 3, 5) * (x @ U),
    ],
    ids=["gated", "beside a constant", "reshaped back"],
)
def test_products_of_flattened_rows_may_meet_other_operands(model, tmp_path):
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    convert(Lambda(model), tmp_path / "m.aimodel", (x,))
    report = check(tmp_path / "m.aimodel", Lambda(model), (x,))
    assert report.max_error <= 1e-5, report
