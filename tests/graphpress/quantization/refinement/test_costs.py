"""What each activation quantizer alone costs."""

from __future__ import annotations

import pytest
import torch

from graphpress.quantization import InvalidExecutionModeError, Quantizer, QuantizerConfig
from graphpress.quantization.refinement.running import StepwiseRun
from graphpress.quantization.switches import quantizers_of
from tests.graphpress.quantization.outliers import three_layers


def batch(seed):
    return torch.randn(16, 32, generator=torch.Generator().manual_seed(seed))


BATCHES = [batch(seed) for seed in range(3)]


def calibrated(**options):
    quantizer = Quantizer(three_layers(), QuantizerConfig(**options))
    prepared = quantizer.prepare((batch(0),))
    with quantizer.calibration_mode():
        for each in BATCHES:
            prepared(each)
    return quantizer, prepared


def switched_by_hand(prepared, name):
    """The decibels with one quantizer on, by disabling all others in whole runs."""
    for each in quantizers_of(prepared):
        each.enable_fake_quant(each.name == name)
    with torch.no_grad():
        wanted, found = (torch.cat([run(each) for each in BATCHES]) for run in (three_layers(), prepared))
    for each in quantizers_of(prepared):
        each.enable_fake_quant()
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


def test_they_are_those_of_whole_runs_with_all_others_disabled():
    quantizer, prepared = calibrated()
    costs = quantizer.costs(BATCHES)
    assert {cost.name for cost in costs} == {each.name for each in quantizers_of(prepared) if not each.is_state}
    for cost in costs:
        assert cost.decibels == pytest.approx(switched_by_hand(prepared, cost.name), abs=1e-2)


def test_the_worst_quantizer_is_first():
    costs = calibrated(placement="matmul-inputs")[0].costs(BATCHES)
    assert [cost.decibels for cost in costs] == sorted(cost.decibels for cost in costs)
    assert costs[0].name == "linear_1_input"
    assert costs[0].decibels < costs[1].decibels - 6


def test_range_and_percentile_are_those_of_the_codes():
    quantizer, prepared = calibrated(placement="matmul-inputs")
    costs = {cost.name: cost for cost in quantizer.costs(BATCHES)}
    scale = float(prepared.quantizers.linear_input.qparams()[0])
    assert costs["linear_input"].high == pytest.approx(127 * scale)
    assert costs["linear_input"].low == pytest.approx(-128 * scale)
    values = torch.cat(BATCHES) / scale
    inside = ((values > -128.5) & (values < 127.5)).float().mean()
    assert costs["linear_input"].percentile == pytest.approx(100 * float(inside))


def test_the_model_and_its_switches_are_left_as_they_were():
    quantizer, prepared = calibrated()
    prepared.train()
    before, state = prepared(BATCHES[0]), {name: value.clone() for name, value in prepared.state_dict().items()}
    quantizer.costs(BATCHES)
    assert prepared.training
    assert torch.equal(prepared(BATCHES[0]), before)
    assert all(torch.equal(value, state[name]) for name, value in prepared.state_dict().items())


def test_each_quantizer_takes_one_run_from_its_value_on(monkeypatch):
    evaluated = []
    evaluate = StepwiseRun._evaluate
    monkeypatch.setattr(StepwiseRun, "_evaluate", lambda *args: evaluated.append(1) or evaluate(*args))
    seen = []
    quantizer, prepared = calibrated()
    costs = quantizer.costs(BATCHES[:1], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, len(costs)) for done in range(1, len(costs) + 1)]
    assert len(evaluated) < len(prepared.graph.nodes) * (2 + len(costs)) * 2 / 3


def test_eager_mode_has_none():
    quantizer, _ = calibrated(execution_mode="eager")
    with pytest.raises(InvalidExecutionModeError, match=r"costs.*'eager'.*'graph'"):
        quantizer.costs(BATCHES)
