"""What people keep: reproducers, configs, measurements, assets and packages, saved by writers that are killed or race.

A save of an asset or a package is a whole call of `convert`; the converters' work, which touches no file of ours, is
done once for each version.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from graphpress import GraphpressError
from graphpress.backends import coreai, coreml
from graphpress.backends.coreai import ops, packing, program
from graphpress.ir import files
from graphpress.ir.graph import Graph
from graphpress.palettization import KMeansPalettizerConfig
from graphpress.passes.config import ModuleKMeansPalettizerConfig, PalettizationSpec
from graphpress.passes.framework import Pipeline
from graphpress.passes.framework.debugging.bundles import Bundle
from graphpress.passes.framework.debugging.reproduction import Case, Failure
from graphpress.search import Sensitivities, measure_sensitivities
from graphpress.tools.passctl.compression import Recipe
from tests.graphpress.search.models import Pictures, bits, palettization
from tests.writers import (
    NEEDS_FORKS,
    Form,
    check_file_size_limit,
    check_kills,
    check_two_writers,
    graph_of,
    small_file_system,
    versions_in,
)

pytestmark = NEEDS_FORKS
MakeForm = Callable[[pytest.MonkeyPatch, Path], Form]


def bundles(patch: pytest.MonkeyPatch, folder: Path) -> Form:
    def save(folder: Path, value: int) -> None:
        case = Case(graph_of(value), Pipeline.parse("cse"), (torch.full((600,), value),))
        Bundle.of(case, Failure("PassFailed", message=str(value))).save(folder / "bundle")

    def read(folder: Path) -> set[str]:
        bundle = Bundle.load(folder / "bundle")
        assert bundle.inputs is not None
        return versions_in(bundle.graph) | {bundle.failure.message} | {str(int(bundle.inputs[0][0]))}

    return Form(save, read, ["bundle"])


def configs(patch: pytest.MonkeyPatch, folder: Path) -> Form:
    def save(folder: Path, value: int) -> None:
        entry = ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(n_bits=value)})
        names = {f"layer{number}": entry for number in range(10)}
        KMeansPalettizerConfig(module_name_configs=names).to_yaml(folder / "c.yaml")

    def read(folder: Path) -> set[str]:
        config = Recipe.read(folder / "c.yaml").palettization
        assert config is not None
        entries = config.to_dict()["kmeans_palettization_config"]["module_name_configs"].values()
        return {str(entry["op_state_spec"]["weight"]["n_bits"]) for entry in entries}

    return Form(save, read, ["c.yaml"])


def measurements(patch: pytest.MonkeyPatch, folder: Path) -> Form:
    model, compression, metric = palettization(Pictures())
    measured = measure_sensitivities(model, compression, bits(1), metric, layers=["stem"])

    def save(folder: Path, value: int) -> None:
        attrs.evolve(measured, module_names=(str(value),) * 300).save(folder / "s.json")

    def read(folder: Path) -> set[str]:
        return set(Sensitivities.load(folder / "s.json").module_names)

    return Form(save, read, ["s.json"])


class Filled(nn.Module):
    """A product with a weight of one version."""

    def __init__(self, value: int):
        super().__init__()
        self.linear = nn.Linear(32, 32, bias=False)
        nn.init.constant_(self.linear.weight, value)
        self.linear.weight.data[0, 0] += 0.25  # a constant of one value is stored as that value alone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


EXAMPLE = (torch.zeros(1, 32),)


VERSIONS = (1, 2, 3)


@cache
def _programs() -> dict[int, tuple[Any, Any]]:
    """The program of each version, before and after Core AI's converter."""
    module = sys.modules["graphpress.backends.coreai.convert"]
    found = {}
    for value in VERSIONS:
        exported = program.exported(Filled(value), EXAMPLE, None)
        settled = packing.make_packable(program.decompose(program.prepared(exported)))
        found[value] = settled, module._converted(settled)
    return found


def assets(patch: pytest.MonkeyPatch, folder: Path) -> Form:
    pytest.importorskip("coreai_torch")
    ops.register()
    made, module = _programs(), sys.modules["graphpress.backends.coreai.convert"]
    patch.setattr(program, "exported", lambda value, *rest: made[value][0])
    for owner, name in ((program, "prepared"), (program, "decompose"), (packing, "make_packable")):
        patch.setattr(owner, name, lambda given: given)
    patch.setattr(module, "_converted", lambda given: next(each for each in made.values() if each[0] is given)[1])
    return Form(
        lambda folder, value: coreai.convert(value, folder / "m.aimodel"),
        lambda folder: _weights(coreai.from_asset(folder / "m.aimodel")),
        ["m.aimodel"],
    )


