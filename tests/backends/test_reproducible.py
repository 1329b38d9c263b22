"""Equal models give equal files, whatever the process, and a full disk is an error that leaves the old artifact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.backends.coreai.reproducible import renamed
from graphpress.backends.errors import AssetError

pytest.importorskip("coreai_torch")
pytest.importorskip("coremltools")
INPUT = (torch.ones(1, 64),)
BACKENDS = {".aimodel": coreai, ".mlpackage": coreml}

SAVE = """
import sys
from pathlib import Path
from tests.backends.test_reproducible import BACKENDS, INPUT, network
for suffix, backend in BACKENDS.items():
    backend.convert(network(), Path(sys.argv[1]) / f"m{suffix}", INPUT)
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.slow
def test_two_processes_save_equal_models_to_equal_bytes(tmp_path):
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        root = Path(__file__).parent.parent.parent
        subprocess.run([sys.executable, "-c", SAVE, tmp_path / seed], check=True, env=environment, cwd=root)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    for suffix, backend in BACKENDS.items():
        assert backend.check(tmp_path / "1" / f"m{suffix}", network(), INPUT).ok


@pytest.mark.parametrize("suffix", BACKENDS)
def test_saving_again_writes_the_same_bytes_and_the_runtime_reads_them(tmp_path, suffix):
    backend = BACKENDS[suffix]
    for name in "ab":
        backend.convert(network(), tmp_path / f"{name}{suffix}", INPUT)
    assert contents(tmp_path / f"a{suffix}") == contents(tmp_path / f"b{suffix}")
    assert backend.check(tmp_path / f"a{suffix}", network(), INPUT).ok


def test_an_asset_has_the_same_bytes_where_the_system_has_no_files_in_memory(tmp_path, monkeypatch):
    coreai.convert(network(), tmp_path / "a.aimodel", INPUT)
    monkeypatch.delattr(os, "memfd_create", raising=False)
    coreai.convert(network(), tmp_path / "b.aimodel", INPUT)
    assert contents(tmp_path / "a.aimodel") == contents(tmp_path / "b.aimodel")
    assert sorted(os.listdir(tmp_path)) == ["a.aimodel", "b.aimodel"]


def test_a_full_disk_is_an_error_where_the_system_has_no_files_in_memory(small, monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with pytest.raises(AssetError, match=r"cannot (save|write) .*No space left on device"):
        coreai.convert(nn.Linear(64, 4096).eval(), small / "m.aimodel", INPUT)
    assert os.listdir(small) == []


def test_an_asset_has_the_date_that_is_asked_for_and_names_resources_by_their_order(tmp_path):
    coreai.convert(network(), tmp_path / "m.aimodel", INPUT, created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    files = contents(tmp_path / "m.aimodel")
    assert json.loads(files["metadata.json"])["creationDate"] == "20260102T030405Z"
    assert b"resource_0\0" in files["main.mlirb"]
    assert renamed(files["main.mlirb"]) == files["main.mlirb"]
    assert coreai.check(tmp_path / "m.aimodel", network(), INPUT).ok


@pytest.fixture
def small(tmp_path) -> Iterator[Path]:
    """A file system of 100 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems can be mounted by root only")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("suffix", BACKENDS)
def test_a_full_disk_is_an_error_and_leaves_nothing(small, suffix):
    large = nn.Linear(64, 4096).eval()
    with pytest.raises(AssetError, match=r"cannot (save|write) .*No space left on device"):
        BACKENDS[suffix].convert(large, small / f"m{suffix}", INPUT)
    assert os.listdir(small) == []
