"""Forms whose rows have one entry each."""

from __future__ import annotations

import torch
from torch import Tensor

from properties.input_set import Local
from verifier.device import ask_numbers
from verifier.forms.base import Dense, LinearForm, row_by_row


class Diagonal(LinearForm):
    """Row s is `factor[s]` times entry s of the flattened node; factor [B or 1, *shape]."""

    def __init__(self, factor: Tensor) -> None:
        self.factor = factor
        self.shape = tuple(factor.shape[1:])
        self.rows = factor[0].numel()

    @property
    def terms(self) -> int:
        return 1

    @property
    def like(self) -> Tensor:
        return self.factor

    def dense(self) -> Tensor:  # [B or 1, S, *shape]
        ask_numbers(self.factor, float(self.rows) * self.factor.numel())
        rows = torch.diag_embed(self.factor.reshape(len(self.factor), -1))
        return rows.reshape(*rows.shape[:2], *self.shape)

    def scale(self, factor: Tensor) -> Diagonal:  # [B or 1, *shape]
        return Diagonal(self.factor * factor)

    def abs(self) -> Diagonal:
        return Diagonal(self.factor.abs())

    def dot(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        return (self.factor * x).flatten(1)

    def norm(self, p: float) -> Tensor:  # [B or 1, S]
        return self.factor.abs().flatten(1)

    def local(self, margin: int = 0) -> Local:
        if margin:
            return super().local(margin)
        one = (1,) * len(self.shape)  # a window of one entry
        return row_by_row(
            self.factor.flatten(1).unflatten(1, (-1, *one)), lambda x: x.flatten(1).unflatten(1, (-1, *one))
        )

    def add(self, other: LinearForm) -> LinearForm:
        if isinstance(other, Diagonal):
            return Diagonal(self.factor + other.factor)
        if type(other).add is not LinearForm.add and not isinstance(other, Dense):
            return other.add(self)
        return super().add(other)


class Identity(Diagonal):
    """Row s is entry s of the flattened node."""

    def __init__(self, shape: tuple[int, ...], like: Tensor) -> None:
        super().__init__(like.new_ones(1, *shape))


class Selected(LinearForm):
    """Row s of example b is entry index[b, s] of the flattened node.

    Args:
        index: [B, S] int64; repeats are allowed (padding where examples select differently many).
    """

    def __init__(self, index: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
        self.index, self.shape, self.rows = index, tuple(shape), index.shape[1]
        self._like = like.new_zeros(())

    @property
    def terms(self) -> int:
        return 1

    @property
    def like(self) -> Tensor:
        return self._like

    def dense(self) -> Tensor:  # [B or 1, S, *shape]
        size = int(torch.Size(self.shape).numel())
        rows = self._like.new_zeros(*self.index.shape, size)
        return rows.scatter_(2, self.index.unsqueeze(2), 1.0).reshape(*self.index.shape, *self.shape)

    def scale(self, factor: Tensor) -> LinearForm:  # [B or 1, *shape]
        return Dense(self.dense() * factor.unsqueeze(1))

    def abs(self) -> Selected:
        return self

    def norm(self, p: float) -> Tensor:  # [B or 1, S]
        return torch.ones_like(self.index, dtype=self.dtype)

    def dot(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        batch = max(len(x), len(self.index))
        flat, index = x.reshape(len(x), -1), self.index
        return flat.expand(batch, -1).gather(1, index.expand(batch, -1))
