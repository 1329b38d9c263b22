"""Decoder-only transformer of the GPT-2 shape (Radford et al., 2019), head tied to the token embedding."""

import torch
from torch import nn

from graphpress.tools.models.randomize import randomize


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
