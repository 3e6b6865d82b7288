"""Networks whose output is an image, boxes or a field: segmentation, depth, detection, generation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.activations import Function, perceptron
from networks.base import network
from networks.residual import IMAGE, Branches, Residual, conv_bn


class UNet(nn.Module):
    """One step down, one step up, joined (Ronneberger et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = conv_bn(3, 4), conv_bn(4, 4)
        self.up, self.out = nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        near = F.relu(self.down(x))
        far = F.relu(self.deep(F.max_pool2d(near, 2)))
        return self.out(torch.cat([near, self.up(far)], 1))


class Pyramid(nn.Module):
    """A pyramid of features, the coarse added to the fine (Lin et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_bn(3, 4, 3, 2), conv_bn(4, 6, 3, 2)
        self.side1, self.side2, self.out = nn.Conv2d(4, 4, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.first(x))
        coarse = self.side2(F.relu(self.second(fine)))
        joined = self.side1(fine) + F.interpolate(coarse, scale_factor=2, mode="nearest")
        return torch.cat([self.out(joined).flatten(1), self.out(coarse).flatten(1)], 1)


class WithImagePool(nn.Module):
    """DeepLab's head: dilated convolutions next to the mean of the image, spread over its places."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = Branches(nn.Conv2d(3, 2, 1), *(nn.Conv2d(3, 2, 3, padding=d, dilation=d) for d in (1, 2)))
        self.pool, self.out = nn.Conv2d(3, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        whole = self.pool(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, x.shape[2], x.shape[3])
        y = self.out(F.relu(torch.cat([self.parts(x), whole], 1)))
        return F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)


class Detect(nn.Module):
    """YOLOv5's head: per anchor and cell a box (centre, size), an objectness and two classes, decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Sequential(conv_bn(3, 4, 3, 4), nn.SiLU()), nn.Conv2d(4, 2 * 7, 1)
        place = torch.arange(2.0)
        self.register_buffer("grid", torch.stack(torch.meshgrid(place, place, indexing="xy"), 2) - 0.5)
        self.register_buffer("anchors", torch.tensor([[1.0, 1.3], [2.0, 1.6]]).reshape(1, 2, 1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(self.body(x)).reshape(len(x), 2, 7, 2, 2).permute(0, 1, 3, 4, 2).sigmoid()
        centre = (y[..., :2] * 2 + self.grid) * 4
        size = (y[..., 2:4] * 2) ** 2 * self.anchors
        return torch.cat([centre, size, y[..., 4:]], 4).reshape(len(x), -1, 7)


class Variational(nn.Module):
    """A variational autoencoder as it is used: the mean of its code, and the penalty of the code's spread."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.spread = nn.Linear(12, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.decode = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 12), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.body(x))
        mean, spread = self.mean(h), self.spread(h)
        error = (self.decode(mean) - x).square().sum(1, keepdim=True)
        return error - 0.5 * (1 + spread - mean**2 - spread.exp()).sum(1, keepdim=True)


class Field(nn.Module):
    """NeRF's field: density and colour at a point, by sines and cosines of it (Mildenhall et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.density, self.colour = perceptron(nn.ReLU, 15, 12, 12), nn.Linear(12, 1), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        waves = [f(math.pi * 2**k * x) for k in range(2) for f in (torch.sin, torch.cos)]
        h = F.relu(self.body(torch.cat([x, *waves], 1)))
        return torch.cat([F.softplus(self.density(h)), torch.sigmoid(self.colour(h))], 1).unsqueeze(1)


@network("U-Net", IMAGE)
def unet() -> nn.Module:
    return UNet()


@network("feature pyramid", IMAGE, values=True)
def pyramid() -> nn.Module:
    return Pyramid()


@network("DeepLab's head", IMAGE)
def deeplab() -> nn.Module:
    return WithImagePool()


@network("YOLOv5 head", IMAGE, 0.002)
def detect() -> nn.Module:
    return Detect()


@network("depth", IMAGE)
def depth() -> nn.Module:
    return nn.Sequential(conv_bn(3, 4, 3, 2), nn.ELU(), nn.Upsample(scale_factor=2, mode="bilinear"),
                         nn.Conv2d(4, 1, 3, padding=1), nn.Sigmoid(),
                         Function(lambda x: 1 / (0.1 + 9.9 * x)))  # fmt: skip


@network("convolutional autoencoder", IMAGE)
def autoencoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(),
                         nn.ConvTranspose2d(4, 4, 2, 2), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, 2),
                         nn.Sigmoid())  # fmt: skip


@network("variational autoencoder")
def variational() -> nn.Module:
    return Variational()


@network("super-resolution", (3, 4, 4))
def super_resolution() -> nn.Module:
    body = Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)), relu=False)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.PReLU(), body, nn.Conv2d(4, 12, 3, padding=1),
                         nn.PixelShuffle(2))  # fmt: skip


@network("GAN's generator", (6,))
def generator() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Unflatten(1, (4, 2, 2)), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.BatchNorm2d(3), nn.ReLU(),
                         nn.ConvTranspose2d(3, 1, 4, 2, 1), nn.Tanh())  # fmt: skip


@network("radiance field", (3,))
def field() -> nn.Module:
    return Field()
