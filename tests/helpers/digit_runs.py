"""Digits and the demonstration's network, for tests of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verifier.demo import architecture, digits


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, first: int = 0) -> tuple[Tensor, Tensor]:
    x, y = digits()
    return x[first : first + count], y[first : first + count]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return architecture()
