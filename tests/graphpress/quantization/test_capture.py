"""Models that spell out their batch, prepared at one batch and used at others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphpress.backends import coreai
from graphpress.ir.interpreter import run
from graphpress.quantization import Quantizer, QuantizerConfig
from graphpress.quantization.batch_of_one import BatchOfOneWarning
from graphpress.quantization.capture import capture
from graphpress.tools.models import MODELS


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def exports(monkeypatch):
    """The number of times that torch.export ran."""
    count = []
    original = torch.export.export

    def counted(*args, **kwargs):
        count.append(kwargs.get("dynamic_shapes"))
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counted)
    return count


@pytest.mark.parametrize("name", ["gpt_small", "small_transformer", "small_resnet"])
def test_models_are_exported_once(name, exports):
    entry = MODELS[name]
    model, inputs = entry.build(), entry.example_inputs()
    graph = capture(model, inputs)
    assert exports == [None]
    more = torch.cat([inputs[0]] * 3).flip(1)
    with torch.no_grad():
        torch.testing.assert_close(run(graph, [more])[0], model(more), rtol=1e-4, atol=1e-4)


class Branching(nn.Module):
    """Does one thing with up to `limit` rows, and another with more."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(x.shape[0], -1)
        return x * 2 if x.shape[0] <= self.limit else x * 3


def test_what_cannot_be_proven_is_captured_with_a_dynamic_batch(exports):
    model = Branching(3)
    graph = capture(model, (noise(5, 3, 4),))
    assert [shapes is None for shapes in exports] == [True, False]
    assert torch.equal(run(graph, [noise(6, 3, 4)])[0], model(noise(6, 3, 4)))


@pytest.mark.filterwarnings("ignore::graphpress.quantization.batch_of_one.BatchOfOneWarning")
def test_a_model_that_decides_by_a_batch_of_one_is_exported_once(exports):
    model = Branching(1)
    graph = capture(model, (noise(2, 3, 4),))
    assert exports == [None]
    assert torch.equal(run(graph, [noise(5, 3, 4)])[0], model(noise(5, 3, 4)))


class Layers(nn.Module):
    """Residual layers with a state that is written row by row, and a mask of positions expanded to the batch."""

    def __init__(self, count: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1])[None]
        if x.shape[0] != positions.shape[0]:
            positions = positions.expand(x.shape[0], -1)
        for layer in self.layers:
            states = torch.zeros_like(x)
            states[:, 0] = layer(x)[:, 0]
            x = x + states * positions[..., None].view(x.shape[0], -1, 1)
        return x


def test_the_work_of_preparing_grows_with_the_layers(exports, monkeypatch):
    calls, traces = [], []
    forward, retrace = nn.Linear.forward, torch.export.ExportedProgram.run_decompositions
    monkeypatch.setattr(nn.Linear, "forward", lambda *args: (calls.append(1), forward(*args))[1])
    monkeypatch.setattr(
        torch.export.ExportedProgram, "run_decompositions", lambda *args: (traces.append(1), retrace(*args))[1]
    )
    found = []
    for layers in (2, 8):
        calls.clear()
        exports.clear()
        Quantizer(Layers(layers)).prepare((noise(2, 3, 4),))
        found.append((len(exports), len(traces), len(calls)))
    # The export runs each layer once, the proof for every batch once, and the comparison at a batch of one once.
    assert found == [(1, 0, 6), (1, 0, 24)]


@pytest.mark.parametrize(("example", "held"), [(1, [1]), (2, [2, 3, 5])])
def test_a_model_that_computes_something_else_at_one_holds_at_the_batch_of_the_example(example, held):
    model = Branching(1)
    with pytest.warns(BatchOfOneWarning, match="Branching computes something else at a batch of one"):
        graph = capture(model, (noise(example, 3, 4),))
    for batch in held:
        assert torch.equal(run(graph, [noise(batch, 3, 4)])[0], model(noise(batch, 3, 4)))


class Noisy(nn.Module):
    """Adds noise to rows that it has reshaped."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1) + torch.rand_like(x).view(x.shape[0], -1)


def test_noise_is_no_difference_at_a_batch_of_one(recwarn):
    capture(Noisy(), (noise(2, 3, 4),))
    assert not [each for each in recwarn if each.category is BatchOfOneWarning]


class ExpandsPositions(nn.Module):
    """Expands its positions to the batch, unless that is one, as transformers do in their masks."""

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1])[None]
        if x.shape[0] != positions.shape[0]:
            positions = positions.expand(x.shape[0], -1)
        steps = torch.diff(positions, prepend=positions[:, :1] - 1, dim=-1)
        together = (steps != 1).cumsum(-1)
        return x.view(x.shape[0], -1) * (together[:, :, None] == together[:, None]).sum((1, 2))[:, None]


@pytest.mark.parametrize("example", [1, 2])
def test_positions_that_are_expanded_to_the_batch_never_need_a_dynamic_export(example, exports):
    graph = capture(ExpandsPositions(), (noise(example, 3, 4),))
    assert exports == [None] * (2 if example == 1 else 1)
    for batch in (1, 2, 5):
        assert torch.equal(run(graph, [noise(batch, 3, 4)])[0], ExpandsPositions()(noise(batch, 3, 4)))


class SetsRows(nn.Module):
    """Sets a part of each row to one value, of which torch drops the leading dims of size one."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.ones(x.shape[0], 3, 4)
        wide[:, 2, 1:] = x[:, 0, :1]
        return wide.view(x.shape[0], -1)


