"""The benchmark harness takes turns, keeps medians, and survives a side that fails."""

import io
import sys

import pytest
import torch
from rich.console import Console

from graphpress.tools.bench import benchmarks, sides
from graphpress.tools.bench.report import as_data, print_comparison
from graphpress.tools.bench.sides import Benchmark, BenchmarkError, Comparison, Side, Worker, compare, peer
from graphpress.tools.bench.worker.clock import ExportClock
from graphpress.tools.bench.worker.tasks import palettize_model, train_model

A, B = Side("ours", "a", "python"), Side("peer", "b", "python")
ONE_TASK = Benchmark("sleep", [[{"do": "sleep", "label": "first"}]], [(("first", "nap"), ("first", "blink"))])


def replies(values):
    return {"seconds": {name: {"cpu": v, "wall": 2 * v} for name, v in values.items()}, "facts": {"sheep": 3}}


@pytest.fixture
def scripted(monkeypatch):
    """Replace worker processes by a list of what each would reply; records the order of the sides."""
    order = []

    def install(script):
        class Scripted:
            def __init__(self, side):
                self.side = side
                order.append(side.name)

            def __enter__(self):
                return self

            def __exit__(self, *exception):
                return None

            def run(self, task):
                return script[self.side.name].pop(0)

        monkeypatch.setattr(sides, "Worker", Scripted)
        return order

    return install


def test_sides_take_turns_and_medians_are_over_runs(scripted):
    order = scripted(
        {
            "ours": [replies({"nap": t, "blink": 1.0}) for t in (1.0, 9.0, 2.0)],
            "peer": [replies({"nap": t, "blink": 2.0}) for t in (4.0, 6.0, 8.0)],
        }
    )
    result = compare(ONE_TASK, [A, B], repeats=3)
    assert order == ["ours", "peer"] * 3
    assert result.median("cpu", "ours", ("first", "nap")) == 2.0
    assert result.median("wall", "peer", ("first", "nap")) == 12.0
    assert result.ratio("peer", ("first", "nap"), ("first", "blink")) == 3.0
    assert as_data(result)["sides"]["ours"]["cpu"]["nap, first"] == [1.0, 9.0, 2.0]


def test_a_side_that_fails_is_reported_once_and_the_other_goes_on(scripted):
    order = scripted({"ours": [{"error": "ImportError: no"}], "peer": [replies({"nap": 1.0, "blink": 1.0})] * 2})
    result = compare(ONE_TASK, [A, B], repeats=2)
    assert order == ["ours", "peer", "peer"]
    console = Console(file=io.StringIO(), width=100)
    print_comparison(console, result)
    printed = console.file.getvalue()
    assert "ours, first: ImportError: no" in printed
    assert "sleep" in printed


def test_a_task_without_a_label_runs_and_is_not_measured(scripted):
    warming = Benchmark("sleep", [[{"do": "doze"}, {"do": "sleep", "label": "warm"}]])
    scripted({"ours": [replies({"nap": 9.0}), replies({"nap": 1.0})]})
    result = compare(warming, [A], repeats=1)
    assert result.names("cpu") == [("warm", "nap")]
    assert result.median("cpu", "ours", ("warm", "nap")) == 1.0


def test_the_ratio_column_is_the_peer_over_ours(scripted):
    scripted({"ours": [replies({"nap": 2.0})], "peer": [replies({"nap": 5.0})]})
    console = Console(file=io.StringIO(), width=100)
    print_comparison(console, compare(ONE_TASK, [A, B], repeats=1))
    assert "2.50x" in console.file.getvalue()


def test_errors_are_compared_over_the_weights_that_both_sides_compressed(scripted):
    ours = replies({"nap": 1.0}) | {"weights": {"a": (1.0, 10.0), "b": (4.0, 10.0), "c": (50.0, 60.0)}}
    theirs = replies({"nap": 1.0}) | {"weights": {"a": (2.0, 10.0), "b": (2.0, 10.0)}}
    scripted({"ours": [ours], "peer": [theirs]})
    result = compare(ONE_TASK, [A, B], repeats=1)
    assert result.shared_weights() == ["a", "b"]
    assert [result.weight_error(side, ["a", "b"]) for side in result.sides] == [0.25, 0.2]
    assert as_data(result)["sides"]["ours"]["weights"]["c"] == (50.0, 60.0)
    console = Console(file=io.StringIO(), width=100)
    print_comparison(console, result)
    rows = [" ".join(line.replace("\u2502", " ").split()) for line in console.file.getvalue().splitlines()]
    assert "weights compressed 3 2" in rows
    assert "squared error / squares, 2 weights 0.25 0.2 0.800000x" in rows
    assert "weights above peer 1" in rows
    assert "the least peer / ours, b 0.4 0.2 0.500000x" in rows


def test_what_palettizing_did_to_each_weight_is_told():
    outcome = palettize_model("graphpress", {"do": "palettize", "model": "small_transformer", "bits": 4}, None)
    assert len(outcome.weights) == outcome.facts["weights"]
    assert all(0 < error < 0.1 * squares for error, squares in outcome.weights.values())
    assert outcome.seconds["prepare"]["cpu"] > 0


def test_a_ratio_over_a_zero_or_missing_time_is_not_drawn():
    result = Comparison(ONE_TASK, ["ours"])
    assert result.ratio("ours", ("first", "nap"), ("first", "blink")) is None
    result.add("ours", "first", replies({"nap": 1.0, "blink": 0.0}))
    assert result.ratio("ours", ("first", "nap"), ("first", "blink")) is None


def test_exports_are_timed_once_however_they_nest(monkeypatch):
    original = torch.export.export
    monkeypatch.setattr(torch.export, "export", original)  # restores after the clock replaced it
    clock = ExportClock()
    with clock.seconds() as seconds:
        torch.export.export(torch.nn.ReLU(), (torch.ones(2),))
    assert seconds["cpu"] > 0
    with clock.seconds() as none:
        pass
    assert none == {"cpu": 0.0, "wall": 0.0}


def test_a_missing_peer_environment_says_how_to_make_it(tmp_path):
    with pytest.raises(BenchmarkError, match=r"peer_env\.sh makes it"), peer(tmp_path / "python"):
        pass


def test_a_worker_that_dies_tells_its_last_words():
    broken = Side("ours", "no_such_package", sys.executable, path=None)
    with Worker(broken) as worker:
        assert "no_such_package" in worker.run({"do": "import"})["error"]
        worker._process.kill()
        with pytest.raises(BenchmarkError, match="the worker of ours died"):
            worker.run({"do": "import"})


@pytest.mark.parametrize(
    "suite",
    [
        benchmarks.quantization(),
        benchmarks.eager(),
        benchmarks.training(),
        benchmarks.palettization(),
        benchmarks.palettization(["edsr"], ["4 bits per tensor"]),
        benchmarks.growth(),
        benchmarks.language(),
    ],
)
def test_every_ratio_of_a_suite_names_a_task_of_it(suite):
    for benchmark in suite:
        labels = {task.get("label") for process in benchmark.processes for task in process}
        assert {label for ratio in benchmark.ratios for label, _ in ratio} <= labels


def test_a_training_step_is_timed_beside_the_float_models():
    outcome = train_model("graphpress", {"do": "train", "model": "small_resnet", "steps": 1}, None)
    assert set(outcome.seconds) == {"training step", "float training step"}
    assert all(seconds["cpu"] > 0 for seconds in outcome.seconds.values())
