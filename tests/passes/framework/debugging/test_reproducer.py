from __future__ import annotations

import json

import pytest
import torch
from attrs import frozen

from graphpress.passes.cse import Cse
from graphpress.passes.dce import Dce
from graphpress.passes.framework import BundleError, NumericDrift, Pass, PassFailed, Pipeline, Runner, register_pass
from graphpress.passes.framework.debugging.bundles import Bundle
from graphpress.passes.framework.hooks import Numerics, ReproducerOnFailure
from graphpress.passes.framework.registry import unregister_pass
from graphpress.passes.framework.testing import GraphBuilder
from tests.passes.framework.failing_passes import SampleCrash, SampleWrongRule
from tests.passes.framework.sample_passes import relu_chain


def signs():
    b = GraphBuilder()
    x = b.input()
    total = b.aten.add.Tensor(x, b.aten.neg(b.aten.relu(x)))
    b.aten.sin(total)
    return b.outputs(total)


def fail(folder, graph, *steps, inputs=None, expected=PassFailed, more=()):
    with pytest.raises(expected) as caught:
        Runner([ReproducerOnFailure(folder, inputs), *more]).run(graph, Pipeline(*steps))
    return caught.value


def test_a_failure_is_written_and_happens_again_from_what_was_written(tmp_path):
    folder = tmp_path / "bundle"
    error = fail(folder, signs(), Cse(), Dce(), SampleCrash("sin"), SampleCrash(), inputs=[torch.ones(2, 4)])
    assert error.__notes__[-1] == f"reproducer written; replay it with: passctl repro {folder}"
    bundle = Bundle.load(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "bundle.json",
        "error.txt",
        "graph.gir",
        "graph.safetensors",
        "inputs.safetensors",
        "pipeline.txt",
    ]
    assert bundle.pipeline_text == "sample-crash"
    assert bundle.earlier == ("cse#1", "dce#1", "sample-crash#1")
    assert [node.op.short_name for node in bundle.graph.nodes] == ["relu", "neg", "add"]  # as it was before the step
    assert torch.equal(bundle.inputs[0], torch.ones(2, 4))
    assert "ZeroDivisionError: cannot bear neg" in bundle.report
    assert bundle.versions["torch"] == torch.__version__
    failure = bundle.case().attempt()
    assert failure == bundle.failure
    assert (failure.error, failure.cause, failure.pass_name) == ("PassFailed", "ZeroDivisionError", "sample-crash")
    assert failure.place.endswith("failing_passes:SampleCrash.run")


def test_wrong_numbers_happen_again_with_the_inputs(tmp_path):
    given = [torch.linspace(-1, 1, 8).reshape(2, 4)]
    fail(tmp_path / "b", signs(), SampleWrongRule(), inputs=given, expected=NumericDrift, more=[Numerics(given)])
    bundle = Bundle.load(tmp_path / "b")
    assert bundle.failure.takes_inputs
    assert bundle.case().attempt() == bundle.failure
    assert not bundle.failure.is_infinite


def test_wrong_numbers_without_inputs_are_refused_beside_the_error(tmp_path):
    given = [torch.linspace(-1, 1, 8).reshape(2, 4)]
    error = fail(tmp_path / "b", signs(), SampleWrongRule(), expected=NumericDrift, more=[Numerics(given)])
    assert "a NumericDrift can only be replayed with inputs: pass ReproducerOnFailure" in error.__notes__[-1]
    assert not (tmp_path / "b").exists()


def test_nothing_is_written_when_all_goes_well(tmp_path):
    hook = ReproducerOnFailure(tmp_path / "b")
    Runner([hook]).run(signs(), Pipeline(Cse(), Dce()))
    assert not hook.is_written
    assert list(tmp_path.iterdir()) == []


