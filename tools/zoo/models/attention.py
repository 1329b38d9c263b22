"""Attention, gates and shared layers in plain torch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphpress.tools.zoo.entry import Inputs, ZooModel
from graphpress.tools.zoo.models.hub import normal, tokens


class CrossAttention(nn.Module):
    """Queries that are parameters attend to the input, and then to themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 4, 32))
        self.cross = nn.MultiheadAttention(32, 4, kdim=24, vdim=24, batch_first=True)
        self.own = nn.MultiheadAttention(32, 4, batch_first=True)
        self.out = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores of each query, and the weights of the cross attention."""
        found, weights = self.cross(self.queries.expand(x.shape[0], -1, -1), x, x)
        return self.out(found + self.own(found, found, found, need_weights=False)[0]), weights


class PaddedEncoder(nn.Module):
    """torch's encoder layers with a padding mask, pooled over what is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, 32, padding_idx=0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return one vector for each row."""
        padding = ids == 0
        hidden = self.encoder(self.embedding(ids), src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1).to(hidden.dtype)
        return (hidden * kept).sum(1) / kept.sum(1)


def _padded(generator: torch.Generator, batch: int) -> Inputs:
    (ids,) = tokens(12)(generator, batch)
    ids[0, -3:] = 0
    return (ids,)


class Translator(nn.Module):
    """`nn.Transformer` with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(32, 4, 1, 1, 64, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return `(batch, length of target, 32)`."""
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.transformer(source, target, tgt_mask=mask)


class SqueezeExcite(nn.Module):
    """A depthwise convolution with a channel gate, applied twice with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 24, 3, 2, 1), nn.Conv2d(24, 24, 3, 1, 1, groups=24)
        self.norm = nn.BatchNorm2d(24)
        self.reduce, self.expand = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.out = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores `(batch, 10)`."""
        x = self.stem(x)
        for _ in range(2):
            hidden = F.hardswish(self.norm(self.depthwise(x)))
            gate = F.hardsigmoid(self.expand(F.relu(self.reduce(hidden.mean((2, 3), keepdim=True)))))
            x = x + hidden * gate
        return self.out(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Siamese(nn.Module):
    """One encoder on two inputs, compared by cosine, with a weight-normed layer."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm(nn.Linear(24, 32))
        self.encode = nn.Sequential(norm, nn.Mish(), nn.Linear(32, 16))

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Return `(batch,)`."""
        return F.cosine_similarity(self.encode(one), self.encode(other))


class Bilinear(nn.Module):
    """A graph convolution by einsum, and a bilinear form of its nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.form = nn.Linear(16, 24), nn.Parameter(torch.randn(24, 24) * 0.2)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Return scores of all pairs of nodes."""
        hidden = F.elu(torch.einsum("bij,bjd->bid", edges.softmax(-1), self.mix(nodes)))
        return torch.einsum("bid,de,bje->bij", hidden, self.form, hidden)


def _two(first: tuple[int, ...], second: tuple[int, ...]) -> Callable[[torch.Generator, int], Inputs]:
    return lambda generator, batch: (*normal(*first)(generator, batch), *normal(*second)(generator, batch))


MODELS = (
    ZooModel("cross attention", "attention", CrossAttention, normal(10, 24)),
    ZooModel("padded encoder", "attention", PaddedEncoder, _padded),
    ZooModel("torch transformer", "attention", Translator, _two((8, 32), (6, 32))),
    ZooModel("squeeze excite", "attention", SqueezeExcite, normal(3, 24, 24)),
    ZooModel("siamese", "attention", Siamese, _two((24,), (24,))),
    ZooModel("graph convolution", "attention", Bilinear, _two((6, 16), (6, 6))),
)
