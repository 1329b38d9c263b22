"""Compression of an exported program itself, without the module that it was exported from."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from graphpress.backends import coreai
from graphpress.compressor import ArgumentTypeError
from graphpress.config import UnmatchedConfigError
from graphpress.inspection import ModelInspector
from graphpress.ir import ExportError
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from graphpress.passes.config import InvalidExecutionModeError
from graphpress.pruning import MagnitudePruner
from graphpress.quantization import Quantizer, QuantizerConfig

torch.set_num_threads(1)
W8 = QuantizerConfig.presets.w8()


class Tagger(nn.Module):
    """Layers of several kinds, a dropout, and a keyword argument."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 16))
        self.head = nn.Conv1d(16, 8, 3, padding=1)

    def forward(self, ids, *, scale):
        return {"scores": self.head((self.body(self.embedding(ids)) * scale).transpose(1, 2))}


def tagger() -> Tagger:
    torch.manual_seed(0)
    return Tagger().eval()


def inputs(batch: int, length: int = 6):
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(0, 20, (batch, length), generator=generator), torch.rand(batch, 1, 1, generator=generator)


def program(model: nn.Module | None = None, **options) -> ExportedProgram:
    ids, scale = inputs(2)
    dynamic = {"ids": {0: Dim.DYNAMIC, 1: Dim("length", min=3, max=40)}, "scale": {0: Dim.DYNAMIC}}
    return torch.export.export(model or tagger(), (ids,), {"scale": scale}, dynamic_shapes=dynamic, **options)


def scores(model, batch: int, length: int = 6) -> torch.Tensor:
    ids, scale = inputs(batch, length)
    with torch.no_grad():
        return model(ids, scale=scale)["scores"]


COMPRESSORS = {
    "quantizer": lambda model: Quantizer(model, W8),
    "palettizer": KMeansPalettizer,
    "pruner": MagnitudePruner,
}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_program_is_compressed_as_its_module_at_all_its_sizes_and_is_not_changed(name):
    exported = program()
    before = {key: tensor.clone() for key, tensor in exported.state_dict.items()}
    compressor, of_module = COMPRESSORS[name](exported), COMPRESSORS[name](tagger())
    ids, scale = inputs(2)
    prepared = compressor.prepare()
    of_module.prepare({"ids": ids, "scale": scale})
    finalized, expected = compressor.finalize(), of_module.finalize()
    for batch, length in ((2, 6), (3, 9), (1, 30)):
        assert torch.equal(scores(finalized, batch, length), scores(expected, batch, length))
        assert scores(prepared, batch, length).shape == (batch, 8, length)
    assert compressor.model is exported
    assert all(torch.equal(exported.state_dict[key], tensor) for key, tensor in before.items())
    assert not torch.equal(scores(finalized, 2), scores(tagger(), 2)), "nothing was compressed"


def test_activations_of_a_program_are_calibrated_at_sizes_of_its_dynamic_shapes_as_those_of_its_module():
    ids, scale = inputs(2)
    shapes = {"ids": {0: Dim.DYNAMIC, 1: Dim("length", min=3, max=40)}, "scale": {0: Dim.DYNAMIC}}
    finalized = []
    for model, given in ((program(), ()), (tagger(), ({"ids": ids, "scale": scale}, shapes))):
        quantizer = Quantizer(model)
        prepared = quantizer.prepare(*given)
        with quantizer.calibration_mode():
            for batch, length in ((2, 6), (5, 12)):
                scores(prepared, batch, length)
        finalized.append(quantizer.finalize())
    assert torch.equal(scores(finalized[0], 4, 10), scores(finalized[1], 4, 10))


def test_the_finalized_model_of_a_program_converts_with_its_dynamic_shapes(tmp_path):
    exported = torch.export.export(tagger().body, (torch.randn(2, 16),), dynamic_shapes=({0: Dim("batch", max=64)},))
    quantizer = Quantizer(exported)
    prepared = quantizer.prepare()
    with quantizer.calibration_mode():
        prepared(torch.randn(7, 16))
    finalized = quantizer.finalize()
    path = tmp_path / "body.aimodel"
    coreai.convert(finalized, path, torch.randn(2, 16), ({0: Dim("batch", max=64)},))
    assert coreai.check(path, finalized, torch.randn(9, 16)).ok


def test_a_static_program_stays_static_and_says_so_at_another_size():
    exported = torch.export.export(tagger().head, (torch.randn(2, 16, 5),))
    prepared = Quantizer(exported, W8).prepare()
    assert prepared(torch.randn(2, 16, 5)).shape == (2, 8, 5)


