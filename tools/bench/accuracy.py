"""PSNR of the super-resolution example in both packages, with the same weights and images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from graphpress.tools.bench.sides import Side, Worker
from graphpress.tools.edsr.images import calibration_images, evaluation_pairs, psnr

ROWS = {"fp32": "FP32", "w8a8": "W8 A8", "p4": "P4", "p4a8": "P4 (int8 table) A8"}
CALIBRATION_COUNT = 20


def edsr_psnr(
    sides: Sequence[Side],
    progress: Callable[[str], None] = lambda message: None,
    rows: Sequence[str] = tuple(ROWS),
) -> dict[str, dict[str, float | str]]:
    """Return mean PSNR in dB over the held-out photographs, by row (of `ROWS`) and side; a string is an error."""
    results: dict[str, dict[str, float | str]] = {}
    with tempfile.TemporaryDirectory(prefix="graphpress-bench-") as directory:
        images, upscaled = Path(directory) / "images.safetensors", Path(directory) / "upscaled.safetensors"
        high = _write_images(images)
        for row in rows:
            results[row] = {}
            for side in sides:
                progress(f"EDSR {ROWS[row]}: {side.name}")
                task = {"do": "edsr", "row": row, "images": str(images), "upscaled": str(upscaled)}
                with Worker(side) as worker:
                    reply = worker.run(task)
                results[row][side.name] = reply["error"] if "error" in reply else _mean_psnr(upscaled, high)
    return results


def _write_images(file: Path) -> dict[str, torch.Tensor]:
    """Write calibration and low-resolution images, and return the high-resolution ones by the same names."""
    tensors = {f"calibration.{i:03}": image for i, image in enumerate(calibration_images(CALIBRATION_COUNT))}
    high = {}
    for index, (_, low, full) in enumerate(evaluation_pairs()):
        tensors[f"low.{index:03}"] = low.contiguous()
        high[f"low.{index:03}"] = full
    save_file(tensors, file)
    return high


def _mean_psnr(upscaled: Path, high: dict[str, torch.Tensor]) -> float:
    images = load_file(upscaled)
    return sum(psnr(images[name], high[name]) for name in high) / len(high)
