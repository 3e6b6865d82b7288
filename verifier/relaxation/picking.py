"""Picking masked rows: examples of a batch ask for differently many, and are padded to the most that any asks for."""

from __future__ import annotations

import torch
from torch import Tensor


def chosen(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Indices [B, n] of the True entries of mask [B, m], n the most of any example, and which are no padding."""
    count = int(mask.sum(1).max()) if len(mask) else 0
    index = masked_first(mask)[:, :count]
    return index, mask.gather(1, index)


def masked_first(mask: Tensor) -> Tensor:
    """Indices [B, m] of all entries of mask [B, m], the True ones first, both kinds in their order."""
    return mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows index [B, k] of x [B, R, n]: [B, k, n]."""
    return x.gather(1, index.unsqueeze(2).expand(-1, -1, x.shape[2]))
