"""The table of what smoothing and rotation keep of a language model: its parts, on a small one."""

from __future__ import annotations

import math

import torch
from torch import nn

from graphpress.tools.bench.outlier_table import OPTIONS, SETTINGS, figures, quantized, texts


class Small(nn.Module):
    """A language model of one gated layer, with an outlier channel behind its norm and one in its stream."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm, self.last = nn.Embedding(20, 16), nn.RMSNorm(16), nn.RMSNorm(16)
        self.gate, self.up, self.down = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 20)
        with torch.no_grad():
            self.embedding.weight[:, 5] *= 40
            self.norm.weight[3] = 40
            for layer in (self.gate, self.up):
                layer.weight[:, 3] /= 40

    def forward(self, ids):
        x = self.embedding(ids)
        normed = self.norm(x)
        x = x + self.down(nn.functional.silu(self.gate(normed)) * self.up(normed))
        return self.head(self.last(x))


class Uniform(nn.Module):
    """Predicts every token alike."""

    def forward(self, ids):
        return torch.zeros(*ids.shape, 20)


def batches(seed: int):
    return [torch.randint(0, 20, (2, 8), generator=torch.Generator().manual_seed(seed + i)) for i in range(3)]


def test_the_perplexity_of_a_model_that_knows_nothing_is_the_size_of_the_vocabulary():
    found = figures(Uniform(), Uniform(), batches(0))
    assert math.isclose(found.perplexity, 20, rel_tol=1e-6)
    assert found.decibels == math.inf


def test_rotation_and_smoothing_keep_more_of_the_logits():
    torch.manual_seed(0)
    model = Small().eval()
    found = {}
    for option, options in OPTIONS.items():
        config = SETTINGS["W8A8 everywhere"]()
        for name, value in options.items():
            setattr(config, name, value)
        found[option] = figures(quantized(model, config, batches(1)), model, batches(9)).decibels
    assert found["rotated and smoothed"] > found["as it is"] + 3


def test_texts_are_documents_of_some_length(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "long.md").write_text("word " * 2000)
    (tmp_path / "package" / "short.md").write_text("word")
    assert [len(text) for text in texts(tmp_path)] == [6000]
