from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from graphpress import ExportBackend
from graphpress.backends import coreai
from graphpress.casting import cast_fp32_to_fp16, cast_int32_to_int16, cast_to_16_bit_precision
from graphpress.compiling import CompileError
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.quantization import QuantizationSpec, Quantizer, QuantizerConfig


class Calls(nn.Module):
    """A module that calls a function of itself and its inputs."""

    def __init__(self, function, **buffers: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def forward(self, *args):
        return self.function(self, *args)


def exported(function, *args, **buffers) -> ExportedProgram:
    model = function if isinstance(function, nn.Module) else Calls(function, **buffers)
    return torch.export.export(model.eval(), args)


def ops_of(program: ExportedProgram) -> list[str]:
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return [target._schema.name for target in calls if isinstance(target, torch._ops.OpOverload)]


def float_dtypes(program: ExportedProgram) -> set[torch.dtype]:
    values = [node.meta.get("val") for node in program.graph.nodes]
    return {value.dtype for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()}


def integers(*shape: int) -> torch.Tensor:
    return torch.randint(-20, 20, shape)


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )


def test_weights_inputs_and_outputs_become_float16_in_place():
    image = torch.randn(2, 3, 6, 6)
    program = exported(convolutions(), image)
    expected = program.module()(image)
    assert cast_to_16_bit_precision(program) is program
    assert float_dtypes(program) == {torch.float16}
    assert {tensor.dtype for tensor in program.state_dict.values() if tensor.is_floating_point()} == {torch.float16}
    result = program.module()(image.half())
    assert result.dtype is torch.float16
    assert torch.allclose(result.float(), expected, atol=4e-3 * expected.abs().max().item())


def test_example_inputs_follow_the_types_and_keep_the_values():
    image = torch.randn(2, 3, 6, 6)
    program = cast_fp32_to_fp16(exported(convolutions(), image))
    assert torch.equal(program.example_inputs[0][0], image.half())


def test_what_ops_create_is_float16():
    program = cast_fp32_to_fp16(
        exported(lambda _, x: x + torch.zeros(3) + torch.arange(3.0) + torch.full((3,), 2.0), torch.randn(3))
    )
    assert float_dtypes(program) == {torch.float16}
    assert torch.equal(program.module()(torch.ones(3).half()), torch.tensor([3.0, 4.0, 5.0]).half())


def test_casts_of_the_model_to_float32_go():
    program = cast_fp32_to_fp16(exported(lambda _, x: x.float() * 2, torch.randn(3)))
    assert ops_of(program) == ["aten::mul"]


@pytest.mark.parametrize("largest", [65504.0, float("inf")])
def test_what_float16_can_hold_is_cast(largest: float):
    program = cast_fp32_to_fp16(exported(lambda m, x: x + m.bias, torch.randn(2), bias=torch.tensor([1.0, largest])))
    assert float_dtypes(program) == {torch.float16}


def test_a_buffer_beyond_float16_stays_float32_and_the_result_comes_back():
    program = cast_fp32_to_fp16(
        exported(lambda m, x: (x + m.big) @ m.eye, torch.randn(1, 2), big=torch.tensor(1e6), eye=torch.eye(2))
    )
    assert program.constants.get("big", program.state_dict.get("big")).dtype is torch.float32
    assert program.module()(torch.zeros(1, 2).half()).dtype is torch.float16


@pytest.mark.parametrize("masked", [-1e9, torch.finfo(torch.float32).min])
def test_masks_reach_softmax_as_they_are(masked: float):
    """Cast to float16 they would be minus infinity, and a row of them not a number."""

    def attention(_, scores, mask):
        return torch.softmax(scores.masked_fill(mask, masked), -1)

    scores, mask = torch.randn(2, 4), torch.tensor([[True] * 4, [True, False, False, False]])
    expected = torch.softmax(scores.masked_fill(mask, masked), -1)
    program = cast_fp32_to_fp16(exported(attention, scores, mask))
    result = program.module()(scores.half(), mask)
    assert result.dtype is torch.float16
    assert torch.allclose(result.float(), expected, atol=1e-3)


def test_a_guard_against_division_by_zero_is_not_lost():
    """1e-12 is zero in float16."""
    program = cast_fp32_to_fp16(
        exported(lambda _, x: x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12), torch.randn(2, 3))
    )
    assert torch.equal(program.module()(torch.zeros(2, 3).half()), torch.zeros(2, 3).half())


def test_positions_that_float16_skips_stay_exact():
    positions = torch.arange(4096.0)
    program = cast_fp32_to_fp16(exported(lambda _, x: (x + torch.arange(4096.0)).cos(), torch.zeros(4096)))
    result = program.module()(torch.zeros(4096).half())
    assert torch.allclose(result.float(), positions.cos(), atol=1e-3)


