"""What the compressors of modules share: where stored parts go, what tied modules share, and the way back."""

import copy
import pickle

import pytest
import torch
from torch import nn

from graphpress import ExportBackend
from graphpress.modules.coreai_form import StoredParameter
from graphpress.modules.forms import forms_of
from graphpress.modules.restoring import with_masked_floats, with_stored_parameters
from graphpress.modules.surgery import copied, once, placed
from graphpress.palettization import KMeansPalettizer, KMeansPalettizerConfig
from graphpress.palettization.forms import FakePalettized
from graphpress.passes.weights import PalettizationError
from graphpress.pruning import MagnitudePruner
from graphpress.quantization import Quantizer, QuantizerConfig

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


class Scaled(nn.Linear):
    """A layer with a buffer called as the scale of its weight would be."""

    def __init__(self) -> None:
        super().__init__(16, 32)
        self.register_buffer("weight_scale", torch.full((), 3.0))

    def forward(self, x):
        return super().forward(x) * self.weight_scale


class Tied(nn.Module):
    """One matrix, which two modules know by different names."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 32, bias=False)
        self.table = nn.Module()
        self.table.rows = self.head.weight

    def forward(self, x):
        return self.head(x) @ self.table.rows


def eager() -> QuantizerConfig:
    return QuantizerConfig.presets.w8().set_execution_mode("eager")


@pytest.mark.parametrize("backend", list(ExportBackend)[:2], ids=lambda backend: backend.name)
def test_a_buffer_of_the_users_own_keeps_its_name_and_value(backend):
    torch.manual_seed(0)
    quantizer = Quantizer(Scaled().eval(), eager())
    prepared = quantizer.prepare((X,))
    finalized = quantizer.finalize(backend=backend)
    assert float(finalized.weight_scale) == 3.0
    assert torch.equal(finalized(X), prepared(X))


def test_the_palettizer_names_the_buffer_that_is_in_the_way():
    taken = Scaled()
    taken.register_buffer("weight_lut", torch.zeros(1))
    with pytest.raises(PalettizationError, match=r"already has an attribute 'weight_lut', the name of the lut"):
        KMeansPalettizer(nn.Sequential(taken)).prepare((X,))


@pytest.mark.parametrize(
    ("kind", "config", "part"),
    [
        (KMeansPalettizer, KMeansPalettizerConfig.presets.w4(), "indices"),
        (MagnitudePruner, None, "nonzero_data"),
        (Quantizer, eager(), "codes"),
    ],
    ids=["palettizer", "pruner", "quantizer"],
)
def test_tied_parameters_share_what_is_stored_under_their_own_names(kind, config, part):
    torch.manual_seed(0)
    model = Tied().eval()
    compressor = kind(model, config)
    prepared = compressor.prepare((X,))
    finalized = compressor.finalize()
    assert getattr(finalized.head, f"weight_{part}") is getattr(finalized.table, f"rows_{part}")
    assert torch.equal(finalized(X), prepared(X))
    for other in (copy.deepcopy(finalized), pickle.loads(pickle.dumps(finalized))):
        assert torch.equal(other(X), prepared(X))
        assert getattr(other.head, f"weight_{part}") is getattr(other.table, f"rows_{part}")


def test_tied_parameters_are_placed_twice_and_come_once():
    model = KMeansPalettizer(Tied().eval(), KMeansPalettizerConfig.presets.w4()).prepare((X,))
    assert [each.name for each in placed(model, FakePalettized)] == ["head.weight", "table.rows"]
    assert [each.name for each in once(placed(model, FakePalettized))] == ["head.weight"]


def test_a_copy_for_a_backend_shares_the_floats_and_nothing_else():
    model = KMeansPalettizer(Tied().eval(), KMeansPalettizerConfig.presets.w4()).prepare((X,))
    found, places = copied(model, FakePalettized)
    assert places[0].parameter is model.head._parameters["weight"]
    assert found.head.weight_indices is not model.head.weight_indices
    assert "_training_steps" in dict(model.named_buffers())
    assert "_training_steps" not in dict(found.named_buffers())


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32)).eval()


def test_what_coremltools_is_told_is_stored_again_as_for_core_ai():
    model = linear()
    for kind in (MagnitudePruner, KMeansPalettizer):
        stored = {}
        for backend in list(ExportBackend)[:2]:
            compressor = kind(model)
            compressor.prepare((X,))
            stored[backend] = compressor.finalize(backend=backend)
        described = stored[ExportBackend.CoreML]
        before = {name: tensor.clone() for name, tensor in described.state_dict().items()}
        restored = with_stored_parameters(described)
        assert isinstance(forms_of(restored[0])["weight"], StoredParameter)
        wanted = stored[ExportBackend.CoreAI].state_dict()
        assert restored.state_dict().keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in restored.state_dict().items())
        assert before.keys() == described.state_dict().keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in described.state_dict().items())
        model = described  # the second compressor goes on with what the first one described


@pytest.mark.parametrize("backend", list(ExportBackend)[:2], ids=lambda backend: backend.name)
def test_pruned_parameters_come_back_as_floats_with_masks(backend):
    pruner = MagnitudePruner(linear())
    prepared = pruner.prepare((X,))
    model = with_masked_floats(pruner.finalize(backend=backend))
    assert torch.equal(model[0].weight, prepared[0].weight)
    assert torch.equal(model[0].weight_mask, prepared[0].weight_mask)
    assert not forms_of(model[0])


def test_hooks_and_buffers_added_to_a_copy_are_no_part_of_the_prepared_model():
    prepared = KMeansPalettizer(nn.Sequential(nn.Linear(16, 32))).prepare((X,))
    copy_of_it, _ = copied(prepared, FakePalettized)
    expected, calls = prepared(X), []
    for module in copy_of_it.modules():
        module.register_forward_pre_hook(lambda *_: calls.append(1))
        module.register_buffer("added", torch.zeros(()))
    assert torch.equal(prepared(X), expected)
    assert not calls
    assert not any(name.endswith("added") for name in prepared.state_dict())
    copy_of_it(X)
    assert calls
