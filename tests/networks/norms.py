"""Normalisations, and functions at the end of a network."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from networks.base import network

IMAGE = (3, 8, 8)
FLAT = {"LayerNorm": lambda: nn.LayerNorm(8), "RMSNorm": lambda: nn.RMSNorm(8), "BatchNorm": lambda: nn.BatchNorm1d(8)}
CHANNELS = {
    "GroupNorm": lambda: nn.GroupNorm(2, 4), "InstanceNorm": lambda: nn.InstanceNorm2d(4, affine=True),
    "BatchNorm2d": lambda: nn.BatchNorm2d(4), "LocalResponseNorm": lambda: nn.LocalResponseNorm(3),
}  # fmt: skip
ENDS = {"softmax": lambda: nn.Softmax(1), "log_softmax": lambda: nn.LogSoftmax(1), "sigmoid": nn.Sigmoid}

for name, norm in FLAT.items():
    network(f"norm, {name}")(
        lambda norm=norm: nn.Sequential(nn.Linear(12, 8), norm(), nn.ReLU(), nn.Linear(8, 8), norm(), nn.Linear(8, 3))
    )
for name, norm in CHANNELS.items():
    network(f"norm, {name}", IMAGE, 0.002)(
        lambda norm=norm: nn.Sequential(nn.Conv2d(3, 4, 3), norm(), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    )
for name, end in ENDS.items():
    network(f"end, {name}")(lambda end=end: nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3), end()))
for name, wrapped in {"weight_norm": weight_norm, "spectral_norm": spectral_norm}.items():
    network(f"reparametrised, {name}")(
        lambda wrapped=wrapped: nn.Sequential(wrapped(nn.Linear(12, 8)), nn.ReLU(), wrapped(nn.Linear(8, 3)))
    )
