"""The pages for people who write passes: what they say to do is done, with the installed tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from graphpress.ir import load_graph, run
from graphpress.passes.framework import lookup_pass, unregister_pass
from graphpress.passes.framework.debugging.bundles import Bundle
from graphpress.passes.framework.testing import op_names
from tests.documents import page


@pytest.fixture(autouse=True)
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty folder whose modules can be imported; they and the passes they register are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield
    for name in [name for name in sys.modules if name not in known and (tmp_path / f"{name}.py").exists()]:
        del sys.modules[name]


def forget(*names: str) -> None:
    for name in names:
        unregister_pass(lookup_pass(name))


@pytest.mark.slow
def test_a_newcomer_gets_from_nothing_to_a_registered_pass_with_a_property_test() -> None:
    namespace: dict[str, Any] = {}
    rules, listed, explained, _, dumped, tested = page("docs/writing-a-pass.md").follow(namespace)
    assert "canonicalize/fuse-silu" in rules
    assert "hard" not in rules  # else the example would find nothing to do
    assert "fuse-hard-swish: Replace ``x * relu6(x + 3) / 6``" in listed
    assert "fuse-hard-swish: 2 matches" in explained
    assert "4 passed" in tested

    fused = load_graph("gates.gir")
    assert [node.op.short_name for node in fused.nodes] == ["linear", "hardswish"] * 2
    assert dumped.count("aten.hardswish(") == 2
    assert namespace["record"].statistics == {"fuse-hard-swish": 1}
    before, after = (op_names(graph) for graph in (namespace["graph"], namespace["prepared"].graph))
    assert (before.count("relu6"), before.count("hardswish")) == (1, 0)
    assert (after.count("relu6"), after.count("hardswish")) == (0, 1)
    example = torch.randn(2, 4)
    torch.testing.assert_close(run(namespace["result"].graph, [example]), [namespace["model"](example)])
    forget("fuse-hard-swish", "limit-relus")


@pytest.mark.slow  # a dozen commands, each a process of its own
def test_a_wrong_output_leads_to_the_guilty_rewrite_in_a_model_of_300_nodes_and_to_a_small_reproducer() -> None:
    verified, bisected, _, reproduced, *_ = page("docs/debugging.md").follow()
    assert verified == "1 problem\n"
    assert (
        "first bad rewrite 12 of 60: scale-and-subtract\n  node: sub (aten.sub.Tensor)\n  module: 11 (Block)"
        in bisected
    )
    assert "network.py:14" in bisected.partition("module: 11")[2].splitlines()[1]
    assert reproduced.startswith("reproduced: NumericDrift in fuse-scale")
    assert len(Bundle.load("bad").graph.nodes) == 300
    assert len(Bundle.load("small").graph.nodes) == 2
    forget("fuse-scale")