def test_rows_that_are_set_in_place_never_need_a_dynamic_export(exports):
    graph = capture(SetsRows(), (noise(1, 3, 4),))
    assert exports == [None, None]
    for batch in (1, 2, 5):
        assert torch.equal(run(graph, [noise(batch, 3, 4)])[0], SetsRows()(noise(batch, 3, 4)))


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 12) + torch.arange(24.0).view(2, 12)


def test_a_model_that_has_one_batch_keeps_it():
    graph = capture(FixedBatch(), (noise(2, 3, 4),))
    assert graph.inputs[0].value.tensor_type.shape == (2, 3, 4)
    assert torch.equal(run(graph, [noise(2, 3, 4, seed=1)])[0], FixedBatch()(noise(2, 3, 4, seed=1)))


class MeanByHand(nn.Module):
    """No size of the batch is in any shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.sum(0) / x.shape[0]


@pytest.mark.parametrize("example", [1, 2])
def test_a_number_that_is_the_batch_is_one_at_other_batches(example):
    graph = capture(MeanByHand(), (noise(example, 4),))
    torch.testing.assert_close(run(graph, [noise(5, 4)])[0], MeanByHand()(noise(5, 4)))


class TwoInputs(nn.Module):
    """A sequence and its padding mask, of one batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.encoder(x, src_key_padding_mask=padding).view(x.shape[0], -1))


@pytest.mark.parametrize("example", [1, 3])
def test_several_inputs_of_one_batch_are_quantized_at_another(example):
    model = TwoInputs().eval()
    quantizer = Quantizer(model)
    quantizer.prepare((noise(example, 3, 8), torch.zeros(example, 3, dtype=torch.bool)))
    with quantizer.calibration_mode() as prepared:
        for batch in (4, 1, 6):
            prepared(noise(batch, 3, 8, seed=batch), torch.zeros(batch, 3, dtype=torch.bool))
    finalized = quantizer.finalize()
    x, padding = noise(5, 3, 8), torch.zeros(5, 3, dtype=torch.bool)
    with torch.no_grad():
        assert (finalized(x, padding) - model(x, padding)).abs().median() < 0.05


class Translator(nn.Module):
    """`nn.Transformer` with a mask, which torch compares with a causal one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transformer = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.transformer(source, target, tgt_mask=mask)


def test_a_transformer_with_a_mask_is_captured_and_masks_what_torch_masks():
    model = Translator().eval()
    prepared = Quantizer(model, QuantizerConfig.presets.w8()).prepare((noise(2, 5, 16), noise(2, 4, 16)))
    source, target = noise(3, 5, 16, seed=1), noise(3, 4, 16, seed=2)
    with torch.no_grad():
        got, expected = prepared(source, target), model(source, target)
        assert (got - expected).abs().max() < 0.05
        later = torch.cat([target[:, :2], noise(3, 2, 16, seed=3)], 1)
        assert torch.equal(prepared(source, later)[:, :2], got[:, :2]), "a position sees those after it"


class CrossAttention(nn.Module):
    """Keys of one input in the batch of the other, a boolean operator on masks, and differences along another axis."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        batch = x.shape[0]
        query = self.query(x).view(batch, -1, 2, 4).transpose(1, 2)
        key = self.key(memory).view(batch, -1, 2, 4).transpose(1, 2)
        mask = (x.mean(-1) > -9.0).expand(batch, -1) & (x.mean(-1).diff(prepend=x[:, :1, 0]) > -9.0)
        hidden = (~mask).view(batch, 1, -1, 1) * -1e4
        return (query @ key.mT + hidden).softmax(-1).reshape(batch, -1)


def test_two_inputs_whose_sizes_meet_in_a_view_are_quantized_at_another_batch():
    model = CrossAttention().eval()
    quantizer = Quantizer(model)
    quantizer.prepare((noise(2, 3, 8), noise(2, 5, 8)))
    with quantizer.calibration_mode() as prepared:
        prepared(noise(4, 3, 8), noise(4, 5, 8))
    finalized = quantizer.finalize()
    with torch.no_grad():
        x, memory = noise(3, 3, 8, seed=1), noise(3, 5, 8, seed=2)
        assert (finalized(x, memory) - model(x, memory)).abs().median() < 0.02


def test_arguments_of_a_forward_with_any_number_are_captured_with_a_dynamic_batch():
    class AnyNumber(nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return sum(x.view(x.shape[0], -1)[:: max(1, min(2, x.shape[0]))].sum() for x in inputs)

    graph = capture(AnyNumber().eval(), (noise(2, 3, 4), noise(2, 3, 4)))
    assert all(not entry.value.tensor_type.is_static for entry in graph.inputs)


def test_a_model_prepared_at_one_batch_runs_in_core_ai_at_others(tmp_path):
    pytest.importorskip("coreai_torch")
    entry = MODELS["small_transformer"]
    (tokens,) = entry.example_inputs()
    quantizer = Quantizer(entry.build())
    quantizer.prepare((tokens,))
    with quantizer.calibration_mode() as prepared:
        prepared(torch.cat([tokens, tokens.flip(1)]))
    finalized = quantizer.finalize()
    path = tmp_path / "model.aimodel"
    batch = torch.export.Dim("batch", min=1, max=8)
    coreai.convert(finalized, path, (torch.cat([tokens, tokens]),), dynamic_shapes=({0: batch},))
    model = coreai.load(path)
    for count in (1, 3):
        more = torch.cat([tokens, tokens.flip(1), tokens])[:count]
        with torch.no_grad():
            wanted = finalized(more)
        step = float(wanted.unique().diff().clamp(min=1e-6).min())
        torch.testing.assert_close(model(more), wanted, atol=max(0.05, 1.01 * step), rtol=0.05)
