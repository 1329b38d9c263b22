"""Layers that generated modules are composed of, in three domains; each maps a domain to itself in any float dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, LENGTH, SIDE = 8, 16, 4  # tokens (batch, 16, 8), signals (batch, 8, 16), images (batch, 8, 4, 4)

Maker = Callable[[], nn.Module]
TOKENS: dict[str, Maker] = {}
SIGNALS: dict[str, Maker] = {}
IMAGES: dict[str, Maker] = {}
DOMAINS = {"tokens": TOKENS, "signals": SIGNALS, "images": IMAGES}


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _layer(domain: dict[str, Maker]) -> Callable[[Any], Any]:
    """Register a class of modules, named after it."""

    def register(kind: Any) -> Any:
        domain["".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__).strip("_")] = kind
        return kind

    return register


def _functions(domain: dict[str, Maker], **functions: Callable[[Tensor], Tensor]) -> None:
    for name, function in functions.items():
        domain[name] = lambda function=function: Apply(function)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / shape[-1] ** 0.5)


# elementwise, in every domain

ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu_by_hand": lambda x: x * torch.sigmoid(x),
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "hardswish": F.hardswish,
    "tanh": torch.tanh,
    "elu": F.elu,
    "softplus": F.softplus,
    "mish": F.mish,
    "clamped": lambda x: x.clamp(-1.5, 1.0),
    "affine": lambda x: 0.5 * x - 0.25,
    "from_a_number": lambda x: 1.5 - x,
    "quotient": lambda x: x / (1 + x.abs()),
    "reciprocal": lambda x: 1 / (1.5 + x * x),
    "squared": lambda x: x**2 - x,
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "signs": lambda x: x.abs() * x.sign(),
    "logarithm": lambda x: torch.log1p(x.abs()),
    "exponential": lambda x: torch.exp(-x.abs()),
    "rsqrt": lambda x: x * torch.rsqrt(x.pow(2) + 1),
    "sine": lambda x: torch.sin(x) + torch.cos(x),
    "maximum": lambda x: torch.maximum(x, -0.5 * x),
    "in_place": lambda x: (x + 1).relu_().mul_(0.5),
    "through_float32": lambda x: torch.tanh(x.float()).to(x.dtype),
    "through_float16": lambda x: x.half().to(x.dtype),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "lerp": lambda x: torch.lerp(x, -x, 0.25),
    "fmod": lambda x: x - x.detach() * 0.5,
    "erf": lambda x: torch.erf(x) + 0.1,
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
    "power": lambda x: (x.abs() + 0.5) ** 1.5,
}
for _domain in DOMAINS.values():
    _functions(_domain, **ELEMENTWISE)
_functions(
    TOKENS,
    softmax=lambda x: torch.softmax(x, -1),
    log_softmax=lambda x: F.log_softmax(x, -1),
    normalized=lambda x: F.normalize(x, dim=-1),
    centered=lambda x: x - x.mean(-1, keepdim=True),
    scaled_by_largest=lambda x: x / (x.abs().amax(-1, keepdim=True) + 1),
    standard=lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1).sqrt(),
    cumulative=lambda x: x.cumsum(1) / LENGTH,
    rolled=lambda x: x.roll(1, 1),
    flipped=lambda x: x.flip(-1),
    shifted=lambda x: F.pad(x[:, :-1], (0, 0, 1, 0)),
    glu=lambda x: F.glu(torch.cat([x, x.flip(-1)], -1), -1),
    heads=lambda x: x.reshape(x.shape[0], -1, 2, 4).transpose(1, 2).reshape(x.shape[0] * 2, -1, 4).reshape(x.shape),
    chunked=lambda x: torch.cat([part * scale for scale, part in enumerate(x.chunk(2, -1), 1)], -1),
    unbound=lambda x: torch.stack([row * 0.5 for row in x.unbind(1)], 1),
    every_second=lambda x: torch.stack([x[..., ::2], x[..., 1::2]], -1).flatten(-2),
    repeated=lambda x: x[:, :4].repeat(1, 4, 1) + x,
    interleaved=lambda x: x[:, ::2].repeat_interleave(2, 1),
    attention_by_hand=lambda x: torch.softmax(x @ x.transpose(-1, -2) * WIDTH**-0.5, -1) @ x,
    causal=lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    einsum_of_both=lambda x: torch.einsum("btc,bsc->bts", x, x)[..., :WIDTH] * 0.25,
    outer=lambda x: (x.unsqueeze(-1) * x.unsqueeze(-2)).mean(-1),
    rows=lambda x: x.reshape(-1, WIDTH).relu().view(x.shape[0], LENGTH, WIDTH),
    gathered=lambda x: x.gather(1, torch.arange(LENGTH - 1, -1, -1).view(1, -1, 1).expand(x.shape[0], -1, WIDTH)),
    selected=lambda x: x.index_select(1, torch.tensor([3, 1, 2, 0] * 4)),
    indexed=lambda x: x[:, [1, 0, *range(2, LENGTH)]],
    scattered=lambda x: torch.zeros_like(x).scatter(1, torch.zeros_like(x[:, :1]).long() + 2, x[:, :1]) + x,
    scatter_added=lambda x: x.scatter_add(-1, torch.zeros_like(x).long() + 1, 0.1 * x),
    filled_rows=lambda x: torch.cat([x[:, :-1], torch.full_like(x[:, :1], 0.25)], 1),
    slice_written=lambda x: torch.slice_scatter(x, torch.zeros_like(x[:, :2]), 1, 3, 5),
    triangle=lambda x: torch.tril(x @ x.transpose(1, 2)).matmul(x) / LENGTH,
    masked_rows=lambda x: x.masked_fill((torch.arange(LENGTH) % 3 == 0)[:, None], 0.0),
    one_hot=lambda x: x + F.one_hot(torch.arange(LENGTH) % WIDTH, WIDTH),
    sinusoids=lambda x: x + torch.sin(torch.arange(LENGTH).unsqueeze(-1) / 10 ** (torch.arange(WIDTH) / 4)).to(x.dtype),
    sorted=lambda x: x.sort(-1)[0],
    largest=lambda x: x * torch.topk(x, 2, -1)[0].sum(-1, keepdim=True),
    minimum_over_rows=lambda x: x - x.amin(1, keepdim=True),
    product_of_truths=lambda x: x * ((x > -10) & (x < 10)),
    counted=lambda x: x * (x > -100).sum(-1, keepdim=True) / WIDTH,
    expanded=lambda x: x + x.mean(1, keepdim=True).expand(-1, LENGTH, -1),
    batch_as_number=lambda x: x.reshape(x.shape[0] * LENGTH, WIDTH).unflatten(0, (x.shape[0], LENGTH)),
    squeezed=lambda x: x.unsqueeze(1).squeeze(1) + x[:, 0].unsqueeze(1),
    norm=lambda x: x / (x.norm(dim=-1, keepdim=True) + 1),
    folded=lambda x: x.unfold(1, 4, 4).mean(-1).repeat(1, 4, 1),
)


# tokens


@_layer(TOKENS)
class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


TOKENS |= {
    "linear_without_bias": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "linear_relu": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()),
    "mlp": lambda: nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, WIDTH)),
    "layer_norm": lambda: nn.LayerNorm(WIDTH),
    "bare_layer_norm": lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
    "rms_norm": lambda: nn.RMSNorm(WIDTH),
    "pre_norm": lambda: nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.SiLU()),
    "encoder_layer": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True),
    "identity": nn.Identity,
}


@_layer(TOKENS)
class NormOfTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x).flatten(0, 1)).reshape(x.shape)


@_layer(TOKENS)
class RmsByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return self.weight * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


@_layer(TOKENS)
class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@_layer(TOKENS)
class CrossAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        memory = x[:, :5] * 0.5
        attended, weights = self.attention(x, memory, memory)
        return attended + weights.mean(-1, keepdim=True)


@_layer(TOKENS)
class FusedHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mask", torch.ones(LENGTH, LENGTH).tril().bool())

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.view(x.shape[0], LENGTH, 2, -1).transpose(1, 2) for part in self.qkv(x).split(WIDTH, -1)
        )
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)
        return self.out(y.transpose(1, 2).reshape(x.shape[0], LENGTH, WIDTH))


@_layer(TOKENS)
class RelativeAttention(nn.Module):
    """Scores with a bias that is indexed out of a table, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.table = parameter(2 * LENGTH - 1, 2)
        places = torch.arange(LENGTH)
        self.register_buffer("index", places[:, None] - places[None] + LENGTH - 1)
        self.query = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.query(x).unflatten(-1, (2, -1)).transpose(1, 2)
        bias = self.table[self.index.view(-1)].view(LENGTH, LENGTH, -1).permute(2, 0, 1)
        return torch.softmax(heads @ heads.mT + bias, -1).matmul(heads).transpose(1, 2).flatten(2)


