"""Functions as models, for importers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Function(nn.Module):
    """A function as a model, with parameters w [4] and m [4, 3] and positive numbers c [4]."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.function = function
        self.w = nn.Parameter(torch.randn(4, generator=generator))
        self.m = nn.Parameter(torch.randn(4, 3, generator=generator))
        self.register_buffer("c", torch.rand(4, generator=generator) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)
