"""Files of tensors from strangers: no code runs, nothing inflates, and sizes in headers are not believed."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from graphpress.tools.passctl import inputs
from graphpress.tools.passctl.console import InputDataError
from graphpress.tools.passctl.inputs import read_tensors


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_a_pickle_in_a_file_of_tensors_is_not_loaded(tmp_path, suffix):
    canary, path = tmp_path / "ran", tmp_path / f"evil{suffix}"
    evil = np.array([Evil(canary)], dtype=object)
    if suffix == ".pt":
        torch.save([Evil(canary)], path)
    elif suffix == ".npy":
        np.save(path, evil, allow_pickle=True)
    else:
        np.savez(path, x=evil)
    with pytest.raises(InputDataError, match="cannot be read"):
        read_tensors(path)
    assert not canary.exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors"])
def test_a_bare_pickle_under_any_name_is_not_loaded(tmp_path, suffix):
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(InputDataError, match="cannot be read"):
        read_tensors(path)
    assert not (tmp_path / "ran").exists()


def _header(shape: tuple[int, ...]) -> bytes:
    written = io.BytesIO()
    npy.write_array_header_1_0(written, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return written.getvalue()


@pytest.mark.parametrize("shape", [(10**13,), (2**62,), (2**40, 2**40), (1000,)])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_size_that_the_file_does_not_have_is_refused(tmp_path, suffix, shape):
    path = tmp_path / f"huge{suffix}"
    if suffix == ".npy":
        path.write_bytes(_header(shape) + bytes(100))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", _header(shape) + bytes(100))
    with pytest.raises(InputDataError, match="cannot be read"):
        read_tensors(path)


@pytest.mark.parametrize("length", [2**63, 2**40, 10**6])
def test_a_header_of_safetensors_that_the_file_does_not_have_is_refused(tmp_path, length):
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(InputDataError, match="cannot be read"):
        read_tensors(path)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_an_archive_of_tensors_that_inflates_is_refused_before_it_does(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(inputs, "_SLACK", 2**16)
    path = tmp_path / f"bomb{suffix}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy" if suffix == ".npz" else "m/data.pkl", bytes(2**20))
    with pytest.raises(InputDataError, match=r"inflates \d+ bytes to 1048576"):
        read_tensors(path)


def test_compressed_zeros_of_a_common_size_are_read(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(2**20, np.float32))
    assert read_tensors(tmp_path / "zeros.npz")["x"].shape == (2**20,)