def test_configs_address_the_modules_that_a_program_was_exported_from():
    config = KMeansPalettizerConfig(
        global_config=None,
        module_type_configs={nn.Conv1d: ModuleKMeansPalettizerConfig()},
        module_name_configs={"body.3": ModuleKMeansPalettizerConfig()},
    )
    palettizer = KMeansPalettizer(program(), config)
    palettizer.prepare()
    names = [name for name, _ in palettizer.finalize().named_buffers() if name.endswith("_lut")]
    assert sorted(names) == ["body.3.weight_lut", "head.weight_lut"]
    nowhere = KMeansPalettizerConfig(module_name_configs={"tail": ModuleKMeansPalettizerConfig()})
    with pytest.raises(UnmatchedConfigError, match="tail"):
        KMeansPalettizer(program(), nowhere).prepare()


def test_a_config_may_name_a_dropout_that_computes_nothing():
    config = QuantizerConfig.from_dict({"quantization_config": {"module_name_configs": {r"body\.2": None}}})
    assert Quantizer(program(), config).prepare() is not None


def test_a_saved_program_without_example_inputs_is_compressed(tmp_path):
    exported = program()
    exported._example_inputs = None
    torch.export.save(exported, tmp_path / "tagger.pt2")
    loaded = torch.export.load(tmp_path / "tagger.pt2")
    assert loaded.example_inputs is None
    for name in COMPRESSORS:
        compressor = COMPRESSORS[name](loaded)
        compressor.prepare()
        assert scores(compressor.finalize(), 3).shape == (3, 8, 6)


def test_shared_parameters_of_a_program_are_those_of_the_prepared_model():
    exported = program()
    prepared = Quantizer(exported, W8).prepare(copy=False)
    assert prepared.get_parameter("head.weight").data_ptr() == exported.state_dict["head.weight"].data_ptr()


def test_jointly_compressed_programs_go_from_one_compressor_to_the_next():
    palettizer = KMeansPalettizer(program())
    palettizer.prepare()
    ids, scale = inputs(2)
    quantizer = Quantizer(palettizer.finalize(), QuantizerConfig.presets.w8().without("body.0"))
    quantizer.prepare({"ids": ids, "scale": scale})
    assert scores(quantizer.finalize(), 2).shape == (2, 8, 6)


@pytest.mark.parametrize("options", [{"strict": True}, {"dynamic_shapes": {"ids": None, "scale": None}}])
def test_options_of_the_export_are_refused_beside_a_program(options):
    with pytest.raises(ExportError, match="exported program already"):
        Quantizer(program()).prepare(**options)


def test_a_program_exported_in_training_mode_is_refused_with_its_ops():
    with pytest.raises(ExportError, match=r"training mode: dropout .*model.eval\(\)"):
        Quantizer(program(tagger().train())).prepare()
    without_statistics = nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4, track_running_stats=False)).eval()
    exported = torch.export.export(without_statistics, (torch.randn(2, 3, 4),))
    assert Quantizer(exported).prepare() is not None


def test_eager_mode_has_no_code_to_run_in_a_program():
    config = QuantizerConfig().set_execution_mode("eager")
    with pytest.raises(InvalidExecutionModeError, match="no longer has; accepted: 'graph'"):
        Quantizer(program(), config).prepare()


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_an_inspector_lists_the_ops_of_a_program(mode):
    ops = ModelInspector(program(), execution_mode=mode).summary.ops
    assert {"embedding", "linear", "conv1d"} <= {op.op_type for op in ops}


def test_what_is_neither_a_module_nor_a_program_is_refused():
    with pytest.raises(ArgumentTypeError, match=r"a torch\.nn\.Module or an ExportedProgram, not a dict"):
        Quantizer({})


def test_arguments_by_name_and_strict_mode_capture_what_positions_capture():
    model, (ids, scale) = tagger(), inputs(2)
    expected = scores(Quantizer(model, W8).prepare({"ids": ids, "scale": scale}), 2)
    strict = Quantizer(model, W8).prepare({"scale": scale, "ids": ids}, strict=True)
    assert torch.equal(scores(strict, 2), expected)
    assert scores(Quantizer(model, W8).prepare({"ids": ids, "scale": scale}), 5).shape == (5, 8, 6)
    assert torch.equal(scores(copy.deepcopy(strict), 2), expected)
