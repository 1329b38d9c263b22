"""Our own files, damaged at any place.

What machines write for machines (tensors, measurements) is read as it was or refused. Text that people edit (graphs,
pipelines, recipes, reproducers) may mean something else after a bit of it changed: it is read as what it then says, or
refused. Every error is one of ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from graphpress import GraphpressError
from graphpress.ir import from_module, load_graph, save_graph
from graphpress.palettization import KMeansPalettizerConfig
from graphpress.passes.framework import Pipeline
from graphpress.passes.framework.debugging.bundles import Bundle
from graphpress.passes.framework.debugging.reproduction import Case, Failure
from graphpress.pruning import MagnitudePrunerConfig
from graphpress.quantization import QuantizerConfig
from graphpress.search import Sensitivities, measure_sensitivities
from graphpress.tools.passctl.compression import Recipe
from tests.damage import damages
from tests.graphpress.search.models import Pictures, bits, palettization

FOLDERS = ("graph", "bundle", "recipe", "sensitivities")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    graph = from_module(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (torch.randn(1, 3, 5, 5),))
    (made / "graph").mkdir()
    save_graph(graph, made / "graph" / "m.gir")
    inputs = (torch.randn(1, 3, 5, 5), 3)
    Bundle.of(Case(graph, Pipeline.parse("cse,dce"), inputs), Failure("PassFailed", message="no")).save(made / "bundle")
    (made / "recipe").mkdir()
    KMeansPalettizerConfig().to_yaml(made / "recipe" / "palettization.yaml")
    QuantizerConfig().to_yaml(made / "recipe" / "quantization.yaml")
    MagnitudePrunerConfig().to_yaml(made / "recipe" / "pruning.yaml")
    (made / "sensitivities").mkdir()
    model, compression, metric = palettization(Pictures())
    measure_sensitivities(model, compression, bits(1), metric, path=made / "sensitivities" / "s.json", layers=["stem"])
    return made


READERS: dict[str, Callable[[Path], Any]] = {
    "graph": lambda folder: load_graph(folder / "m.gir"),
    "bundle": lambda folder: Bundle.load(folder).case(),
    "recipe": lambda folder: [Recipe.read(path) for path in sorted(folder.iterdir())],
    "sensitivities": lambda folder: Sensitivities.load(folder / "s.json"),
}


@pytest.mark.parametrize("kind", FOLDERS)
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused(folder, kind, data):
    damage = data.draw(damages(folder / kind))
    copy = folder / "damaged" / kind
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / kind, copy)
    damage.apply(copy)
    whole, refusal = READERS[kind](folder / kind), ""
    try:
        found = READERS[kind](copy)
    except GraphpressError as error:
        refusal = str(error)
    if refusal:
        assert str(copy) in refusal or "the pipeline of the reproducer" in refusal
        return
    if damage.file.suffix == ".safetensors":
        assert constants(found) == constants(whole)
        assert [torch.equal(a, b) for a, b in tensors(found, whole)] == [True] * len(tensors(found, whole))
    if kind == "sensitivities":
        assert found._plain() == whole._plain()


def constants(read: Any) -> list[tuple[Any, ...]]:
    graph = getattr(read, "graph", read)
    return [(name, each.type, each.tensor.tolist()) for name, each in graph.constants.items()]


def tensors(found: Any, whole: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pairs = zip(getattr(found, "inputs", ()), getattr(whole, "inputs", ()), strict=True)
    return [pair for pair in pairs if isinstance(pair[0], torch.Tensor)]
