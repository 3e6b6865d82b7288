"""Convolutional networks for images: with shortcuts, with dense connections, with branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.base import network

IMAGE = (3, 8, 8)


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


def head(channels: int, classes: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Residual(nn.Module):
    """relu(body(x) + shortcut(x)), or without the ReLU."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, relu: bool = True) -> None:
        super().__init__()
        self.body, self.shortcut, self.relu = body, shortcut or nn.Identity(), relu

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x) + self.shortcut(x)
        return F.relu(y) if self.relu else y


class Branches(nn.Module):
    """Results of several modules, one after another in the channels."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], 1)


class Shuffle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """Half of the channels passes by."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            conv_bn(half, half, 1), nn.ReLU(), conv_bn(half, half, groups=half), conv_bn(half, half, 1), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return Shuffle()(torch.cat([left, self.body(right)], 1))


def basic(inputs: int, outputs: int, stride: int = 1) -> Residual:
    short = conv_bn(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else None
    return Residual(nn.Sequential(conv_bn(inputs, outputs, 3, stride), nn.ReLU(), conv_bn(outputs, outputs)), short)


def bottleneck(inputs: int, middle: int, outputs: int, stride: int = 1, groups: int = 1) -> Residual:
    body = nn.Sequential(conv_bn(inputs, middle, 1), nn.ReLU(), conv_bn(middle, middle, 3, stride, groups), nn.ReLU(),
                         conv_bn(middle, outputs, 1))  # fmt: skip
    return Residual(body, conv_bn(inputs, outputs, 1, stride))


def preactivated(channels: int) -> Residual:
    body = nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False),
    )  # fmt: skip
    return Residual(body, relu=False)


@network("ResNet, basic blocks", IMAGE)
def resnet_basic() -> nn.Module:
    return nn.Sequential(conv_bn(3, 4), nn.ReLU(), basic(4, 4), basic(4, 6, 2), head(6))


@network("ResNet, bottlenecks", IMAGE)
def resnet_bottleneck() -> nn.Module:
    return nn.Sequential(conv_bn(3, 4), nn.ReLU(), bottleneck(4, 2, 8), bottleneck(8, 4, 8, 2), head(8))


@network("ResNet, activations first", IMAGE)
def resnet_preactivated() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), preactivated(4), preactivated(4), nn.ReLU(), head(4))


@network("ResNet of two dimensions less", (12,))
def resnet_dense() -> nn.Module:
    blocks = [Residual(nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12))) for _ in range(3)]
    return nn.Sequential(*blocks, nn.Linear(12, 3))


@network("ResNet with a stem and max pooling", (3, 12, 12))
def resnet_stem() -> nn.Module:
    return nn.Sequential(conv_bn(3, 4, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), basic(4, 4), head(4))


@network("WideResNet", IMAGE)
def wide_resnet() -> nn.Module:
    wide = Residual(
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 8, 3, 2, 1), nn.Dropout(0.3), nn.BatchNorm2d(8),
                      nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)),
        nn.Conv2d(3, 8, 1, 2), relu=False,
    )  # fmt: skip
    return nn.Sequential(wide, nn.BatchNorm2d(8), nn.ReLU(), head(8))


@network("SqueezeNet's fire module", IMAGE)
def squeeze() -> nn.Module:
    fire = Branches(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1))
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), fire, nn.ReLU(), head(8))


@network("ShuffleNet", IMAGE)
def shuffle() -> nn.Module:
    return nn.Sequential(conv_bn(3, 4), nn.ReLU(), ShuffleUnit(4), ShuffleUnit(4), head(4))
