"""The formats that the project reads: valid files of each, and what must hold of what is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
import yaml
from attrs import frozen
from torch import nn

from graphpress.backends import coreai, coreml
from graphpress.export_backend import ExportBackend
from graphpress.ir import from_module, save_graph
from graphpress.ir.equality import difference
from graphpress.ir.graph import Graph
from graphpress.ir.text.parser import parse_graph
from graphpress.ir.text.printer import exact_text
from graphpress.ir.text.storage import load_graph
from graphpress.ir.verifier import VerificationError, verify
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig
from graphpress.passes.config import ModuleKMeansPalettizerConfig, PalettizationSpec
from graphpress.passes.framework import Pipeline
from graphpress.passes.framework.debugging.bundles import Bundle
from graphpress.passes.framework.debugging.reproduction import Case, Failure
from graphpress.pruning import MagnitudePrunerConfig
from graphpress.quantization import QuantizerConfig
from graphpress.search import Sensitivities, measure_sensitivities
from graphpress.tools.passctl.compression import Recipe
from graphpress.tools.passctl.models import resolve
from tests.graphpress.search.models import Pictures, bits, palettization


@frozen
class Format:
    """A format of files.

    Attributes:
        name: of the format, and of the folder with the valid files.
        make: writes valid files to a folder; each folder in it is one case that mutations start from.
        check: reads the files in a folder, and checks what was read.
        cases: how many are run in the fixed part.
        libraries: modules that the reader imports, once for all child processes.
    """

    name: str
    make: Callable[[Path], None]
    check: Callable[[Path], None]
    cases: int
    libraries: tuple[str, ...] = ()


class PropertyError(AssertionError):
    """What was read does not keep the property."""


def check_graph(graph: Graph) -> None:
    """Hold a graph that was read to its verifier, and to its text form."""
    with suppress(VerificationError):
        verify(graph)
    text = exact_text(graph)
    try:
        again = parse_graph(text)
    except Exception as error:
        raise PropertyError(f"what was printed cannot be parsed: {error}") from error
    found = difference(graph, again)
    if found:
        raise PropertyError(f"what was printed is parsed as another graph: {found}")


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layers(x)
        return self.head(torch.cat([h, h * 0.5], 2).mean((2, 3)).reshape(x.shape[0], -1))


def _block() -> nn.Module:
    torch.manual_seed(0)
    return _Block().eval()


IMAGE = (torch.zeros(2, 3, 5, 5),)
_NESTED = """graph @main {
  symbol s0: [2, 64] hint 3
  input %x: f32[s0, 4]
  const @w: f32[4] parameter
  %add: f32[s0, 4] = aten.add.Tensor(self=%x, other=@w)
  return %add
}
"""


def _graphs(folder: Path) -> None:
    dynamic = {"x": {0: torch.export.Dim("batch", min=2, max=64)}}
    for name, graph in {
        "static": from_module(_block(), IMAGE),
        "dynamic": from_module(_block(), IMAGE, dynamic_shapes=dynamic),
        "text": parse_graph(_NESTED, {"w": torch.ones(4)}),
    }.items():
        (folder / name).mkdir()
        save_graph(graph, folder / name / "m.gir")


def _bundles(folder: Path) -> None:
    case = Case(from_module(_block(), IMAGE), Pipeline.parse("cse,dce"), (torch.ones(2, 3, 5, 5), 3))
    Bundle.of(case, Failure("PassFailed", message="no")).save(folder / "bundle")


def _check_bundle(folder: Path) -> None:
    bundle = Bundle.load(folder)
    check_graph(bundle.graph)
    case = bundle.case()
    _check_pipeline_text(str(case.pipeline))


PIPELINES = (
    "cse,dce,fold-constants",
    "repeat{max=3}(canonicalize,repeat{max=2}(cse,dce)),fold-batch-norm",
    "palettize-weights{leave_indivisible=true,seed=3},cse",
)


def _pipelines(folder: Path) -> None:
    for number, text in enumerate(PIPELINES):
        (folder / str(number)).mkdir()
        (folder / str(number) / "pipeline.txt").write_text(text)


def _check_pipeline(folder: Path) -> None:
    _check_pipeline_text((folder / "pipeline.txt").read_bytes().decode(errors="surrogateescape"))


def _check_pipeline_text(text: str) -> None:
    pipeline = Pipeline.parse(text)
    printed = str(pipeline)
    if str(Pipeline.parse(printed)) != printed:
        raise PropertyError(f"the pipeline {printed!r} is parsed as another")


def _recipes(folder: Path) -> None:
    for config in (KMeansPalettizerConfig(), QuantizerConfig(), MagnitudePrunerConfig()):
        (folder / type(config).__name__).mkdir()
        config.to_yaml(folder / type(config).__name__ / "c.yaml")
    detailed = KMeansPalettizerConfig(
        module_name_configs={
            "head": ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(n_bits=2)})
        }
    )
    (folder / "detailed").mkdir()
    (folder / "detailed" / "c.yaml").write_text(yaml.safe_dump(detailed.to_dict()))


def _check_recipe(folder: Path) -> None:
    recipe = Recipe.read(folder / "c.yaml")
    for config in (recipe.pruning, recipe.palettization, recipe.quantization):
        if config is not None:
            again = type(config).from_yaml(config.to_yaml())
            if repr(again) != repr(config):
                raise PropertyError("a config that was written as YAML is read as another")


def _sensitivities(folder: Path) -> None:
    model, compression, metric = palettization(Pictures())
    (folder / "signed").mkdir()
    path = folder / "signed" / "s.json"
    measure_sensitivities(model, compression, bits(1), metric, path=path, layers=["stem"])
    data = json.loads(path.read_text())
    del data["sha256"]
    (folder / "edited").mkdir()
    (folder / "edited" / "s.json").write_text(json.dumps(data))


def _check_sensitivities(folder: Path) -> None:
    found = Sensitivities.load(folder / "s.json")
    copy = folder.parent / "copy.json"
    found.save(copy)
    again = Sensitivities.load(copy)
    again.save(folder.parent / "again.json")
    if (folder.parent / "again.json").read_bytes() != copy.read_bytes():
        raise PropertyError("measurements that were saved are loaded as others")


class _Choice(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": torch.cond(x.shape[0] > 4, torch.sin, torch.cos, (x,)), "z": x.reshape(-1)[: x.shape[0] * 2] * 2.5}


def _programs(folder: Path) -> None:
    sizes = {"x": {0: torch.export.Dim("batch", min=2, max=64)}}
    for name, program in {
        "static": torch.export.export(_block(), IMAGE),
        "dynamic": torch.export.export(_Choice(), (torch.zeros(5, 8),), dynamic_shapes=sizes),
    }.items():
        (folder / name).mkdir()
        torch.export.save(program, folder / name / "m.pt2")


def _packages(folder: Path) -> None:
    coreml.convert(_block(), folder / "signed" / "m.mlpackage", IMAGE, target="iOS18")
    shutil.copytree(folder / "signed", folder / "unsigned")
    palettizer = KMeansPalettizer(nn.Sequential(nn.Linear(64, 64), nn.ReLU()).eval(), KMeansPalettizerConfig())
    palettizer.prepare()
    tables = palettizer.finalize(backend=ExportBackend.CoreML)
    coreml.convert(tables, folder / "compressed" / "m.mlpackage", (torch.zeros(2, 64),), target="iOS18")
    for name in ("unsigned", "compressed"):
        package = folder / name / "m.mlpackage"
        (package / "executorch_debug_handle_mapping.json").unlink()
        manifest = json.loads((package / "Manifest.json").read_text())
        for entry in manifest["itemInfoEntries"].values():
            entry["description"] = entry["description"].partition(", sha256")[0]
        (package / "Manifest.json").write_text(json.dumps(manifest))


def _check_package(folder: Path) -> None:
    coreml.read(folder / "m.mlpackage")
    check_graph(coreml.from_package(folder / "m.mlpackage"))


def _assets(folder: Path) -> None:
    coreai.convert(_block(), folder / "asset" / "m.aimodel", IMAGE)


def _check_asset(folder: Path) -> None:
    coreai.read(folder / "m.aimodel")
    check_graph(coreai.from_asset(folder / "m.aimodel"))


_COREML = ("coremltools.converters.mil.frontend.milproto.load", "coremltools.optimize._utils")
_COREAI = ("coreai.authoring.asset",)
FORMATS = {
    each.name: each
    for each in (
        Format("gir", _graphs, lambda folder: check_graph(load_graph(folder / "m.gir")), 600),
        Format("bundle", _bundles, _check_bundle, 300),
        Format("pipeline", _pipelines, _check_pipeline, 2000),
        Format("yaml", _recipes, _check_recipe, 400),
        Format("sensitivities", _sensitivities, _check_sensitivities, 400),
        Format("pt2", _programs, lambda folder: check_graph(resolve(str(folder / "m.pt2")).graph()), 60),
        Format("mlpackage", _packages, _check_package, 60, _COREML),
        Format("aimodel", _assets, _check_asset, 60, _COREAI),
    )
}