@cache
def _models() -> dict[int, Any]:
    """The model of each version, as coremltools converts it."""
    module = sys.modules["graphpress.backends.coreml.convert"]
    programs = {value: program.exported(Filled(value), EXAMPLE, None) for value in VERSIONS}
    return {value: module.converted(exported, module.Target.iOS18) for value, exported in programs.items()}


def packages(patch: pytest.MonkeyPatch, folder: Path) -> Form:
    pytest.importorskip("coremltools")
    made, module = _models(), sys.modules["graphpress.backends.coreml.convert"]
    for name in ("exported", "widened", "with_wide_inputs", "with_folded_norms", "require_legal"):
        patch.setattr(module, name, lambda given, *rest: given)
    patch.setattr(module, "from_exported_program", lambda given: Graph())
    patch.setattr(module, "converted", lambda value, target: made[value])
    return Form(
        lambda folder, value: coreml.convert(value, folder / "m.mlpackage"),
        lambda folder: _weights(coreml.from_package(folder / "m.mlpackage")),
        ["m.mlpackage"],
    )


def _weights(graph: Graph) -> set[str]:
    return {str(int(each.tensor.max())) for each in graph.constants.values() if each.tensor.numel() == 32 * 32}


FORMS: dict[str, MakeForm] = {
    "bundle": bundles,
    "yaml": configs,
    "sensitivities": measurements,
    "aimodel": assets,
    "mlpackage": packages,
}
SECONDS = {"bundle": 0.1, "yaml": 0.02, "sensitivities": 0.02, "aimodel": 0.3, "mlpackage": 0.3}
"""Within which a writer is killed: a few saves."""


@pytest.fixture(
    params=[name if name in ("bundle", "yaml") else pytest.param(name, marks=pytest.mark.slow) for name in FORMS]
)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def form(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Form:
    return FORMS[name](monkeypatch, tmp_path_factory.mktemp("form"))


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_writers_killed_at_any_time_leave_a_whole_version_and_the_next_save_cleans_up(name, form, tmp_path, kills):
    check_kills(form, tmp_path, kills, SECONDS[name])


@pytest.mark.parametrize("seconds", [0.5, pytest.param(5, marks=pytest.mark.slow)])
def test_a_reader_sees_one_whole_version_while_two_write(form, tmp_path, seconds):
    check_two_writers(form, tmp_path, seconds)


def test_a_limit_on_the_size_of_files_leaves_the_old_version(form, tmp_path):
    check_file_size_limit(form, tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    with small_file_system(tmp_path / "small", "4m") as folder:
        yield folder


def _fill(folder: Path, left: int) -> None:
    """Leave `left` bytes of a file system free."""
    with open(folder / "fill", "wb", 0) as file:
        while os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize > left:
            file.write(bytes(4096))


def test_a_disk_that_fills_up_after_the_space_was_checked_leaves_the_old_version(form, small, monkeypatch):
    for module in (files, sys.modules["graphpress.backends.coreai.convert"]):
        monkeypatch.setattr(module, "check_space", lambda path, size: None)
    outcomes = []
    for left in (0, 4096, 8192, 12288, 16384, 32768, 65536, 262144, 524288):
        form.save(small, 1)
        _fill(small, left)
        try:
            form.save(small, 2)
            outcomes.append("saved")
        except GraphpressError as error:
            outcomes.append(str(error))
        assert form.read(small) == {"2" if outcomes[-1] == "saved" else "1"}
        assert sorted(os.listdir(small)) == sorted(["fill", *form.names])
        (small / "fill").unlink()
    assert "saved" not in outcomes[:1]
    assert outcomes[-1] == "saved"
    reasons = [outcome for outcome in outcomes if outcome != "saved"]
    assert [each for each in reasons if not re.search("No space left on device|enough space", each)] == []


def test_a_read_only_file_system_is_told(form, small):
    form.save(small, 1)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(GraphpressError, match="Read-only file system"):
        form.save(small, 2)
    assert form.read(small) == {"1"}