def test_inputs_of_all_kinds_come_back(tmp_path):
    given = [torch.tensor([1 + 2j], dtype=torch.complex128), None, 3, 2.5, torch.tensor([True]), torch.ones(2).half()]
    fail(tmp_path / "b", relu_chain(1), SampleCrash("relu"), inputs=given)
    back = Bundle.load(tmp_path / "b").inputs
    assert [type(item) for item in back] == [type(item) for item in given]
    assert [item for item in back if not isinstance(item, torch.Tensor)] == [None, 3, 2.5]
    tensors = [(a, b) for a, b in zip(back, given, strict=True) if isinstance(a, torch.Tensor)]
    assert all(torch.equal(a, b) and a.dtype is b.dtype for a, b in tensors)


def test_an_older_reproducer_is_replaced_and_anything_else_is_left_alone(tmp_path):
    for op in ("relu", "neg"):
        fail(tmp_path / "b", signs(), SampleCrash(op))
        assert "cannot bear " + op in Bundle.load(tmp_path / "b").failure.message
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    error = fail(other, signs(), SampleCrash())
    assert "exists and is not a reproducer; it is not replaced" in error.__notes__[-1]
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "mine"]


def test_a_save_that_fails_leaves_the_old_reproducer_whole(tmp_path, monkeypatch):
    fail(tmp_path / "b", signs(), SampleCrash("relu"))
    monkeypatch.setattr(Bundle, "_fill", _raise_full)
    error = fail(tmp_path / "b", signs(), SampleCrash("neg"))
    assert "cannot write a reproducer" in error.__notes__[-1]
    assert "cannot bear relu" in Bundle.load(tmp_path / "b").failure.message
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def _raise_full(self, folder):
    (folder / "bundle.json").write_text("{}")
    raise OSError("no space left")


def test_what_is_no_reproducer_or_damaged_is_told(tmp_path):
    with pytest.raises(BundleError, match=r"is not a reproducer: it has no bundle\.json"):
        Bundle.load(tmp_path)
    fail(tmp_path / "b", signs(), SampleCrash())
    path = tmp_path / "b" / "bundle.json"
    data = json.loads(path.read_text())
    for damage, message in [({"format": 7}, "has the format 7; this version reads 1"), ({"failure": {}}, "is damaged")]:
        path.write_text(json.dumps(data | damage))
        with pytest.raises(BundleError, match=message):
            Bundle.load(tmp_path / "b")


@pytest.mark.parametrize("name", ["graph.gir", "graph.safetensors", "pipeline.txt", "error.txt"])
def test_links_out_of_a_reproducer_are_not_followed(tmp_path, name):
    fail(tmp_path / "b", signs(), SampleCrash())
    place = tmp_path / "b" / name
    place.unlink(missing_ok=True)
    place.symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=rf"{name} links out of"):
        Bundle.load(tmp_path / "b")


def test_a_pass_that_is_not_there_is_told_with_its_module(tmp_path):
    @register_pass
    @frozen
    class SampleGone(Pass):
        def run(self, graph, rewriter, context):
            raise ValueError("no")

    fail(tmp_path / "b", signs(), SampleGone())
    unregister_pass(SampleGone)
    with pytest.raises(BundleError, match=rf"come from {__name__}, which may have to be imported first: no pass"):
        Bundle.load(tmp_path / "b").case()


def test_a_pass_without_text_form_still_leaves_its_graph(tmp_path):
    @frozen
    class SampleObject(Pass):
        thing: object = None

        def run(self, graph, rewriter, context):
            raise ValueError("no")

    fail(tmp_path / "b", signs(), SampleObject(object()))
    bundle = Bundle.load(tmp_path / "b")
    assert len(bundle.graph.nodes) == 4
    with pytest.raises(BundleError, match="no text form"):
        bundle.case()


def test_failures_are_told_apart_by_kind_pass_and_place():
    def failure(graph, *steps):
        from graphpress.passes.framework.debugging.reproduction import Case

        return Case(graph, Pipeline(*steps)).attempt()

    one, same, other = (failure(signs(), SampleCrash(op)) for op in ("neg", "relu", "tan"))
    assert one == same  # messages do not count
    assert other is None
    assert str(one) == "PassFailed (ZeroDivisionError) in sample-crash"
