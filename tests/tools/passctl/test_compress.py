"""passctl compress makes an asset that executes, reports what it is worth, and leaves nothing behind when it fails."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.tools.passctl.console import InputDataError
from graphpress.tools.passctl.inputs import CalibrationData
from graphpress.tools.passctl.main import cli

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    return made.eval(), (torch.randn(1, 3, 8, 8),)
"""
JOINT = """
int8_table: &table {weight: {n_bits: 4, lut_qspec: {dtype: int8}}}
kmeans_palettization_config:
  global_config: {op_state_spec: *table}
quantization_config:
  global_config: {op_state_spec: null}
"""
FLOAT_BYTES = 4 * (8 * 3 * 9 + 4 * 8 + 4 + 4 * 8)  # two weights, a bias, four tensors of the norm


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "joint.yaml").write_text(JOINT)
    (tmp_path / "palettize.yaml").write_text("kmeans_palettization_config: {global_config: {}}\n")
    (tmp_path / "quantize.yaml").write_text("quantization_config: {global_config: {}}\n")
    np.savez(tmp_path / "data.npz", input=np.random.default_rng(0).normal(size=(6, 3, 8, 8)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "net", raising=False)


def compress(*arguments: str, code: int = 0, model: str = "net:net") -> Result:
    result = CliRunner().invoke(cli, ["compress", model, *arguments])
    assert result.exit_code == code, result.output
    return result


def left_behind() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"net.py", "__pycache__"}


GIVEN = {"joint.yaml", "palettize.yaml", "quantize.yaml", "data.npz"}


def test_joint_compression_ends_in_a_checked_asset():
    result = compress("--config", "joint.yaml", "-o", "out.aimodel", "--calibration", "data.npz", "--json")
    data = json.loads(result.stdout)
    assert data["check"]["ok"]
    assert data["warnings"] == [] == data["skipped"]
    assert data["float_weight_bytes"] == FLOAT_BYTES
    assert data["weight_bytes"] == coreai.weight_bytes("out.aimodel")
    assert data["stored_bytes"] == coreai.stored_bytes("out.aimodel")
    assert data["ratio"] == pytest.approx(FLOAT_BYTES / data["weight_bytes"])
    assert 0 < data["relative_error_against_float"] < 0.3
    stages = [
        "load",
        "palettize",
        "finalize weights",
        "prepare quantizers",
        "calibrate",
        "finalize",
        "convert",
        "check",
    ]
    assert list(data["seconds"]) == stages
    operations = coreai.read("out.aimodel").operations
    assert operations["lut_to_dense"] == 2
    assert operations["quantize"] >= 2
    with coreai.load("out.aimodel") as model:
        assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 6, 6)
    assert left_behind() == {*GIVEN, "out.aimodel"}


def test_a_saved_program_keeps_its_dynamic_shapes_in_the_asset():
    dims = {2: torch.export.Dim("height", min=4, max=32), 3: torch.export.Dim("width", min=4, max=32)}
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    exported = torch.export.export(module, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(dims,))
    torch.export.save(exported, "net.pt2")
    options = ("--config", "joint.yaml", "-o", "out.aimodel", "--calibration", "data.npz", "--json")
    assert json.loads(compress(*options, model="net.pt2").stdout)["check"]["ok"]
    with coreai.load("out.aimodel") as model:
        for height, width in ((8, 8), (11, 5)):
            assert model(torch.zeros(2, 3, height, width)).shape == (2, 4, height - 2, width - 2)


@pytest.mark.parametrize(
    "options",
    [
        "weight_rounding: {type: gptq, activation_order: true}",
        "weight_rounding: {type: adaptive, iterations: 20}",
        "bias_correction: analytic",
        "bias_correction: empirical",
        "equalize_layers: true",
    ],
)
def test_accuracy_options_are_a_line_of_the_file(options):
    state = "{weight: {dtype: int4, granularity: {type: per_channel}}}"
    for name, line in (("plain", ""), ("better", options)):
        text = f"quantization_config:\n  {line}\n  global_config: {{op_state_spec: {state}}}\n"
        Path(f"{name}.yaml").write_text(text)
        given = ("--config", f"{name}.yaml", "-o", f"{name}.aimodel", "--calibration", "data.npz", "--json")
        assert json.loads(compress(*given).stdout)["check"]["ok"]
    inputs = torch.from_numpy(np.load("data.npz")["input"][:1]).float()
    with coreai.load("plain.aimodel") as plain, coreai.load("better.aimodel") as better:
        assert not torch.equal(plain(inputs), better(inputs))


