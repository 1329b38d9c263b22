"""Tensors from files, without ever running code from them: .npz, .npy, .safetensors, .pt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from graphpress.ir.errors import suggestion
from graphpress.tools.passctl.errors import InputDataError


def read_tensors(path: Path) -> Any:
    """What a file holds: a dict of tensors by name, or what `torch.load(weights_only=True)` gives.

    Raises:
        InputDataError: when the file is missing, of another kind, or damaged.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        accepted = ", ".join(_READERS)
        raise InputDataError(f"{path}: files of tensors end in {accepted}{suggestion(path.suffix, _READERS)}")
    if not path.is_file():
        raise InputDataError(f"no file {str(path)!r}{_near_files(path)}")
    try:
        return reader(path)
    except InputDataError:
        raise
    except (OSError, ValueError, EOFError, SafetensorError, RuntimeError, KeyError) as error:
        raise InputDataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    except Exception as error:  # zipfile and pickle have errors of their own
        raise InputDataError(f"{path} cannot be read: {type(error).__name__}: {str(error)[:300]}") from error


def _npz(path: Path) -> Mapping[str, torch.Tensor]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: _tensor(archive[name], f"{path}: {name}") for name in archive.files}


def _npy(path: Path) -> Mapping[str, torch.Tensor]:
    return {"arr_0": _tensor(np.load(path, allow_pickle=False), str(path))}


def _pt(path: Path) -> Any:
    return torch.load(path, weights_only=True, map_location="cpu")


def _tensor(array: np.ndarray, where: str) -> torch.Tensor:
    try:
        # Double precision is numpy's default and hardly any model's.
        return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else np.ascontiguousarray(array))
    except TypeError as error:
        raise InputDataError(f"{where}: torch has no tensors of {array.dtype}") from error


def _near_files(path: Path) -> str:
    folder = path.parent
    return suggestion(path.name, [file.name for file in folder.iterdir()]) if folder.is_dir() else ""


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".safetensors": lambda path: load_file(path),
    ".pt": _pt,
}
SUFFIXES = tuple(_READERS)
"""Of the files that hold tensors."""
