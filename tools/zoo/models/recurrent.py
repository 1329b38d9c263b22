"""Recurrent networks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphpress.tools.zoo.entry import ZooModel
from graphpress.tools.zoo.models.hub import normal, tokens


class Tagger(nn.Module):
    """Embedding, bidirectional LSTM of two layers, and a linear layer."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, 32)
        self.recurrent = kind(32, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(64, 10)

    def forward(self, ids: Tensor) -> Tensor:
        """Return scores `(batch, length, 10)`."""
        return self.out(self.recurrent(self.embedding(ids))[0])


class Cells(nn.Module):
    """A GRU cell that is called in a loop, with its state kept beside."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(16, 32)
        self.out = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of every step, and the last state."""
        state = x.new_zeros(x.shape[0], 32)
        steps = []
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
            steps.append(self.out(state))
        return torch.stack(steps, 1), state


class Recogniser(nn.Module):
    """Convolutions over an image, and an LSTM over its columns."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32),
            nn.ReLU(), nn.MaxPool2d((8, 1)),
        )  # fmt: skip
        self.recurrent = nn.LSTM(32, 24, batch_first=True)
        self.out = nn.Linear(24, 20)

    def forward(self, x: Tensor) -> Tensor:
        """Return log probabilities `(batch, width / 4, 20)`."""
        columns = self.features(x).squeeze(2).transpose(1, 2)
        return F.log_softmax(self.out(self.recurrent(columns)[0]), -1)


class TemporalConvolutions(nn.Module):
    """Causal dilated convolutions with gates, as WaveNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**at) for at in range(4))
        self.mixes = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the skips."""
        total = torch.zeros_like(x)
        for at, (gate, mix) in enumerate(zip(self.gates, self.mixes, strict=True)):
            signal, opening = gate(F.pad(x, (2**at, 0))).chunk(2, 1)
            skip = mix(signal.tanh() * opening.sigmoid())
            x, total = x + skip, total + skip
        return total


MODELS = (
    ZooModel("lstm tagger", "recurrent", lambda: Tagger(nn.LSTM), tokens()),
    ZooModel("gru tagger", "recurrent", lambda: Tagger(nn.GRU), tokens()),
    ZooModel("gru cells", "recurrent", Cells, normal(6, 16)),
    ZooModel("text recogniser", "recurrent", Recogniser, normal(3, 32, 64)),
    ZooModel("wavenet", "recurrent", TemporalConvolutions, normal(16, 32)),
)