@_layer(TOKENS)
class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        angles = torch.outer(torch.arange(LENGTH).float(), 100 ** (-torch.arange(0, WIDTH, 2) / WIDTH))
        self.register_buffer("angles", torch.cat([angles, angles], -1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x, half = self.layer(x), WIDTH // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * self.angles.cos().to(x.dtype) + turned * self.angles.sin().to(x.dtype)


@_layer(TOKENS)
class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2 * LENGTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.embedding(torch.arange(x.shape[1]) * 2)


@_layer(TOKENS)
class ClassToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = parameter(1, 1, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))[:, 1:]


@_layer(TOKENS)
class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.full((WIDTH,), 0.5)), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.layer(x)


@_layer(TOKENS)
class Counter(nn.Module):
    """Writes to a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("total", torch.zeros(1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        self.total.add_(x.mean((0, 1))[None])
        return self.layer(x) + self.total


@_layer(TOKENS)
class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x[:, :3])[0].mean(1, keepdim=True) + x


@_layer(TOKENS)
class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        y, (state, _) = self.cell(x[:, :3])
        return torch.cat([y, x[:, 3:] + state[0].repeat(1, 2)[:, None]], 1)


@_layer(TOKENS)
class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        state = x[:, 0]
        for step in range(1, 3):
            state = self.cell(x[:, step], state)
        return x + state[:, None]


@_layer(TOKENS)
class Mixture(nn.Module):
    """Two experts, both run, and their outputs weighed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 2)
        self.experts = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())])

    def forward(self, x: Tensor) -> Tensor:
        shares = self.gate(x).softmax(-1)
        return sum(shares[..., [i]] * expert(x) for i, expert in enumerate(self.experts))


