"""The framework suite does the work it names, on small graphs and our side."""

import pytest

from graphpress.ir.graph import Graph
from graphpress.tools.bench.framework import ours
from graphpress.tools.bench.framework.suite import Measurement, as_data, measure, measure_growth, others, print_ratios
from graphpress.tools.bench.framework.suite import ours as our_side
from graphpress.tools.bench.framework.workloads import TITLES, program_of
from graphpress.tools.bench.sides import BenchmarkError

NODES_AFTER = {
    "always": 1,
    "kept": 40,
    "fold": 30,
    "never": 60,
    "never50": 60,
    "commutative4": 60,
    "dce": 30,
    "cse": 40,
    "ten": 60,
    "wide cse": 2,
}


@pytest.mark.parametrize("workload", TITLES)
def test_a_workload_runs_on_our_side(workload):
    done = ours.prepare(workload, 60)()
    if workload in NODES_AFTER:
        assert done == NODES_AFTER[workload]
    if workload in ("build", "clone", "parse", "parse message"):
        assert isinstance(done, Graph)
        assert len(done.nodes) == len(program_of(workload, 60))


def test_seconds_and_versions_of_a_side_are_recorded():
    found, versions = measure([our_side()], ["build", "print"], nodes=60, repeats=2)
    assert [len(each.seconds["ours"]) for each in found] == [2, 2]
    assert "torch" in versions["ours"]
    assert as_data(found, versions)["measurements"][0]["workload"] == "build"


def test_growth_is_measured_at_both_sizes_in_turns():
    seen = []
    [(small, large)] = measure_growth(["build"], nodes=60, large=600, repeats=2, progress=seen.append)
    assert (small.nodes, large.nodes) == (60, 600)
    assert len(small.seconds["ours"]) == len(large.seconds["ours"]) == 2
    assert [each.rsplit(": ")[1] for each in seen] == ["60 nodes", "600 nodes"] * 2


def test_a_side_that_exceeds_the_limit_is_left_out_of_one_workload_only():
    found, _ = measure([our_side()], ["build", "wide node"], nodes=4_000, repeats=2, limit=0.02)
    assert found[0].limits == {"ours": 0.02}
    assert "longer than its limit" in found[0].missing["ours"]
    assert len(found[1].seconds["ours"]) == 2


def test_ratios_are_ours_over_the_others(capsys):
    from rich.console import Console

    seconds = {"ours": [3.0, 1.0, 2.0], "xDSL": [4.0]}
    found = [Measurement("build", 60, seconds, limits={"TVM": 20.0})]
    versions = {"ours": {"torch": "2"}, "xDSL": {"xdsl": "1"}, "TVM": {"apache-tvm": "0"}}
    print_ratios(Console(width=100), found, versions)
    printed = capsys.readouterr().out
    assert "0.50" in printed
    assert "< 0.100" in printed


def test_a_missing_environment_says_how_to_make_it(tmp_path):
    with pytest.raises(BenchmarkError, match=r"environment\.sh makes it"), others(tmp_path / "python"):
        pass
