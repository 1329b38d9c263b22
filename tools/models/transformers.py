"""Transformers: a small encoder, a vision transformer, a decoder of the GPT-2 shape."""

from __future__ import annotations

import math

import torch
from torch import nn

from graphpress.tools.models.randomize import randomize


class SelfAttention(nn.Module):
    """Multi-head self-attention from separate projections, in elementary operations."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape: `(batch, tokens, dim)`."""
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.shape[-1])
        mixed = torch.matmul(torch.softmax(scores, dim=-1), value)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, dim = x.shape
        return x.view(batch, tokens, self.heads, dim // self.heads).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Attention and a two-layer perceptron, each followed by a shortcut and a layer norm."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attention = SelfAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, 4 * dim)
        self.activation = nn.ReLU()
        self.linear2 = nn.Linear(4 * dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape: `(batch, tokens, dim)`."""
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.linear2(self.activation(self.linear1(x))))


class Transformer(nn.Module):
    """Embedded tokens through encoder layers; their mean is classified."""

    def __init__(self, vocabulary: int, dim: int, depth: int, heads: int, num_classes: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.layers = nn.Sequential(*(EncoderLayer(dim, heads) for _ in range(depth)))
        self.head = nn.Linear(dim, num_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens)` int64 ids to `(batch, num_classes)` logits."""
        return self.head(self.layers(self.embedding(tokens)).mean(dim=1))


def small_transformer(seed: int = 0) -> Transformer:
    """2 layers, 32 wide, 4 heads, 100 tokens: 0.03M parameters."""
    return randomize(Transformer(vocabulary=100, dim=32, depth=2, heads=4, num_classes=10), seed)


class Attention(nn.Module):
    """Multi-head self-attention over one joint query-key-value projection."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape: `(batch, tokens, dim)`."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        out = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, dim))


class VisionBlock(nn.Module):
    """Attention, then a two-layer perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape: `(batch, tokens, dim)`."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches and a class token through transformer blocks; the class token is classified."""

    def __init__(self, image: int, patch: int, dim: int, depth: int, heads: int, num_classes: int):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(VisionBlock(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, 3, image, image)` images to `(batch, num_classes)` logits."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit_small(seed: int = 0) -> VisionTransformer:
    """ViT-S/16, 22M parameters, for 224x224 images."""
    return randomize(VisionTransformer(image=224, patch=16, dim=384, depth=12, heads=6, num_classes=1000), seed)


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and what came before."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(dim, 3 * dim)
        self.c_proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape: `(batch, tokens, dim)`."""
        batch, tokens, dim = x.shape
        query, key, value = (
            part.view(batch, tokens, self.heads, dim // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(dim, dim=2)
        )
        out = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.c_proj(out.transpose(1, 2).reshape(batch, tokens, dim))


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.attn = CausalSelfAttention(dim, heads)
        self.ln_2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape: `(batch, tokens, dim)`."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Token and position embeddings, transformer blocks, and a head tied to the token embedding."""

    def __init__(self, vocabulary: int, context: int, dim: int, depth: int, heads: int):
        super().__init__()
        self.wte = nn.Embedding(vocabulary, dim)
        self.wpe = nn.Embedding(context, dim)
        self.h = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.ln_f = nn.LayerNorm(dim)
        self.lm_head = nn.Linear(dim, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens)` int64 ids to `(batch, tokens, vocabulary)` logits."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def gpt(seed: int = 0) -> GPT:
    """12 layers, 768 wide, 12 heads, 8,192 tokens: 85M parameters in the blocks, 91.5M in all."""
    return randomize(GPT(vocabulary=8192, context=256, dim=768, depth=12, heads=12), seed)


def gpt_small(seed: int = 0) -> GPT:
    """2 layers, 64 wide, 4 heads, 256 tokens: 0.12M parameters."""
    return randomize(GPT(vocabulary=256, context=64, dim=64, depth=2, heads=4), seed)
