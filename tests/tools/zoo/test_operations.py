"""Operations of a program, in which functions count at every call."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import coreai_torch
import torch
from torch import nn

from graphpress.backends import coreai
from graphpress.tools.zoo.worker.operations import executed_operations


def converted(model: nn.Module, path: Path) -> coreai.AssetInfo:
    program = torch.export.export(model.eval(), (torch.randn(2, 3, 4, 4),))
    program = program.run_decompositions(coreai_torch.get_decomp_table())
    with contextlib.redirect_stdout(io.StringIO()):
        coreai_torch.TorchConverter().add_exported_program(program).to_coreai().save_asset(path)
    return coreai.read(path)


def test_a_function_that_is_called_three_times_counts_three_times(tmp_path: Path) -> None:
    norms = converted(
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.BatchNorm2d(3)), tmp_path / "m.aimodel"
    )
    calls = norms.operations["invoke"]
    assert calls == 3
    of_the_norm = sum(norms.operations.values()) - calls - norms.operations["relu"]
    assert of_the_norm > 5
    assert executed_operations(tmp_path / "m.aimodel") == 1 + 3 * of_the_norm


def test_without_calls_operations_are_those_of_the_asset(tmp_path: Path) -> None:
    info = converted(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), tmp_path / "m.aimodel")
    assert executed_operations(tmp_path / "m.aimodel") == sum(info.operations.values()) > 1
