"""Random small networks of every kind, seeded, with inputs to match."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CLASSES = 4
IMAGE = (2, 6, 6)


@dataclass(frozen=True)
class RandomNetwork:
    """A network in eval mode, inputs [B, *input] and a radius at which its bounds are neither trivial nor hopeless."""

    name: str
    model: nn.Module
    x: Tensor
    eps: float


class ResidualBlocks(nn.Module):
    """Two residual blocks of convolutions: identity and projected shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.c, self.d = nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Conv2d(2, 3, 1, stride=2)
        self.out = nn.Linear(27, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # [B, 2, 6, 6] -> [B, CLASSES]
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        x = torch.relu(self.c(x) + self.d(x))
        return self.out(x.flatten(1))


class Skip(nn.Module):
    """Dense layers with sums over one and over two layers, and one activation read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 7)
        self.out = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # [B, 5] -> [B, CLASSES]
        first = torch.relu(self.a(x))
        second = torch.relu(self.b(first) + first)
        return self.out(torch.relu(self.c(second) - first) + second)


class Concatenated(nn.Module):
    """Features of two depths side by side along channels, read by one more convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
        self.c, self.out = nn.Conv2d(7, 2, 3), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # [B, 2, 6, 6] -> [B, CLASSES]
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(a))
        return self.out(torch.relu(self.c(torch.cat([x, a, b], 1))).flatten(1))


class Branches(nn.Module):
    """A ReLU branch and a tanh branch with different receptive fields, added before the last layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 3, 5, padding=2)
        self.c, self.out = nn.Conv2d(3, 2, 2, stride=2), nn.Linear(18, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # [B, 2, 6, 6] -> [B, CLASSES]
        y = torch.relu(self.a(x)) + 0.5 * torch.tanh(self.b(x))
        return self.out(torch.relu(self.c(y)).flatten(1))


class Gated(nn.Module):
    """Products of two layers entry by entry, one of them with the input, and a matrix product of features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 5)
        self.out = nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # [B, 5] -> [B, CLASSES]
        a, b = torch.relu(self.a(x)), self.b(x)
        pairs = (a.unflatten(1, (2, 3)) @ b.unflatten(1, (3, 2))).flatten(1)
        return self.out(torch.cat([pairs, torch.relu(self.c(a * b)) * x], 1))


class Absolute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:  # [...] -> [...]
        return x.abs()


def _head(features: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, CLASSES)]


def _dense(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), activation(), nn.Linear(8, 7), activation(), nn.Linear(7, CLASSES))


#: name -> (constructor, takes images)
KINDS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "dense": (lambda: _dense(nn.ReLU), False),
    "leaky": (lambda: _dense(lambda: nn.LeakyReLU(0.2)), False),
    "relu6": (lambda: _dense(nn.ReLU6), False),
    "hardtanh": (lambda: _dense(nn.Hardtanh), False),
    "abs": (lambda: _dense(Absolute), False),
    "sigmoid": (lambda: _dense(nn.Sigmoid), False),
    "tanh": (lambda: _dense(nn.Tanh), False),
    "skip": (Skip, False),
    "gated": (Gated, False),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), *_head(64)
        ),
        True,
    ),
    "strided": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 4, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 3, (2, 1), (1, 2)), nn.ReLU(), *_head(40)
        ),
        True,
    ),
    "three convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(3, 2, 3, 1, 1), nn.LeakyReLU(0.1), *_head(32),
        ),
        True,
    ),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), *_head(64)
        ),
        True,
    ),
    "dilated": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 2, padding=1, dilation=2), nn.ReLU(),
            nn.Conv2d(3, 3, (2, 3), padding=(2, 0), dilation=(3, 2)), nn.ReLU(), *_head(42),
        ),
        True,
    ),
    "batch norm": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
            nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), *_head(48),
        ),
        True,
    ),
    "average pool": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 3, 2), nn.ReLU(),
            nn.AvgPool2d(2, 1, 1, count_include_pad=False), *_head(27),
        ),
        True,
    ),
    "max pool": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 2), nn.ReLU(), *_head(12)
        ),
        True,
    ),
    "residual": (ResidualBlocks, True),
    "concat": (Concatenated, True),
    "branches": (Branches, True),
    "dense, badly scaled": (lambda: _dense(nn.ReLU), False),
    "conv, badly scaled": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), *_head(64)
        ),
        True,
    ),
}  # fmt: skip


def random_network(name: str, seed: int = 0, batch: int = 3, dtype: torch.dtype = torch.float64) -> RandomNetwork:
    """The network of that kind; weights normal with variance 1.5 / fan-in, rows scaled by 1e-3 ... 1e3 if badly."""
    make, takes_images = KINDS[name]
    generator = torch.Generator().manual_seed(1000 * seed + 7)

    def normal(*shape: int) -> Tensor:  # [*shape]
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    model = make().double()
    with torch.no_grad():
        for key, value in [*model.named_parameters(), *model.named_buffers()]:
            if key.endswith("running_var"):
                value.copy_(0.3 + normal(*value.shape).square())
            elif value.is_floating_point():
                fan = value[0].numel() if value.dim() > 1 else 4
                value.copy_(normal(*value.shape) * (1.5 / fan) ** 0.5)
                if "badly" in name and value.dim() > 1:
                    powers = torch.randint(-3, 4, (len(value),), generator=generator)
                    value.mul_((10.0 ** powers.double()).reshape(-1, *(1,) * (value.dim() - 1)))
    x = 0.5 * normal(batch, *(IMAGE if takes_images else (5,)))
    return RandomNetwork(name, model.to(dtype).eval(), x.to(dtype), 0.05 if takes_images else 0.1)
