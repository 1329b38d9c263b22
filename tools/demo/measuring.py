"""Measurements of the demo's rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from attrs import define, field, frozen
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.backends.comparison import CheckReport
from graphpress.tools.demo.rows import Row
from graphpress.tools.edsr.images import psnr

Pair = tuple[str, torch.Tensor, torch.Tensor]


@define
class Stopwatch:
    """Measures consecutive stages in seconds; `listener` is called when a stage begins."""

    listener: Callable[[str], None]
    seconds: dict[str, float] = field(factory=dict)
    _name: str | None = None
    _since: float = 0.0

    def stage(self, name: str | None) -> None:
        """End the current stage and begin the next, if any."""
        now = time.perf_counter()
        if self._name is not None:
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now
        if name is not None:
            self.listener(name)


@frozen
class Package:
    """The model as a Core ML package, imported and evaluated.

    Attributes:
        psnr: in dB, by image.
        weight_bytes: bytes of the data in the weight file.
        file_bytes: bytes of the package on disk.
        check: the comparison of the evaluated package with the finalized model.
    """

    path: Path
    psnr: dict[str, float]
    weight_bytes: int
    file_bytes: int
    check: CheckReport

    @property
    def error(self) -> float:
        """The largest difference of package and module relative to the output's range, with sums in the same order."""
        return _error(self.check)

    @property
    def mean_psnr(self) -> float:
        """The mean over the images, in dB."""
        return sum(self.psnr.values()) / len(self.psnr)


@frozen
class Result:
    """The results of one row.

    Attributes:
        psnr: in dB, by image.
        weight_bytes: bytes of the constants in the saved asset.
        file_bytes: bytes of the saved asset on disk.
        check: the comparison of the executed asset with the finalized model.
        seconds: by stage.
        images: the model's outputs for the evaluation images, by name.
        package: the results for Core ML.
    """

    row: Row
    path: Path
    psnr: dict[str, float]
    weight_bytes: int
    file_bytes: int
    check: CheckReport
    seconds: dict[str, float]
    images: dict[str, torch.Tensor]
    package: Package

    @property
    def asset_error(self) -> float:
        """The largest difference of asset and module relative to the output's range, with sums in the same order."""
        return _error(self.check)

    @property
    def mean_psnr(self) -> float:
        """The mean over the images, in dB."""
        return sum(self.psnr.values()) / len(self.psnr)


def measure(
    row: Row,
    model: nn.Module,
    calibration: Sequence[torch.Tensor],
    pairs: Sequence[Pair],
    folder: Path,
    listener: Callable[[str], None],
) -> Result:
    """Compress `model` by `row`, save it, execute the saved asset, and score it."""
    watch = Stopwatch(listener)
    finalized = row.compress(model, calibration, watch.stage)
    watch.stage("convert")
    path = folder / row.file
    height, width = torch.export.Dim("height", min=8, max=1024), torch.export.Dim("width", min=8, max=1024)
    coreai.convert(finalized, path, (calibration[0],), dynamic_shapes=({2: height, 3: width},))
    watch.stage("execute")
    small = pairs[0][1][..., :32, :32].contiguous()
    report = coreai.check(path, finalized, (small,))
    watch.stage("evaluate")
    images, scores = {}, {}
    with torch.no_grad():
        for name, low, high in pairs:
            images[name] = finalized(low)
            scores[name] = psnr(images[name], high)
    watch.stage("convert for Core ML")
    package_path = path.with_suffix(".mlpackage")
    info = coreml.convert(finalized, package_path, (calibration[0],), dynamic_shapes=({2: height, 3: width},))
    watch.stage("evaluate for Core ML")
    check = coreml.check(package_path, finalized, (small,))
    package_scores = {name: psnr(coreml.evaluate(package_path, [low])[1][0], high) for name, low, high in pairs}
    package = Package(package_path, package_scores, info.weight_bytes, info.stored_bytes, check)
    watch.stage(None)
    asset = coreai.read(path)
    return Result(row, path, scores, asset.weight_bytes, asset.stored_bytes, report, watch.seconds, images, package)


def _error(check: CheckReport) -> float:
    exact = (output.max_error_in_runtime_arithmetic for output in check.outputs)
    return max(o.max_error if again is None else again for o, again in zip(check.outputs, exact, strict=True))
