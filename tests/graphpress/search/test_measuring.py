from __future__ import annotations

import json
import math
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graphpress.palettization import KMeansPalettizer, ModuleKMeansPalettizerConfig, PalettizationSpec
from graphpress.palettization.spec import PerGroupedChannelGranularity
from graphpress.quantization import ModuleQuantizerConfig, Quantizer, QuantizerConfig
from graphpress.search import (
    Compression,
    SearchError,
    SearchWarning,
    Sensitivities,
    against,
    mean_squared_error,
    measure_sensitivities,
    peak_signal_to_noise,
)
from tests.graphpress.search.models import DATA, INPUTS, Pictures, bits, palettization

NAMES = ["stem", "block.0", "block.2", "head"]


class Counting:
    """A metric that counts its calls, and fails after some of them, as a run that is killed would stop."""

    name = "counted"

    def __init__(self, metric: Any, most: float = math.inf) -> None:
        self.metric, self.most, self.calls = metric, most, 0

    def __call__(self, model: nn.Module) -> float:
        self.calls += 1
        if self.calls > self.most:
            raise KeyboardInterrupt
        return self.metric(model)


def weight_of_stem(model: nn.Module) -> float:
    """A metric of somebody's own."""
    return float(model.get_submodule("stem").weight.detach().square().sum())


def table(sensitivities: Sensitivities) -> dict[tuple[str, str], Any]:
    return {
        (layer.name, candidate.name): candidate.measurement
        for layer in sensitivities.layers
        for candidate in sensitivities.candidates[layer.name]
    }