def test_activation_aware_tables_are_found_with_the_calibration_data():
    Path("aware.yaml").write_text(
        "kmeans_palettization_config:\n"
        "  global_config: {op_state_spec: {weight: {n_bits: 2, activation_aware: true}}}\n"
    )
    given = ("--config", "aware.yaml", "-o", "out.aimodel", "--json")
    data = json.loads(compress(*given, "--calibration", "data.npz").stdout)
    assert data["check"]["ok"]
    assert data["warnings"] == []
    assert "weigh by activations" in data["seconds"]
    without = json.loads(compress(*given).stdout)
    assert any("activation_aware had no data" in warning for warning in without["warnings"])
    assert without["relative_error_against_float"] != data["relative_error_against_float"]


def test_joint_compression_ends_in_a_checked_package_that_other_commands_take():
    given = ("--config", "joint.yaml", "--calibration", "data.npz", "--backend", "coreml", "-o", "out.mlpackage")
    data = json.loads(compress(*given, "--target", "iOS26", "--json").stdout)
    assert data["check"]["ok"]
    assert data["weight_bytes"] == coreml.read("out.mlpackage").weight_bytes
    dumped = CliRunner().invoke(cli, ["dump", "out.mlpackage"])
    assert dumped.exit_code == 0, dumped.output
    assert "quant.lut_to_dense" in dumped.stdout
    same = CliRunner().invoke(cli, ["diff", "out.mlpackage", "out.mlpackage"])
    assert same.exit_code == 0, same.output


PRUNED = "pruning_config: {global_config: {op_state_spec: {weight: {target_sparsity: 0.75}}}}\n"
TABLES = "kmeans_palettization_config: {global_config: {op_state_spec: {weight: {n_bits: 4}}}}\n"
CODES = (
    "quantization_config: {global_config: {op_state_spec: {weight: {dtype: int8, granularity: {type: per_channel}}},"
    " op_input_spec: null, op_output_spec: null}}\n"
)


@pytest.mark.parametrize(
    ("then", "coreai_op", "coreml_op"),
    [
        ("", "build_sparse_with_bitmask", "constexpr_sparse_to_dense"),
        (TABLES, "lut_to_dense", "constexpr_lut_to_sparse"),
        (CODES, "blockwise_shift_scale", "constexpr_sparse_blockwise_shift_scale"),
    ],
    ids=["alone", "with tables", "with codes"],
)
def test_pruning_goes_alone_and_before_the_others(then, coreai_op, coreml_op):
    Path("sparse.yaml").write_text(PRUNED + then)
    given = ("--config", "sparse.yaml", "--json")
    asset = json.loads(compress(*given, "-o", "out.aimodel").stdout)
    package = json.loads(compress(*given, "--backend", "coreml", "-o", "out.mlpackage").stdout)
    assert asset["check"]["ok"]
    assert package["check"]["ok"]
    assert "prune" in asset["seconds"]
    found = coreai.read("out.aimodel").operations, coreml.read("out.mlpackage").operations
    assert found[0]["build_sparse_with_bitmask"] == 2
    assert found[0][coreai_op] == found[1][coreml_op] == 2
    with coreai.load("out.aimodel") as model:
        assert torch.allclose(
            model(image := torch.randn(1, 3, 8, 8)), coreml.evaluate("out.mlpackage", [image])[1][0], atol=1e-5
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backend", "coreml", "--target", "iOS17"), "iOS18 can store all of it"),
        (("--backend", "coreml", "--target", "ios18"), "unknown target 'ios18'"),
        (("--target", "iOS18"), "--target is for --backend coreml"),
    ],
)
def test_a_target_that_cannot_or_does_not_exist_is_said_and_nothing_is_left_behind(options, message):
    output = "out.mlpackage" if "coreml" in options else "out.aimodel"
    result = compress("--config", "joint.yaml", "-o", output, "--calibration", "data.npz", *options, code=2)
    assert message in result.stderr
    assert left_behind() == GIVEN


