"""Forms with all their coefficients written out."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.forms.base import LinearForm


class Dense(LinearForm):
    """coefficients [B or 1, S, *shape]."""

    def __init__(self, coefficients: Tensor) -> None:
        self.coefficients = coefficients
        self.shape = tuple(coefficients.shape[2:])
        self.rows = coefficients.shape[1]

    @property
    def like(self) -> Tensor:
        return self.coefficients

    def dense(self) -> Tensor:
        return self.coefficients

    def scale(self, factor: Tensor) -> Dense:
        return Dense(self.coefficients * factor.unsqueeze(1))

    def abs(self) -> Dense:
        return Dense(self.coefficients.abs())

    def times(self, number: float) -> Dense:
        return Dense(self.coefficients * number)

    def add(self, other: LinearForm) -> LinearForm:
        return Dense(self.coefficients + other.dense())

    def combine(self, other: LinearForm, sign: float) -> LinearForm:
        return Dense(torch.add(self.coefficients, other.dense(), alpha=sign))

    def below(
        self, mean: Tensor, spread: Tensor | None, bias_mean: Tensor, bias_spread: Tensor
    ) -> tuple[LinearForm, Tensor]:
        size = self.abs()  # once, for both uses
        constant = self.dot(bias_mean) - size.dot(bias_spread)
        scaled = self.coefficients * mean.unsqueeze(1)
        if spread is not None:
            scaled = torch.addcmul(scaled, size.coefficients, spread.unsqueeze(1), value=-1)
        return Dense(scaled), constant

    def dot(self, x: Tensor) -> Tensor:
        flat, x = self.coefficients.reshape(*self.coefficients.shape[:2], -1), x.reshape(len(x), -1)
        if len(flat) == 1:
            return x @ flat[0].T
        if len(x) == 1:
            return flat @ x[0]
        return torch.bmm(flat, x.unsqueeze(2)).squeeze(2)
