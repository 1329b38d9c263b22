"""The pages for people who write passes: what they say to do is done, with the installed tools."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from graphpress.passes.framework import lookup_pass, unregister_pass
from graphpress.passes.framework.debugging.bundles import Bundle
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


def test_a_newcomer_gets_from_nothing_to_a_registered_pass_with_a_property_test() -> None:
    explained, listed, _, tested = page("docs/writing-a-pass.md").follow()
    assert "silu: 2 matches" in explained
    assert "Replace ``x * sigmoid(x)``" in listed
    assert "4 passed" in tested
    forget("fuse-silu", "limit-relus")


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