# signals and images

SIGNALS |= {
    "conv": lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1),
    "conv_norm": lambda: nn.Sequential(nn.Conv1d(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm1d(WIDTH)),
    "conv_norm_relu": lambda: nn.Sequential(nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm1d(WIDTH), nn.ReLU()),
    "grouped": lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=2, dilation=2, groups=4),
    "depthwise": lambda: nn.Sequential(nn.Conv1d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH), nn.GELU()),
    "gated": lambda: nn.Sequential(nn.Conv1d(WIDTH, 16, 1), nn.GLU(1)),
    "causal": lambda: nn.Sequential(nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(WIDTH, WIDTH, 3)),
    "down_and_up": lambda: nn.Sequential(nn.Conv1d(WIDTH, 12, 4, 2, 1), nn.ConvTranspose1d(12, WIDTH, 4, 2, 1)),
    "transposed_norm": lambda: nn.Sequential(nn.ConvTranspose1d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm1d(WIDTH)),
    "pooled": lambda: nn.AvgPool1d(3, 1, 1),
    "largest": lambda: nn.MaxPool1d(3, 1, 1),
    "batch_norm": lambda: nn.BatchNorm1d(WIDTH),
    "group_norm": lambda: nn.GroupNorm(2, WIDTH),
    "up": lambda: nn.Sequential(nn.AvgPool1d(2), nn.Upsample(scale_factor=2)),
    "reflected": lambda: nn.Sequential(nn.ReflectionPad1d(1), nn.Conv1d(WIDTH, WIDTH, 3)),
    "bare_norm": lambda: nn.Sequential(nn.Conv1d(WIDTH, WIDTH, 1), nn.BatchNorm1d(WIDTH, affine=False)),
}
IMAGES |= {
    "conv": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
    "conv_norm": lambda: nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH)),
    "conv_norm_relu": lambda: nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.BatchNorm2d(WIDTH), nn.ReLU()),
    "norm_relu_conv": lambda: nn.Sequential(nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 1)),
    "conv_norm_silu": lambda: nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.BatchNorm2d(WIDTH), nn.SiLU()),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(WIDTH, 16, 3, 1, 1, groups=WIDTH), nn.ReLU6(), nn.Conv2d(16, 8, 1)),
    "grouped": lambda: nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, groups=2), nn.BatchNorm2d(WIDTH)),
    "dilated": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=2, dilation=2),
    "down_and_up": lambda: nn.Sequential(nn.Conv2d(WIDTH, 12, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(12, 8, 2, 2)),
    "transposed_norm": lambda: nn.Sequential(nn.ConvTranspose2d(WIDTH, WIDTH, 3, 1, 1), nn.BatchNorm2d(WIDTH)),
    "transposed_grouped": lambda: nn.Sequential(
        nn.ConvTranspose2d(WIDTH, WIDTH, 3, 1, 1, groups=2), nn.BatchNorm2d(WIDTH), nn.ReLU()
    ),
    "batch_norm": lambda: nn.BatchNorm2d(WIDTH),
    "group_norm": lambda: nn.GroupNorm(4, WIDTH),
    "instance_norm": lambda: nn.InstanceNorm2d(WIDTH, affine=True),
    "slopes": lambda: nn.PReLU(WIDTH),
    "pooled": lambda: nn.AvgPool2d(3, 1, 1),
    "largest": lambda: nn.MaxPool2d(3, 1, 1),
    "up": lambda: nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2)),
    "bilinear": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")),
    "shuffled": lambda: nn.Sequential(nn.Conv2d(WIDTH, 32, 1), nn.PixelShuffle(2), nn.AvgPool2d(2)),
    "unshuffled": lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(32, WIDTH, 1), nn.Upsample(scale_factor=2)),
    "reflected": lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(WIDTH, WIDTH, 3)),
    "replicated": lambda: nn.Sequential(nn.ReplicationPad2d(1), nn.Conv2d(WIDTH, WIDTH, 3)),
    "two_convs": lambda: nn.Sequential(nn.Conv2d(WIDTH, 12, 1), nn.ReLU(inplace=True), nn.Conv2d(12, WIDTH, 1)),
    "string_padding": lambda: nn.Conv2d(WIDTH, WIDTH, 2, padding="same"),
    "circular": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, padding_mode="circular"),
    "channels_softmax": lambda: nn.Softmax2d(),
}
_functions(
    IMAGES,
    channel_shuffle=lambda x: x.view(x.shape[0], 2, 4, SIDE, SIDE).transpose(1, 2).reshape(x.shape),
    mean_of_places=lambda x: x * x.mean((2, 3), keepdim=True),
    flattened=lambda x: x.flatten(1).reshape(-1, WIDTH, SIDE, SIDE),
    spread=lambda x: F.adaptive_avg_pool2d(x, 1).expand_as(x) + x,
    cropped=lambda x: F.pad(x[:, :, 1:3, 1:3], (1, 1, 1, 1)),
)