def test_each_technique_goes_alone_and_the_old_asset_is_replaced():
    compress("--config", "palettize.yaml", "-o", "out.aimodel")
    assert "quantize" not in coreai.read("out.aimodel").operations
    result = compress("--config", "quantize.yaml", "-o", "out.aimodel")
    assert "lut_to_dense" not in coreai.read("out.aimodel").operations
    assert result.stdout == ""
    assert "warning: " in result.stderr  # the quantizers saw nothing but the example
    assert "smaller by" in result.stderr
    assert "range: ok" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "joint.yaml", "-o", "out.mlmodel"], "must end in '.aimodel'"),
        (["--config", "joint.yaml", "-o", "data.npz/out.aimodel"], "cannot write an asset"),
        (["--config", "jiont.yaml", "-o", "out.aimodel"], "'jiont.yaml' cannot be read"),
        (["--config", "joint.yaml", "-o", "out.aimodel", "--calibration", "nothing"], "files of tensors end in"),
        (["--config", "joint.yaml", "-o", "out.aimodel", "--input-shape", "1x4x8x8"], "does not run on"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_left_behind(arguments, message):
    result = compress(*arguments, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert left_behind() == GIVEN


def test_an_impossible_output_is_found_before_the_model_is_looked_at():
    assert "must end in" in compress("--config", "no.yaml", "-o", "out.txt", model="no:model", code=2).stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "has no config"),
        ("quantisation_config: {}", "did you mean 'quantization_config'"),
        ("prunning_config: {}", "did you mean 'pruning_config'"),
        ("pruning_config: {global_config: {op_state_spec: {weight: {target_sparsity: 2}}}}", "target_sparsity"),
        ("quantization_config: {global_confg: null}", "did you mean 'global_config'"),
        ("quantization_config: [", "not valid YAML"),
    ],
)
def test_a_config_that_makes_no_sense_is_explained(text, message):
    Path("bad.yaml").write_text(text)
    assert message in compress("--config", "bad.yaml", "-o", "out.aimodel", code=2).stderr


def test_a_failure_after_the_work_leaves_the_old_asset_whole(monkeypatch):
    compress("--config", "palettize.yaml", "-o", "out.aimodel")
    before = Path("out.aimodel/main.mlirb").read_bytes()

    def failing(*_):
        raise InputDataError("the disk is full")

    monkeypatch.setattr(coreai, "check", failing)
    assert "the disk is full" in compress("--config", "quantize.yaml", "-o", "out.aimodel", code=2).stderr
    assert Path("out.aimodel/main.mlirb").read_bytes() == before
    assert left_behind() == {*GIVEN, "out.aimodel"}


def test_an_asset_that_computes_something_else_ends_with_code_1(monkeypatch):
    report = coreai.CheckReport(Path("x"), 1e-5, (coreai.OutputCheck("y", (1,), 0.5, 0.1, 1.0, 0.5),))
    monkeypatch.setattr(coreai, "check", lambda *_: report)
    assert "MISMATCH" in compress("--config", "palettize.yaml", "-o", "out.aimodel", code=1).stderr


# calibration data

EXAMPLE = (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


def batches(path: Path) -> list[tuple[torch.Tensor, ...]]:
    return list(CalibrationData.open(path, ["x", "ids"], EXAMPLE))


def test_samples_along_the_first_axis_become_batches_of_the_examples_size():
    np.savez("many.npz", x=np.arange(15.0).reshape(5, 3), ids=np.arange(5, dtype=np.int32))
    made = batches(Path("many.npz"))
    assert [each[0].shape[0] for each in made] == [2, 2, 1]
    assert torch.cat([each[1] for each in made]).tolist() == [0, 1, 2, 3, 4]
    assert made[0][1].dtype == torch.int64


def test_stacked_batches_come_apart_and_files_of_a_folder_in_the_order_of_names():
    Path("folder").mkdir()
    for number in (10, 2):
        x = np.full((3, 2, 3), float(number))
        np.savez(f"folder/{number:02}.npz", x=x, ids=np.zeros((3, 2), dtype=np.int64))
    made = batches(Path("folder"))
    assert [each[0][0, 0].item() for each in made] == [2.0] * 3 + [10.0] * 3
    assert made[0][0].shape == (2, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 3))}, "has 1 inputs; the model is captured with 2"),
        ({"x": np.zeros((4, 3)), "id": np.zeros(4, dtype=np.int64)}, "did you mean 'ids'"),
        ({"x": np.zeros((4, 3)), "ids": np.zeros(2, dtype=np.int64)}, "different numbers of batches"),
        ({"x": np.zeros((4, 3)), "ids": np.zeros(4)}, "ids is float32, and the model takes int64"),
        ({"x": np.zeros((4, 3, 1, 1)), "ids": np.zeros(4, dtype=np.int64)}, "x has the shape 4x3x1x1; accepted"),
        ({"x": np.zeros((0, 3)), "ids": np.zeros(0, dtype=np.int64)}, "has no batch"),
    ],
)
def test_data_that_does_not_fit_is_refused_when_it_is_opened(arrays, message):
    np.savez("bad.npz", **arrays)
    with pytest.raises(InputDataError, match=message):
        CalibrationData.open(Path("bad.npz"), ["x", "ids"], EXAMPLE)


def test_an_empty_folder_and_a_pickled_array_are_refused():
    Path("empty").mkdir()
    with pytest.raises(InputDataError, match="has no calibration data"):
        CalibrationData.open(Path("empty"), ["x"], EXAMPLE[:1])
    np.savez("pickled.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputDataError, match=r"pickled\.npz cannot be read"):
        CalibrationData.open(Path("pickled.npz"), ["x"], EXAMPLE[:1])
    shutil.rmtree("empty")
