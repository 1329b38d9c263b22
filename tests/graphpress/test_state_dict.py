"""`prepare(state_dict=...)`: the structure from the config, the numbers from the state dict."""

import copy

import pytest
import torch
from torch import nn

from graphpress.compressor import StateDictError
from graphpress.palettization import (
    KMeansPalettizer,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from graphpress.palettization.spec import PerGroupedChannelGranularity, TableTrainingSpec
from graphpress.passes.weights import palettize
from graphpress.pruning import MagnitudePruner
from graphpress.quantization import ExecutionMode, QuantizationSpec, Quantizer, QuantizerConfig
from graphpress.quantization.calculators import QParamsCalculatorBase

X = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.Linear(16, 3)).eval()


def palettizer(**options):
    spec = PalettizationSpec(n_bits=4, **options)
    config = KMeansPalettizerConfig(global_config=ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec}))
    return lambda model: KMeansPalettizer(model, config)


COMPRESSORS = {
    "pruner": MagnitudePruner,
    "graph": Quantizer,
    "eager": lambda model: Quantizer(model, QuantizerConfig(execution_mode=ExecutionMode.EAGER)),
    "tables": palettizer(),
    "groups": palettizer(granularity=PerGroupedChannelGranularity(axis=0, group_size=16)),
    "codes": palettizer(lut_qspec=QuantizationSpec(dtype="uint8", qscheme="asymmetric")),
    "scaled vectors": palettizer(cluster_dim=2, enable_per_channel_scale=True),
    "trained": palettizer(training_strategy_spec=TableTrainingSpec(), lut_qspec=QuantizationSpec()),
}


@pytest.fixture(params=COMPRESSORS)
def make(request):
    return COMPRESSORS[request.param]


def prepared_by(make):
    compressor = make(network())
    prepared = compressor.prepare(X)
    if isinstance(compressor, Quantizer):
        with compressor.calibration_mode():
            prepared(3 * X)
    return compressor, prepared


@pytest.fixture
def nothing_computed(monkeypatch):
    """Clustering, the choice of masks and observation are errors."""

    def refuse(*args, **kwargs):
        raise AssertionError("computed, not loaded")

    def forbid():
        monkeypatch.setattr("graphpress.palettization.jobs.palettize", refuse)
        monkeypatch.setattr("graphpress.pruning.forms.pruning_mask", refuse)
        monkeypatch.setattr(QParamsCalculatorBase, "observe", refuse)
        monkeypatch.setattr("graphpress.quantization.calculators.RunningRangeMixin.observe", refuse)

    assert palettize is not refuse
    return forbid


def test_a_reloaded_model_is_the_prepared_one(make, nothing_computed):
    _, source = prepared_by(make)
    saved = copy.deepcopy(source.state_dict())
    nothing_computed()
    again = make(network(seed=1))
    reloaded = again.prepare(X, state_dict=saved)
    found = reloaded.state_dict()
    assert list(found) == list(saved)
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())
    assert torch.equal(reloaded(3 * X), source(3 * X))
    assert torch.equal(again.finalize()(X), again.finalize(copy.deepcopy(reloaded))(X))


def test_a_state_dict_that_does_not_match_is_named(make):
    _, source = prepared_by(make)
    saved = dict(source.state_dict())
    lost = next(name for name in reversed(saved) if not name.endswith("_training_steps"))
    less = {name: tensor for name, tensor in saved.items() if name != lost}
    with pytest.raises(StateDictError, match=f"State dict does not match.*{lost}"):
        make(network()).prepare(X, state_dict=less)
    more = {**saved, "0.nothing": torch.zeros(())}
    with pytest.raises(StateDictError, match=r"does not match.*0\.nothing"):
        make(network()).prepare(X, state_dict=more)
    wrong = {**saved, "0.bias": torch.zeros(5)}
    with pytest.raises(StateDictError, match=r"does not match.*0\.bias"):
        make(network()).prepare(X, state_dict=wrong)


def test_quantizers_that_a_model_does_not_have_are_named():
    _, source = prepared_by(COMPRESSORS["eager"])
    more = {**source.state_dict(), "1._quantizers.gelu_output.calculator.edges": torch.zeros(())}
    with pytest.raises(StateDictError, match=r"superfluous.*gelu_output"):
        COMPRESSORS["eager"](network()).prepare(X, state_dict=more)
