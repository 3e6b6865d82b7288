"""Networks whose weights or values take few levels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.activations import Function
from networks.base import network


class Levels(nn.Module):
    """Values rounded to multiples of a step between two integers of it, written out."""

    def __init__(self, step: float = 0.25, low: int = -8, high: int = 7) -> None:
        super().__init__()
        self.step, self.low, self.high = step, low, high

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(torch.round(x / self.step), self.low, self.high) * self.step


class FakeQuantised(nn.Module):
    """torch's operator for it, of the tensor or for each channel."""

    def __init__(self, channels: int = 0) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("scale", torch.full((channels,), 0.1) * torch.linspace(0.8, 1.2, channels or 1)[:channels])

    def forward(self, x: Tensor) -> Tensor:
        if self.channels:
            zeros = torch.zeros(self.channels, dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(x, self.scale.float(), zeros, 1, -128, 127)
        return torch.fake_quantize_per_tensor_affine(x, 0.1, 3, -128, 127)


class Linear(nn.Linear):
    """A linear layer whose weights are the signs of its parameters, or -1, 0 and 1, with one gain for each output."""

    def __init__(self, inputs: int, outputs: int, ternary: bool = False) -> None:
        super().__init__(inputs, outputs)
        self.ternary = ternary

    def forward(self, x: Tensor) -> Tensor:
        size = self.weight.abs().mean(1, keepdim=True)
        levels = (self.weight / size).round().clamp(-1, 1) if self.ternary else self.weight.sign()
        return F.linear(x, size * levels, self.bias)


def between(part: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 8), part, nn.Linear(8, 3))


@network("quantised by hand", eps=0.002)
def by_hand() -> nn.Module:
    return nn.Sequential(Levels(0.5), nn.Linear(12, 8), nn.ReLU(), Levels(), nn.Linear(8, 3))


@network("fake-quantised", eps=0.002)
def fake() -> nn.Module:
    return between(nn.Sequential(nn.ReLU(), FakeQuantised()))


@network("fake-quantised for each channel", eps=0.002)
def fake_channels() -> nn.Module:
    return between(nn.Sequential(FakeQuantised(8), nn.ReLU()))


@network("binarised", eps=0.002)
def binarised() -> nn.Module:
    return nn.Sequential(Linear(12, 8), nn.BatchNorm1d(8), nn.Hardtanh(), Function(torch.sign), Linear(8, 8),
                         nn.BatchNorm1d(8), Function(torch.sign), Linear(8, 3))  # fmt: skip


@network("ternary weights")
def ternary() -> nn.Module:
    return nn.Sequential(Linear(12, 8, ternary=True), nn.ReLU(), Linear(8, 3, ternary=True))


@network("thermometer code", eps=0.002)
def thermometer() -> nn.Module:
    def code(x: Tensor) -> Tensor:
        return torch.cat([torch.sign(x - level) for level in (-0.5, 0.0, 0.5)], 1)

    return nn.Sequential(Function(code), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
