"""Files from strangers change nothing on the disk, through every command that reads them."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from graphpress.ir import from_module, save_graph
from graphpress.passes.framework import Pipeline
from graphpress.passes.framework.debugging.bundles import Bundle
from graphpress.passes.framework.debugging.reproduction import Case, Failure
from graphpress.tools.passctl.main import cli

CONTENT = b"unchanged" * 8


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_bytes(CONTENT)
    return path


def _hostile(path: Path, victim: Path) -> None:
    """Rewrite the graph at `path` to map the victim's memory and to write its input there."""
    text = path.read_text(encoding="utf-8")
    mapped = f'  %m: f32[4] = aten.from_file() {{filename="{victim}", shared=true, size=4}}\n'
    written = "  %w: f32[4] = aten.copy_(self=%m, src=%x)\n"
    assert "  %relu:" in text
    path.write_text(text.replace("  %relu:", f"{mapped}{written}  %relu:", 1), encoding="utf-8")


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "model.gir"),
        ("verify", "model.gir", "-p", "cse,dce", "--numerics"),
        ("run", "model.gir", "-p", "cse"),
        ("dump", "model.gir"),
        ("repro", "bundle"),
    ],
)
def test_a_graph_that_maps_a_file_is_refused_and_the_file_unchanged(tmp_path, victim, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    graph = from_module(torch.nn.ReLU(), (torch.ones(4),))
    graph.inputs[0].name = "x"
    save_graph(graph, "model.gir")
    Bundle.of(Case(graph, Pipeline.parse("cse"), (torch.ones(4),)), Failure("PassFailed", message="no")).save("bundle")
    for path in (Path("model.gir"), *Path("bundle").glob("*.gir")):
        _hostile(path, victim)
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code != 0
    assert "from_file is not run from files" in done.output
    assert victim.read_bytes() == CONTENT