def test_dynamic_shapes_buffers_that_are_written_and_tied_weights_survive():
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight
            self.register_buffer("total", torch.zeros(4))

        def forward(self, x):
            self.total.add_(x.sum(0))
            return self.second(self.first(x)) + self.total

    model = Counter().eval()
    x = torch.randn(3, 4)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: Dim("batch", min=1, max=64)}})
    expected = copy.deepcopy(model)(torch.ones(5, 4))  # the program writes to its own buffer at every run
    cast_to_16_bit_precision(program)
    module = program.module()
    assert torch.allclose(module(torch.ones(5, 4).half()).float(), expected, rtol=1e-2, atol=1e-2)
    assert torch.equal(module.total.float(), torch.full((4,), 5.0))
    weights = [t for name, t in program.state_dict.items() if name.endswith("weight")]
    assert all(weight.data_ptr() == weights[0].data_ptr() for weight in weights)


def test_products_and_their_sums_are_int16_and_return_what_they_did():
    x, y = integers(4, 4), integers(4, 4)
    program = cast_int32_to_int16(exported(lambda _, x, y: (x * y + y).sum(-1), x, y))
    dtypes = [node.meta["val"].dtype for node in program.graph.nodes if "val" in node.meta]
    assert dtypes == [torch.int16] * 5 + [torch.int64]
    assert torch.equal(program.module()(x.short(), y.short()), (x * y + y).sum(-1))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x, y: torch.embedding(m.table, x * x + y * y),
        lambda m, x, y: m.table.index_select(0, (x + y * y).abs().flatten()),
        lambda m, x, y: m.table[(x * y).abs()],
        lambda m, x, y: x * 2 + 1,
        lambda m, x, y: x.sum(),
        lambda m, x, y: (m.numbers * m.numbers).float() + x,
        lambda m, x, y: torch.cat([x, y]).sort()[0],
    ],
    ids=["embedding", "index-select", "index", "scalars", "a-sum-alone", "constants", "cheap"],
)
def test_integers_stay_where_they_index_or_casting_would_not_pay(function):
    buffers = {"table": torch.randn(900, 2), "numbers": torch.arange(4)}
    program = exported(function, integers(4, 4), integers(4, 4), **buffers)
    before = ops_of(program)
    assert ops_of(cast_int32_to_int16(program)) == before


def test_integers_that_are_sizes_stay():
    program = exported(lambda _, x, y: (x * y).sum().item() + x, integers(4), integers(4))
    assert torch.int16 not in {
        getattr(n.meta.get("val"), "dtype", None) for n in cast_int32_to_int16(program).graph.nodes
    }


@pytest.mark.parametrize("bad", [nn.Linear(2, 2), None, "program"])
def test_only_programs_are_cast(bad):
    with pytest.raises(CompileError, match="takes an ExportedProgram"):
        cast_to_16_bit_precision(bad)


def quantized(model: nn.Module, image: torch.Tensor) -> nn.Module:
    quantizer = Quantizer(model, QuantizerConfig())
    prepared = quantizer.prepare((image,))
    with quantizer.calibration_mode():
        prepared(image)
        prepared(image + 0.1)
    return quantizer.finalize(backend=ExportBackend.CoreAI)


def palettized(model: nn.Module, image: torch.Tensor, **options) -> nn.Module:
    weights = ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(**options)})
    palettizer = KMeansPalettizer(model, KMeansPalettizerConfig(global_config=weights))
    palettizer.prepare((image,))
    return palettizer.finalize(backend=ExportBackend.CoreAI)


COMPRESSIONS = {
    "none": lambda model, image: model,
    "w8a8": quantized,
    "tables": lambda model, image: palettized(model, image, n_bits=4),
    "int8 tables": lambda model, image: palettized(model, image, n_bits=4, lut_qspec=QuantizationSpec()),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_compressed_model_is_cast_and_the_runtime_computes_what_torch_does(compression: str, tmp_path):
    image = torch.randn(2, 3, 6, 6)
    model = convolutions().eval()
    finalized = COMPRESSIONS[compression](model, image)
    expected = finalized(image)
    program = coreai.program.decompose(torch.export.export(finalized, (image,)))
    codes = {name: t.clone() for name, t in program.state_dict.items() if t.dtype in (torch.int8, torch.uint8)}
    packed = [op for op in ops_of(program) if op.startswith("coreai::")]
    cast_to_16_bit_precision(program)
    assert float_dtypes(program) == {torch.float16}
    assert [op for op in ops_of(program) if op.startswith("coreai::")] == packed
    assert all(torch.equal(program.state_dict[name], tensor) for name, tensor in codes.items())
    eager = program.module()(image.half())
    reach = expected.abs().max().item()
    assert torch.allclose(eager.float(), expected, atol=0.02 * reach)
    coreai.convert(program, tmp_path / "cast.aimodel")
    with coreai.load(tmp_path / "cast.aimodel") as loaded:
        ran = loaded(image.half())
    assert ran.dtype is torch.float16
    assert torch.allclose(ran.float(), eager.float(), atol=0.02 * reach)


def test_a_buffer_that_only_an_assertion_reads_is_no_obstacle():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("unused", torch.ones(2))

        def forward(self, x):
            return x + 1, self.unused.to(dtype=x.dtype)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            return self.inner(x)[0]

    x = torch.ones(2)
    cast = cast_to_16_bit_precision(torch.export.export(Outer(), (x,)).run_decompositions())
    assert torch.equal(cast.module()(x.half()), torch.full((2,), 2.0).half())
