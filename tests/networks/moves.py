"""Networks that move, cut, join and resize values, and maps of other shapes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.activations import Function
from networks.base import network

IMAGE = (3, 8, 8)


class Ensemble(nn.Module):
    """Mean of three networks, stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


def assigned(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 2:5] = torch.relu(x[:, 5:8])
    return y


def between(*middle: nn.Module | Callable[[Tensor], Tensor], inputs: int) -> nn.Sequential:
    """These, flattened, then a layer with ReLU and classes."""
    parts = [part if isinstance(part, nn.Module) else Function(part) for part in middle]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 3))


network("ensemble, stack and mean")(Ensemble)
FLAT = {
    "cumsum": lambda x: x.cumsum(1), "assignment to a slice": assigned, "clamp": lambda x: x.clamp(-0.5, 0.5),
    "minimum and maximum": lambda x: torch.maximum(torch.minimum(x, x.flip(1)), x.roll(1, 1)),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x), "sort of pairs": lambda x: torch.cat(
        [torch.minimum(x[:, ::2], x[:, 1::2]), torch.maximum(x[:, ::2], x[:, 1::2])], 1),
    "Fourier features": lambda x: torch.cat([torch.sin(x[:, :6] * 2), torch.cos(x[:, 6:] * 2)], 1),
    "einsum": lambda x: torch.einsum("bi,ij->bj", x, torch.eye(12, dtype=x.dtype).flip(0) * 0.5),
}  # fmt: skip
for name, move in FLAT.items():
    network(f"move, {name}")(lambda move=move: between(move, inputs=12))
IMAGES: dict[str, Callable[[], nn.Module]] = {
    "pixel shuffle": lambda: between(nn.Conv2d(3, 4, 3, 2, 1), nn.PixelShuffle(2), inputs=64),
    "bilinear": lambda: between(nn.Conv2d(3, 2, 4, 4), lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
                                inputs=32),
    "dilated": lambda: between(nn.Conv2d(3, 4, 3, dilation=2), nn.ReLU(), inputs=64),
    "grouped": lambda: between(nn.Conv2d(3, 6, 3, 2, groups=3), nn.ReLU(), inputs=54),
    "transposed": lambda: between(nn.Conv2d(3, 2, 4, 4), nn.ReLU(), nn.ConvTranspose2d(2, 3, 2, 2), inputs=48),
    "lp_pool": lambda: between(nn.LPPool2d(2, 2), inputs=48),
    "adaptive pools": lambda: between(nn.AdaptiveAvgPool2d(4), nn.AdaptiveMaxPool2d(2), inputs=12),
    "channels last": lambda: between(lambda x: x.permute(0, 2, 3, 1), nn.Linear(3, 2), nn.ReLU(), inputs=128),
}  # fmt: skip
for name, builder in IMAGES.items():
    network(f"image, {name}", IMAGE)(builder)
network("conv3d", (2, 3, 4, 4))(lambda: between(nn.Conv3d(2, 3, 2), nn.ReLU(), inputs=54))
network("SIREN")(lambda: nn.Sequential(nn.Linear(12, 8), Function(lambda x: torch.sin(5 * x)), nn.Linear(8, 3)))
