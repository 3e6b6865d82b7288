"""Blocks of convolutional networks that are made to be cheap, or to weigh their channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.base import network
from networks.residual import IMAGE, Branches, Residual, bottleneck, conv_bn, head


class SqueezeExcite(nn.Module):
    """x times a gate for each channel (Hu et al. 2018)."""

    def __init__(self, channels: int, inner: Callable[[], nn.Module], gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 2, 1), inner(),
                                  nn.Conv2d(2, channels, 1), gate())  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def inverted(channels: int, activation: Callable[[], nn.Module], excite: nn.Module | None = None) -> nn.Module:
    """Wide in the middle, with a convolution for each channel there (Sandler et al. 2018)."""
    wide = 2 * channels
    body = [conv_bn(channels, wide, 1), activation(), conv_bn(wide, wide, groups=wide), activation()]
    return Residual(nn.Sequential(*body, *([excite] if excite else []), conv_bn(wide, channels, 1)), relu=False)


class ConvNext(nn.Module):
    """Convolution for each channel, norm of the channels, perceptron, small gain (Liu et al. 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.deep, self.norm = nn.Conv2d(channels, channels, 5, padding=2, groups=channels), nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))
        self.gain = nn.Parameter(0.5 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.gain * self.mlp(self.norm(self.deep(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


class SpatialAttention(nn.Module):
    """A gate for each place, of the mean and the largest of its channels (CBAM, Woo et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.score(both))


class ChannelAttention(nn.Module):
    """A gate for each channel by a convolution over the channels (ECA, Wang et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3)).unsqueeze(1)
        return x * torch.sigmoid(self.score(means)).transpose(1, 2).unsqueeze(3)


class Reparametrised(nn.Module):
    """relu(3x3 + 1x1 + x), as RepVGG is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide, self.narrow, self.same = (
            conv_bn(channels, channels), conv_bn(channels, channels, 1), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.wide(x) + self.narrow(x) + self.same(x))


@network("MobileNetV3", IMAGE, 0.002)
def mobile_v3() -> nn.Module:
    excite = SqueezeExcite(8, nn.ReLU, nn.Hardsigmoid)
    return nn.Sequential(conv_bn(3, 4, 3, 2), nn.Hardswish(), inverted(4, nn.Hardswish, excite), head(4))


@network("MobileNetV2", IMAGE)
def mobile_v2() -> nn.Module:
    return nn.Sequential(conv_bn(3, 4, 3, 2), nn.ReLU6(), inverted(4, nn.ReLU6), inverted(4, nn.ReLU6), head(4))


@network("EfficientNet", IMAGE, 0.002)
def efficient() -> nn.Module:
    excite = SqueezeExcite(8, nn.SiLU, nn.Sigmoid)
    return nn.Sequential(conv_bn(3, 4, 3, 2), nn.SiLU(), inverted(4, nn.SiLU, excite), head(4))


@network("ConvNeXt", IMAGE, 0.001)
def convnext() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 2, 2), ConvNext(4), head(4))


@network("ResNeXt", IMAGE)
def resnext() -> nn.Module:
    return nn.Sequential(conv_bn(3, 4), nn.ReLU(), bottleneck(4, 4, 8, 2, groups=2), head(8))


@network("squeeze and excite", IMAGE)
def squeeze_excite() -> nn.Module:
    body = nn.Sequential(conv_bn(4, 4), nn.ReLU(), conv_bn(4, 4), SqueezeExcite(4, nn.ReLU, nn.Sigmoid))
    return nn.Sequential(conv_bn(3, 4, 3, 2), nn.ReLU(), Residual(body), head(4))


@network("DenseNet", IMAGE)
def densenet() -> nn.Module:
    def layer(channels: int) -> nn.Module:
        grow = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 2, 3, padding=1))
        return Branches(nn.Identity(), grow)

    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), layer(4), layer(6), nn.Conv2d(8, 4, 1), nn.AvgPool2d(2), head(4))


@network("attention of channels and places", IMAGE, 0.002)
def cbam() -> nn.Module:
    return nn.Sequential(conv_bn(3, 4, 3, 2), nn.ReLU(), ChannelAttention(), SpatialAttention(), head(4))


@network("Inception", IMAGE)
def inception() -> nn.Module:
    pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(3, 2, 1))
    whole = Branches(nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 2, 5, padding=2), pooled)
    return nn.Sequential(whole, nn.ReLU(), nn.MaxPool2d(2), head(8))


@network("RepVGG", IMAGE)
def repvgg() -> nn.Module:
    return nn.Sequential(conv_bn(3, 4, 3, 2), Reparametrised(4), Reparametrised(4), head(4))
