from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

import graphpress
from graphpress.backends import coreai
from graphpress.backends.coreml.check import evaluate
from graphpress.backends.exporting import quiet
from graphpress.ir.dtypes import DType
from graphpress.quantization import ExecutionMode
from tests.documents import seed

coreai_torch = pytest.importorskip("coreai_torch")
coremltools = pytest.importorskip("coremltools")

DOCUMENT = seed("quantization_overview.md.txt")
WEIGHTS_ONLY, CORE_AI, CORE_ML, CALIBRATION, TRAINING, GRAPH, EAGER = DOCUMENT.blocks()
WEIGHTS = [(8, 3, 7, 7), (16, 8, 3, 3), (8, 16)]
BRIGHTNESSES = torch.linspace(-1, 1, 8)


class MyModel(nn.Module):
    """Tells how bright an image is, out of eight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 7, stride=8),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def images(seed: int, count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of a brightness each, and which it is."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % 8
    return torch.randn(count, 3, 224, 224, generator=generator) * 0.2 + BRIGHTNESSES[classes, None, None, None], classes


def validate(model: nn.Module, data: Any) -> float:
    """The loss, where the document leaves the metric to the reader."""
    with torch.no_grad():
        return sum(float(nn.functional.cross_entropy(model(x), y)) for x, y in data) / len(data)


def train_one_epoch(model: nn.Module, data: Any, optimizer: Any) -> None:
    optimizer = optimizer(model.parameters())
    for x, y in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader has before the first block."""
    monkeypatch.chdir(tmp_path)
    batches = [images(number) for number in range(3)]
    return {
        "opt": graphpress,
        "torch": torch,
        "fx": fx,
        "nn": nn,
        "MyModel": MyModel,
        "validate": validate,
        "val_dataset": batches[:1],
        "val_dataloader": batches[:1],
        "calibration_dataloader": [x for x, _ in batches],
        "train_dataloader": batches,
        "train_one_epoch": train_one_epoch,
        "grad_optimizer": lambda parameters: torch.optim.Adam(parameters, 1e-3),
        "num_epochs": 2,
    }


def follow(code: str, namespace: dict[str, Any]) -> None:
    """Run a block statement by statement; where the document has dots for an image, there is one."""
    for statement in ast.parse(code).body:
        exec(compile(ast.Module([statement], []), DOCUMENT.path.name, "exec"), namespace)
        if namespace.get("example_inputs") == (...,):
            namespace["example_inputs"] = (images(0, 1)[0],)


@pytest.fixture
def as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the document calls and the converters, as they are, do not have: a method of programs, which is taken to do
    nothing, and a default for the inputs of a traced model.
    """
    with quiet():
        exported = torch.export.export(nn.ReLU(), (torch.zeros(1),)).run_decompositions(coreai_torch.get_decomp_table())
        converter = coreai_torch.TorchConverter()
        converter.add_exported_program(exported)
        program = type(converter.to_coreai())
    if not hasattr(program, "optimize"):
        monkeypatch.setattr(program, "optimize", lambda self: None, raising=False)
    convert = coremltools.convert

    def with_inputs(model: Any, **options: Any) -> Any:
        given = [coremltools.TensorType(shape=(1, 3, 224, 224))]
        return convert(model, **{"inputs": given, "skip_model_load": True, **options})

    monkeypatch.setattr(coremltools, "convert", with_inputs)


@pytest.mark.parametrize("block", [WEIGHTS_ONLY, CALIBRATION, TRAINING], ids=["weights", "calibrated", "trained"])
def test_each_workflow_ends_in_the_files_of_both_runtimes(block, namespace, as_documented):
    follow(block.code, namespace)
    image = images(7, 1)[0]
    prepared = namespace["prepared_model"].eval()
    if block is WEIGHTS_ONLY:
        namespace["example_inputs"] = (image,)
    expected = prepared(image).detach()
    spread = float(expected.max() - expected.min())

    follow(CORE_AI.code, namespace)
    from_asset = coreai.load("model.aimodel")(image.half())
    assert torch.allclose(from_asset.float(), expected, atol=0.05 * spread)
    asset = coreai.read("model.aimodel")
    assert sum(each.dtype is DType.INT8 and each.shape in WEIGHTS for each in asset.constants) == 3
    assert not any(each.dtype is DType.FLOAT32 for each in asset.constants)

    follow(CORE_ML.code, namespace)
    graph, (from_package,) = evaluate("model.mlpackage", [image])
    assert torch.allclose(from_package.float(), expected, atol=0.05 * spread)
    assert sum(node.op.name == "quant.blockwise_shift_scale" for node in graph.nodes) == 3
    assert (sum(node.op.name == "quant.quantize" for node in graph.nodes) > 0) is (block is not WEIGHTS_ONLY)


def test_training_lowers_the_loss_of_the_quantized_model(namespace):
    follow(CALIBRATION.code, namespace)
    before = namespace["val_metric"]
    follow(TRAINING.code, namespace)
    assert namespace["val_loss"] < before


def test_graph_mode_gives_a_graph_module_and_eager_mode_the_users_own(namespace):
    namespace["example_inputs"] = (images(0, 1)[0],)
    follow(GRAPH.code, namespace)
    assert namespace["config"].execution_mode is ExecutionMode.GRAPH
    assert isinstance(namespace["prepared_model"], fx.GraphModule)
    follow(EAGER.code, namespace)
    assert isinstance(namespace["prepared_model"], MyModel)
    assert namespace["prepared_model"](images(0, 1)[0]).shape == (1, 8)
