"""Forms that sum runs of neighbours: what is below a sum over the last dimensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verifier.forms.base import Dense, LinearForm


class Runs(LinearForm):
    """One coefficient per run of neighbouring entries of the flattened node, all runs equally long.

    Args:
        coefficients: [B or 1, S, G], one for each of the G runs.
        shape: of the node, whose size is a multiple of G.
    """

    def __init__(self, coefficients: Tensor, shape: tuple[int, ...]) -> None:
        self.coefficients, self.shape, self.rows = coefficients, tuple(shape), coefficients.shape[1]
        self.length = math.prod(self.shape) // coefficients.shape[2]  #: of a run

    @property
    def like(self) -> Tensor:
        return self.coefficients

    def dense(self) -> Tensor:  # [B or 1, S, *shape]
        written = self.coefficients.unsqueeze(3).expand(*self.coefficients.shape, self.length)
        return written.reshape(*self.coefficients.shape[:2], *self.shape)

    def scale(self, factor: Tensor) -> LinearForm:  # [B or 1, *shape]
        return Dense(self.dense() * factor.unsqueeze(1))

    def times(self, number: float) -> Runs:
        return Runs(self.coefficients * number, self.shape)

    def abs(self) -> Runs:
        return Runs(self.coefficients.abs(), self.shape)

    def dot(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        return Dense(self.coefficients).dot(x.reshape(len(x), -1, self.length).sum(2))

    def add(self, other: LinearForm) -> LinearForm:
        if isinstance(other, Runs) and other.length == self.length:
            return Runs(self.coefficients + other.coefficients, self.shape)
        return super().add(other)

    def stack(self, other: LinearForm) -> LinearForm:
        if isinstance(other, Runs) and other.length == self.length:
            a, b = self.coefficients, other.coefficients
            batch = max(len(a), len(b))
            return Runs(torch.cat([t.expand(batch, *t.shape[1:]) for t in (a, b)], 1), self.shape)
        return super().stack(other)
