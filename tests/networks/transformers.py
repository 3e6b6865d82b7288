"""Networks over tokens: attention, its relatives, and what stands around it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.base import network

TOKENS, IMAGE = (4, 8), (3, 8, 8)


class Patches(nn.Module):  # [B, 3, 8, 8] -> [B, 4, width]
    def __init__(self, width: int, class_tokens: int = 0) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, width, 4, 4)
        self.first = nn.Parameter(torch.randn(1, class_tokens, width))
        self.place = nn.Parameter(0.1 * torch.randn(1, 4 + class_tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.cut(x).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(x), -1, -1), tokens], 1) + self.place


class SelfAttention(nn.Module):
    """Several heads, written out as in most code; `causal` hides what comes later."""

    def __init__(self, width: int, heads: int = 2, causal: bool = False, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.causal, self.fused = heads, causal, fused
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
            if self.causal:
                later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, -math.inf)
            y = scores.softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """x + mixer(norm(x)), then the same with a perceptron."""

    def __init__(self, width: int, mixer: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mixer = nn.LayerNorm(width), nn.LayerNorm(width), mixer
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Pooled(nn.Module):
    """Mean of the tokens, or the first of them, to classes."""

    def __init__(self, width: int, first: bool = False) -> None:
        super().__init__()
        self.first, self.out = first, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x[:, 0] if self.first else x.mean(1))


class Transposed(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.transpose(1, 2)).transpose(1, 2)


class Multihead(nn.Module):
    """nn.MultiheadAttention of the tokens with themselves, batch or sequence first, or with a constant."""

    def __init__(self, batch_first: bool, constant: bool = False) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.queries = nn.Parameter(torch.randn(1, 2, 8)) if constant else None

    def forward(self, x: Tensor) -> Tensor:
        if self.queries is not None:
            return self.attention(self.queries.expand(len(x), -1, -1), x, x, need_weights=False)[0]
        if self.batch_first:
            return self.attention(x, x, x)[0]
        x = x.transpose(0, 1)
        return self.attention(x, x, x, need_weights=False)[0].transpose(0, 1)


class SwiGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(width, 8), nn.Linear(width, 8), nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class LinearAttention(nn.Module):
    """Katharopoulos et al. 2020: elu + 1 in place of the softmax."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1
        whole = (q @ k.sum(1).unsqueeze(2)).clamp(min=1e-3)
        return q @ (k.transpose(1, 2) @ self.v(x)) / whole


class SpatialGate(nn.Module):
    """gMLP (Liu et al. 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.norm, self.mix = nn.Linear(width, 2 * width), nn.LayerNorm(width), nn.Conv1d(4, 4, 1)
        self.down = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.up(x)).chunk(2, -1)
        return self.down(u * self.mix(self.norm(v)))


class AttentionPooling(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.score, self.out = nn.Linear(width, 1), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.score(x).softmax(1) * x).sum(1))


@network("ViT", IMAGE, 0.002)
def vit() -> nn.Module:
    return nn.Sequential(Patches(8, 1), Block(8, SelfAttention(8)), nn.LayerNorm(8), Pooled(8, first=True))


@network("DeiT with two class tokens", IMAGE, 0.002)
def deit() -> nn.Module:
    return nn.Sequential(Patches(8, 2), Block(8, SelfAttention(8)), nn.LayerNorm(8), Pooled(8))


@network("ViT of two blocks, fused attention", IMAGE, 0.001)
def vit_two() -> nn.Module:
    blocks = [Block(8, SelfAttention(8, fused=True)) for _ in range(2)]
    return nn.Sequential(Patches(8), *blocks, nn.LayerNorm(8), Pooled(8))


@network("attention by hand", TOKENS, 0.005)
def attention() -> nn.Module:
    return nn.Sequential(SelfAttention(8), Pooled(8))


@network("causal attention by hand", TOKENS, 0.002)
def causal() -> nn.Module:
    return nn.Sequential(Block(8, SelfAttention(8, causal=True)), Pooled(8))


@network("causal attention, fused", TOKENS, 0.002)
def causal_fused() -> nn.Module:
    return nn.Sequential(Block(8, SelfAttention(8, causal=True, fused=True)), Pooled(8))


@network("TransformerEncoderLayer, norm after", TOKENS, 0.002)
def encoder_after() -> nn.Module:
    return nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), Pooled(8))


@network("TransformerEncoderLayer, norm before, GELU", TOKENS, 0.002)
def encoder_before() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=True)
    return nn.Sequential(layer, Pooled(8))


@network("TransformerEncoder of two layers", TOKENS, 0.001)
def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), Pooled(8))


@network("MultiheadAttention, batch first", TOKENS, 0.005)
def multihead() -> nn.Module:
    return nn.Sequential(Multihead(True), Pooled(8))


@network("MultiheadAttention, sequence first", TOKENS, 0.005)
def multihead_sequence() -> nn.Module:
    return nn.Sequential(Multihead(False), Pooled(8))


@network("cross attention of constant queries", TOKENS, 0.005)
def cross() -> nn.Module:
    return nn.Sequential(Multihead(True, constant=True), Pooled(8))


@network("attention pooling", TOKENS, 0.005)
def attention_pooling() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.GELU(), AttentionPooling(8))


@network("gMLP", TOKENS, 0.002)
def gmlp() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(8), SpatialGate(8), Pooled(8))


@network("MLP-Mixer", IMAGE, 0.002)
def mixer() -> nn.Module:
    mix = Transposed(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)))
    return nn.Sequential(Patches(8), Block(8, mix), nn.LayerNorm(8), Pooled(8))


@network("linear attention", TOKENS, 0.002)
def linear_attention() -> nn.Module:
    return nn.Sequential(LinearAttention(8), Pooled(8))


@network("token classifier", TOKENS, 0.002)
def token_classifier() -> nn.Module:
    return nn.Sequential(Block(8, SelfAttention(8)), nn.Linear(8, 3))


@network("RMSNorm and SwiGLU", TOKENS, 0.002)
def swiglu() -> nn.Module:
    return nn.Sequential(nn.RMSNorm(8), SwiGLU(8), Pooled(8))