def by_hand(layer: str, width: int) -> tuple[float, int]:
    """What the pair should give, by the compressor's own interface: relative error and bytes of indices and table."""
    model = Pictures().eval()
    config = KMeansPalettizer.config_class(
        global_config=None, module_name_configs={layer: bits(width)[f"{width} bits"]}
    )
    prepared = KMeansPalettizer(model, config).prepare((DATA[:2],))
    with torch.no_grad():
        errors = [
            float((prepared(each) - model(each)).double().square().sum() / model(each).double().square().sum())
            for each in INPUTS
        ]
    return sum(errors) / len(errors), -(-model.get_submodule(layer).weight.numel() * width // 8) + 4 * 2**width


def test_each_candidate_is_measured_with_all_other_layers_whole() -> None:
    model, compression, metric = palettization(Pictures())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = measure_sensitivities(model, compression, bits(2, 4), metric)
    assert found.is_complete
    assert [layer.name for layer in found.layers] == NAMES
    assert found.baseline is not None
    assert found.baseline.score == 0
    for layer in found.layers:
        for width in (2, 4):
            candidate = found.candidate(layer.name, f"{width} bits")
            error, taken = by_hand(layer.name, width)
            assert found.cost(candidate) == pytest.approx(error, rel=1e-9)
            assert found.weight_bytes(layer, candidate) == taken
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same(tmp_path: Path) -> None:
    model, compression, metric = palettization(Pictures())
    path, whole = tmp_path / "killed.json", tmp_path / "whole.json"
    expected = measure_sensitivities(model, compression, bits(1, 2, 4), Counting(metric), path=whole)
    stopped = Counting(metric, most=6)
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivities(model, compression, bits(1, 2, 4), stopped, path=path)
    half = Sensitivities.load(path)
    assert not half.is_complete
    assert len(half.unmeasured()) == 12 - 5  # the model with no layer compressed was the first of six
    rest = Counting(metric)
    resumed = measure_sensitivities(model, compression, bits(1, 2, 4), rest, path=path)
    assert rest.calls == 13 - 6
    assert table(resumed) == table(expected)
    assert path.read_text() == whole.read_text()
    again = Counting(metric)
    measure_sensitivities(model, compression, bits(1, 2, 4), again, path=path)
    assert again.calls == 0
    assert [each.name for each in tmp_path.iterdir() if each.suffix != ".json"] == []


def test_more_candidates_leave_the_measured_ones_measured(tmp_path: Path) -> None:
    model, compression, metric = palettization(Pictures())
    path = tmp_path / "sensitivities.json"
    measure_sensitivities(model, compression, bits(2), metric, path=path, layers=["stem", "head"])
    counting = Counting(metric)
    counting.name = metric.name
    found = measure_sensitivities(model, compression, bits(2, 3), counting, path=path, layers=["stem", "head", "block"])
    assert counting.calls == 6 - 2
    assert found.is_complete


@pytest.mark.parametrize("changed", ["the model", "the metric", "the compression"])
def test_a_file_of_something_else_is_refused(changed: str, tmp_path: Path) -> None:
    model, compression, metric = palettization(Pictures())
    path = tmp_path / "sensitivities.json"
    measure_sensitivities(model, compression, bits(2), metric, path=path, layers=["head"])
    if changed == "the model":
        with torch.no_grad():
            model.head.bias.add_(1)
    elif changed == "the metric":
        metric = against(model, [DATA])
    else:
        compression = Compression(compressor=KMeansPalettizer, example_inputs=(DATA[:2],), options={"seed": 3})
    with pytest.raises(SearchError, match=rf"sensitivities\.json' holds measurements of another setting: {changed}"):
        measure_sensitivities(model, compression, bits(2), metric, path=path, layers=["head"])


def test_what_is_saved_loads_equal_without_the_model(tmp_path: Path) -> None:
    model, compression, metric = palettization(Pictures())
    found = measure_sensitivities(model, compression, bits(2, 4), metric, path=tmp_path / "s.json")
    loaded = Sensitivities.load(tmp_path / "s.json")
    for name in ("setting", "base", "baseline", "layers", "candidates", "module_names"):
        assert getattr(loaded, name) == getattr(found, name)
    json.loads((tmp_path / "s.json").read_text(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read"),
        ("{", "not a JSON file"),
        ("[]", "holds no sensitivities"),
        ('{"format": "graphpress sensitivities", "version": 9}', "version 9"),
        ('{"format": "graphpress sensitivities", "version": 1}', "damaged"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SearchError, match=message):
        Sensitivities.load(path)


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_measure_the_same(workers: int) -> None:
    model, compression, metric = palettization(Pictures())
    expected = table(measure_sensitivities(model, compression, bits(1, 3), metric))
    with ThreadPoolExecutor(workers) as executor:
        assert table(measure_sensitivities(model, compression, bits(1, 3), metric, executor=executor)) == expected


@pytest.mark.slow
def test_processes_measure_the_same(tmp_path: Path) -> None:
    model, compression, metric = palettization(Pictures())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = table(measure_sensitivities(model, compression, bits(1, 3), metric))
    finally:
        torch.set_num_threads(threads)
    with ProcessPoolExecutor(
        2, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        found = measure_sensitivities(model, compression, bits(1, 3), metric, executor=pool, path=tmp_path / "s.json")
    assert table(found) == expected
    assert Sensitivities.load(tmp_path / "s.json").is_complete


class Reversed(Executor):
    """Runs the last job first, so that results come in another order."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Any, Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, fn, args))
        if len(self.waiting) == 9:
            for held, function, arguments in reversed(self.waiting):
                held.set_result(function(*arguments))
        return future


def test_the_order_in_which_results_come_does_not_matter(tmp_path: Path) -> None:
    model, compression, metric = palettization(Pictures())
    measure_sensitivities(model, compression, bits(1, 3), metric, path=tmp_path / "one.json")
    measure_sensitivities(model, compression, bits(1, 3), metric, path=tmp_path / "two.json", executor=Reversed())
    assert (tmp_path / "one.json").read_text() == (tmp_path / "two.json").read_text()


def test_any_callable_is_a_metric_and_says_its_direction() -> None:
    model, compression, _ = palettization(Pictures())
    found = measure_sensitivities(model, compression, bits(1), weight_of_stem, higher_is_better=True, layers=["stem"])
    assert found.baseline is not None
    assert found.baseline.score == weight_of_stem(model)
    assert found.cost(found.candidate("stem", "1 bits")) > 0  # one bit is the mean of each half: less energy
    assert found.setting.metric.endswith("weight_of_stem")
    seen: list[bool] = []
    measure_sensitivities(
        model,
        compression,
        bits(1),
        lambda m: float(seen.append(m.training or torch.is_grad_enabled()) is None),
        layers=["stem"],
    )
    assert seen == [False, False]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_quantizer_is_measured_like_a_palettizer() -> None:
    model = Pictures().eval()
    base = QuantizerConfig(global_config=None)
    compression = Compression(compressor=Quantizer, example_inputs=(DATA[:2],), base=base)
    weights = {f"int{n}": getattr(ModuleQuantizerConfig.presets, f"w{n}")() for n in (4, 8)}
    found = measure_sensitivities(model, compression, weights, against(model, INPUTS))
    assert [layer.name for layer in found.layers] == NAMES
    for layer in found.layers:
        four, eight = (found.candidate(layer.name, name) for name in ("int4", "int8"))
        assert found.cost(four) > found.cost(eight) > 0
        channels = model.get_submodule(layer.name).weight.shape[0]
        assert found.weight_bytes(layer, four) == layer.weights // 2 + 4 * channels
        assert found.weight_bytes(layer, eight) == layer.weights + 4 * channels
    config = base.set_module_name("head", weights["int4"])
    quantizer = Quantizer(model, config)
    prepared = quantizer.prepare((DATA[:2],))
    with torch.no_grad():
        assert against(model, INPUTS)(prepared) == found.cost(found.candidate("head", "int4"))


def test_calibration_data_reach_the_quantizers() -> None:
    model = Pictures().eval()
    everything = {"int8": ModuleQuantizerConfig()}
    costs = []
    for scale in (1.0, 0.01):
        compression = Compression(
            compressor=Quantizer,
            example_inputs=(DATA[:2] * scale,),
            calibration=[DATA * scale, (DATA * scale,)],
            base=QuantizerConfig(global_config=None),
        )
        found = measure_sensitivities(model, compression, everything, against(model, INPUTS), layers=["stem"])
        costs.append(found.cost(found.candidate("stem", "int8")))
    assert costs[1] > 50 * costs[0] > 0


def test_candidates_of_palettization_may_heed_activations() -> None:
    model = Pictures().eval()
    candidates = {
        name: ModuleKMeansPalettizerConfig(op_state_spec={"weight": PalettizationSpec(n_bits=2, activation_aware=on)})
        for name, on in {"alike": False, "aware": True}.items()
    }
    compression = Compression(compressor=KMeansPalettizer, example_inputs=(DATA[:2],), calibration=[DATA])
    found = measure_sensitivities(model, compression, candidates, against(model, INPUTS), layers=["stem"])
    config = KMeansPalettizer.config_class(module_name_configs={"stem": candidates["aware"]})
    palettizer = KMeansPalettizer(model, config)
    prepared = palettizer.prepare((DATA[:2],))
    with palettizer.calibration_mode():
        prepared(DATA)
    with torch.no_grad():
        assert against(model, INPUTS)(prepared) == found.cost(found.candidate("stem", "aware"))
    assert found.cost(found.candidate("stem", "aware")) != found.cost(found.candidate("stem", "alike"))


def test_candidates_that_do_not_fit_are_named_and_are_no_options() -> None:
    model, compression, metric = palettization(Pictures())
    candidates = bits(2) | {"groups": bits(2, granularity=PerGroupedChannelGranularity(group_size=16))["2 bits"]}
    with pytest.warns(
        SearchWarning, match=r"1 candidates do not fit[^\n]*\n  head, groups: .*group_size=16 does not divide"
    ):
        found = measure_sensitivities(model, compression, candidates, metric)
    head = found.layers[-1]
    assert [candidate.name for candidate in found.fitting(head)] == ["2 bits"]
    with pytest.raises(SearchError, match="no candidate fits any layer"):
        measure_sensitivities(model, compression, {"groups": candidates["groups"]}, metric, layers=["head"])


def test_warnings_of_compressors_are_told_once() -> None:
    model, compression, metric = palettization(Pictures())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = measure_sensitivities(model, compression, bits(2, 8), metric, layers=["head"])
    texts = [str(each.message) for each in caught if issubclass(each.category, SearchWarning)]
    assert len(texts) == 1
    assert "with 'head' as '8 bits': 1 weight skipped" in texts[0]
    (head,) = found.layers
    assert found.weight_bytes(head, found.candidate("head", "8 bits")) == head.float_bytes


def test_other_candidates_for_some_layers() -> None:
    model, compression, metric = palettization(Pictures())
    found = measure_sensitivities(model, compression, bits(4), metric, per_layer={"head": bits(2, 6)})
    assert [candidate.name for candidate in found.candidates["head"]] == ["2 bits", "6 bits"]
    assert [candidate.name for candidate in found.candidates["stem"]] == ["4 bits"]


def test_candidates_as_dictionaries_and_progress() -> None:
    model, compression, metric = palettization(Pictures())
    seen: list[tuple[int, int]] = []
    plain = {"two": {"op_state_spec": {"weight": {"n_bits": 2}}}}
    found = measure_sensitivities(
        model, compression, plain, metric, layers=["head"], progress=lambda done, total: seen.append((done, total))
    )
    assert found.candidate("head", "two").config == bits(2)["2 bits"]
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"candidates": {}}, "has no candidates"),
        (
            {"candidates": {"a": PalettizationSpec()}},
            "'a' of layer 'stem' is a PalettizationSpec; accepted: a ModuleKM",
        ),
        ({"candidates": {"a": ModuleQuantizerConfig()}}, "is a ModuleQuantizerConfig"),
        ({"layers": ["steem"]}, "did you mean 'stem'"),
        ({"per_layer": {"tail": bits(2)}}, "per_layer names 'tail'"),
        ({"metric": lambda model: math.nan}, "the metric gives NaN for the model with no layer compressed"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: dict[str, Any], message: str) -> None:
    model, compression, metric = palettization(Pictures())
    with pytest.raises(SearchError, match=message):
        measure_sensitivities(model, compression, **({"candidates": bits(2), "metric": metric} | arguments))


def test_a_base_of_another_technique_is_refused() -> None:
    with pytest.raises(SearchError, match="KMeansPalettizer takes a KMeansPalettizerConfig"):
        Compression(compressor=KMeansPalettizer, example_inputs=(DATA,), base=QuantizerConfig())


def test_metrics_of_outputs_are_their_formulas() -> None:
    reference, output = (torch.tensor([3.0, 4.0]),), (torch.tensor([3.0, 5.0]),)
    assert mean_squared_error(reference, output) == 0.5
    assert peak_signal_to_noise(reference, output) == pytest.approx(10 * math.log10(16 / 0.5))
    assert peak_signal_to_noise(reference, reference) == math.inf
    with pytest.raises(SearchError, match="must have at least one input"):
        against(Pictures(), DATA)
