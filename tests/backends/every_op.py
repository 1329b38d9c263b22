"""Models that between them have every kind of op that the readers of saved programs translate."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .features import IMAGE

TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def elementwise(x):
    small = x.clamp(-1, 1) / (x.abs() + 1) + F.leaky_relu(x) * F.elu(x) - F.hardswish(x)
    wave = torch.sin(x) + torch.cos(x) + torch.tanh(x) + torch.erf(x) + x.floor() + x.round() + x.sign()
    signs = torch.where(x > 0, x, -2 * x).pow(2)
    return small, wave, signs, F.gelu(x), F.gelu(x, approximate="tanh"), F.softplus(x), torch.rsqrt(x.abs() + 1)


def logic(x):
    return torch.where((x > 0) & ~(x < -1) | (x > 2), x, -x)


def reductions(x):
    ordered = x.topk(2, 1)[0], x.cumsum(1)
    return x.mean((1, 2)), x.sum(1), x.amax(-1), x.amin(0), x.argmax(2), F.log_softmax(x, -1), F.normalize(x), *ordered


def rearranged(x):
    first, second = x.split([1, 3], 1)
    parts = torch.cat([second, first], 1), torch.stack([x, x]), x[:, 1:3, ::2], x[:, 1], x.permute(0, 2, 3, 1)
    whole = x.flatten(1), x[:, :1].expand(2, 4, 8, 8), x.flip(1), x.repeat(1, 2, 1, 1), x.roll(1, 1), F.glu(x, 1)
    edges = F.pad(x, (1, 2, 0, 1), mode="reflect"), F.pad(x, (1, 1, 1, 1), mode="replicate"), F.pad(x, (1, 2))
    return *parts, *whole, *edges, F.pixel_shuffle(x, 2), F.pixel_unshuffle(x, 2), x.half() + 1


def picked(x):
    places = (x[:, :2] > 0).long()
    return x.gather(1, places), x[:, torch.tensor([0, 2])], x.tril()


def resized(x):
    bilinear = F.interpolate(x, size=(13, 5), mode="bilinear")
    return F.interpolate(x, scale_factor=2), bilinear, F.interpolate(x, size=12, mode="bilinear", align_corners=True)


def pooled(x):
    means = F.avg_pool2d(x, 2), F.avg_pool2d(x, 3, 2, 1), F.adaptive_avg_pool2d(x, 2)
    return *means, F.max_pool2d(x, 3, 2, 1), F.adaptive_avg_pool2d(x, 1)


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm(8)])
        self.norms += [nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(8, bias=False)]

    def forward(self, x):
        return [norm(x) for norm in self.norms]


class BareNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, affine=False)

    def forward(self, x):
        return self.norm(x.relu()) + 1


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.dilated = nn.Conv2d(8, 4, 2, dilation=2)
        self.transposed = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.narrow = nn.Conv1d(4, 2, 3, padding=1)
        self.deep = nn.Conv3d(1, 2, 2)
        self.unbiased = nn.ModuleList([nn.Conv2d(4, 3, 1, bias=False), nn.ConvTranspose2d(4, 3, 2, bias=False)])
        self.asymmetric = nn.Conv2d(4, 2, (2, 4), padding="same")

    def forward(self, x):
        image = self.transposed(self.dilated(self.grouped(x)))
        unbiased = [layer(x) for layer in self.unbiased]
        return image, self.narrow(x.flatten(2)), self.deep(x[:, None]), *unbiased, self.asymmetric(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.linear = nn.Linear(8, 8)

    def forward(self, places, x):
        keys = self.linear(self.embedding(places))
        causal = F.scaled_dot_product_attention(x, keys, x, is_causal=True)
        return causal, F.scaled_dot_product_attention(x, keys, x), torch.einsum("bij,bkj->bik", x, keys)


MODELS = {
    "elementwise ops": (Lambda(elementwise), (TOKENS,)),
    "logic": (Lambda(logic), (TOKENS,)),
    "reductions": (Lambda(reductions), (TOKENS,)),
    "ops that rearrange": (Lambda(rearranged), (IMAGE,)),
    "ops that pick": (Lambda(picked), (IMAGE,)),
    "resizing": (Lambda(resized), (IMAGE,)),
    "pools": (Lambda(pooled), (IMAGE,)),
    "norms": (Norms(), (IMAGE,)),
    "a norm without parameters": (BareNorm(), (IMAGE,)),
    "convolutions": (Layers(), (IMAGE,)),
    "attention": (Attention(), (torch.tensor([[1, 2, 3, 0, 9], [4, 4, 5, 6, 7]]), TOKENS)),
    "an LSTM": (nn.LSTM(8, 4), (TOKENS,)),
}