@_layer(IMAGES)
class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(WIDTH, 4, 1), nn.Conv2d(4, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


@_layer(IMAGES)
class Halves(nn.Module):
    """One convolution for both halves of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.split(4, 1)
        return torch.cat([self.norm(self.conv(left)), self.conv(right)], 1)


@_layer(IMAGES)
class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.head(torch.flatten(self.pool(x), 1))[..., None, None]


# parameters that the forward computes


class Computed(nn.Module):
    """A linear layer of a weight that is computed from parameters in every call."""

    def __init__(self, function: Callable[[Computed], Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.tables = nn.ParameterList([parameter(*shape) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.function(self))


SQUARE, TALL = (WIDTH, WIDTH), (3 * WIDTH, WIDTH)
COMPUTED: dict[str, Maker] = {
    "split": lambda: Computed(lambda m: m.tables[0].split(WIDTH)[1], TALL),
    "chunk": lambda: Computed(lambda m: m.tables[0].chunk(3)[2], TALL),
    "slice": lambda: Computed(lambda m: m.tables[0][:WIDTH], TALL),
    "index": lambda: Computed(lambda m: m.tables[0][torch.arange(0, 3 * WIDTH, 3)], TALL),
    "cat": lambda: Computed(lambda m: torch.cat([m.tables[0], m.tables[1]]), (4, WIDTH), (4, WIDTH)),
    "stack": lambda: Computed(lambda m: torch.stack([m.tables[0], m.tables[1]]).mean(0), SQUARE, SQUARE),
    "transposed": lambda: Computed(lambda m: m.tables[0].t(), SQUARE),
    "permuted": lambda: Computed(lambda m: m.tables[0].permute(2, 0, 1).reshape(WIDTH, WIDTH), (2, 4, WIDTH)),
    "times": lambda: Computed(lambda m: m.tables[0] * 0.5, SQUARE),
    "scaled_rows": lambda: Computed(lambda m: m.tables[0] * m.tables[1], SQUARE, (WIDTH, 1)),
    "low_rank": lambda: Computed(lambda m: m.tables[0] @ m.tables[1], (WIDTH, 2), (2, WIDTH)),
    "adapted": lambda: Computed(lambda m: m.tables[0] + m.tables[1] @ m.tables[2], SQUARE, (WIDTH, 2), (2, WIDTH)),
    "normed": lambda: Computed(lambda m: F.normalize(m.tables[0], dim=1), SQUARE),
    "standardized": lambda: Computed(lambda m: (m.tables[0] - m.tables[0].mean(1, keepdim=True)) * 0.9, SQUARE),
    "masked": lambda: Computed(lambda m: m.tables[0] * torch.ones_like(m.tables[0]).tril(), SQUARE),
    "selected": lambda: Computed(lambda m: m.tables[0][1], (3, *SQUARE)),
    "clamped": lambda: Computed(lambda m: m.tables[0].clamp(-0.5, 0.5), SQUARE),
    "ternary": lambda: Computed(lambda m: m.tables[0].sign() * m.tables[0].abs().mean(), SQUARE),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
}
TOKENS |= {f"computed_{name}": make for name, make in COMPUTED.items()}


class Product(nn.Module):
    """A product with a parameter by another op than `linear`."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.function, self.table = function, parameter(*shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.table)


PRODUCTS: dict[str, Maker] = {
    "matmul": lambda: Product(lambda x, w: x @ w, *SQUARE),
    "matmul_transposed": lambda: Product(lambda x, w: x @ w.T, *SQUARE),
    "matmul_left": lambda: Product(lambda x, w: w @ x, LENGTH, LENGTH),
    "addmm": lambda: Product(lambda x, w: torch.addmm(w[0], x.flatten(0, 1), w).view(x.shape), *SQUARE),
    "einsum": lambda: Product(lambda x, w: torch.einsum("btc,dc->btd", x, w), *SQUARE),
    "einsum_heads": lambda: Product(lambda x, w: torch.einsum("btc,chd->bthd", x, w).flatten(2), WIDTH, 2, 4),
    "batched": lambda: Product(lambda x, w: torch.bmm(x, w.expand(x.shape[0], -1, -1)), 1, *SQUARE),
    "tensordot": lambda: Product(lambda x, w: torch.tensordot(x, w, ([2], [0])), *SQUARE),
    "plus_table": lambda: Product(lambda x, w: x + w[None], LENGTH, WIDTH),
    "times_table": lambda: Product(lambda x, w: x * w, 1, WIDTH),
    "as_bias": lambda: Product(lambda x, w: F.linear(x, w, w[:, 0]), *SQUARE),
    "twice": lambda: Product(lambda x, w: F.linear(torch.relu(F.linear(x, w)), w.t()), *SQUARE),
    "embedded_and_multiplied": lambda: Product(
        lambda x, w: F.embedding(torch.arange(LENGTH) % WIDTH, w) + F.linear(x, w), *SQUARE
    ),
    "conv_of_table": lambda: Product(lambda x, w: F.conv1d(x.mT, w.unsqueeze(-1)).mT, *SQUARE),
}
TOKENS |= {f"product_{name}": make for name, make in PRODUCTS.items()}
