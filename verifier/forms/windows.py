"""Forms whose rows are chosen neurons of a feature map, each with the window of the node that it depends on.

Patches hold a window for every position and channel of a map. Here a row is one neuron, wherever it is: so many rows at
a time as memory allows, and none for neurons that nobody asks about.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from properties.input_set import Local
from verifier.device import ask_numbers
from verifier.errors import InternalError
from verifier.forms.base import Dense, LinearForm

Pair = tuple[int, int]


class Windows(LinearForm):
    """Rows s: coefficients [B or 1, S, C, kh, kw] on the window of a node [C, H, W] whose first entry is at corner [s].

    Args:
        coefficients: zero where a window reaches beyond the node.
        corner: [B or 1, S, 2] int64, row and column; negative where the window begins before the node.
    """

    def __init__(self, coefficients: Tensor, corner: Tensor, shape: tuple[int, ...]) -> None:
        self.coefficients, self.corner, self.shape = coefficients, corner, tuple(shape)
        self.rows = coefficients.shape[1]

    @classmethod
    def selected(cls, index: Tensor, shape: tuple[int, ...], like: Tensor) -> Windows:
        """Row s of example b is entry index[b, s] of the flattened node: a window of one entry."""
        channels, height, width = shape
        channel, place = index // (height * width), index % (height * width)
        one = like.new_zeros(*index.shape, channels).scatter_(2, channel.unsqueeze(2), 1.0)
        return cls(one[..., None, None], torch.stack([place // width, place % width], 2), shape)

    @classmethod
    def within(cls, coefficients: Tensor, corner: Tensor, shape: tuple[int, ...]) -> Windows:
        """The same with what windows have beyond the node set to zero."""
        form = cls(coefficients, corner, shape)
        if not any(form._margins):
            return form
        return cls(coefficients * form.gathered(coefficients.new_ones(1, 1, *shape[1:])), corner, shape)

    @property
    def like(self) -> Tensor:
        return self.coefficients

    @property
    def terms(self) -> int:
        return math.prod(self.coefficients.shape[2:])

    @property
    def size(self) -> Pair:
        """Height and width of the windows."""
        height, width = self.coefficients.shape[3:]
        return height, width

    @cached_property
    def _margins(self) -> tuple[int, int, int, int]:
        """How far windows reach beyond the node: left, right, top, bottom, as of F.pad."""
        if self.corner.numel() == 0:
            return 0, 0, 0, 0
        (top, left), (last, right) = (f(self.corner.flatten(0, 1), 0).tolist() for f in (torch.amin, torch.amax))
        (_, height, width), (kh, kw) = self.shape, self.size
        return max(0, -left), max(0, right + kw - width), max(0, -top), max(0, last + kh - height)

    def gathered(self, x: Tensor) -> Tensor:  # [B or 1, C or 1, H, W] -> [B or 1, S, C or 1, kh, kw]
        """Entries of x in every row's window, zero beyond the node."""
        margins, (kh, kw) = self._margins, self.size
        views = F.pad(x, margins) if any(margins) else x
        views = views.unfold(2, kh, 1).unfold(3, kw, 1).permute(0, 2, 3, 1, 4, 5)  # [B, H', W', C, kh, kw]
        top, left = self.corner[..., 0] + margins[2], self.corner[..., 1] + margins[0]
        if len(x) == 1:
            return views[0][top, left]
        example = torch.arange(len(x), device=x.device).unsqueeze(1)
        return views[example, top.expand(len(x), -1), left.expand(len(x), -1)]

    def moved(self, coefficients: Tensor, shape: tuple[int, ...], offset: Pair, stride: Pair = (1, 1)) -> Windows:
        """Rows with these coefficients on another node, whose windows begin at corner * stride + offset there."""
        steps = torch.tensor([stride, offset], device=self.corner.device)
        return Windows.within(coefficients, self.corner * steps[0] + steps[1], shape)

    def scale(self, factor: Tensor) -> Windows:  # [B or 1, *shape]
        if factor.dim() == 4 and factor.shape[2:] == (1, 1):
            return Windows(self.coefficients * factor.unsqueeze(1), self.corner, self.shape)
        return Windows(self.coefficients * self.gathered(factor.expand(-1, *self.shape)), self.corner, self.shape)

    def times(self, number: float) -> Windows:
        return Windows(self.coefficients * number, self.corner, self.shape)

    def abs(self) -> Windows:
        return Windows(self.coefficients.abs(), self.corner, self.shape)

    def dot(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        if x.shape[1:] != self.shape:
            raise InternalError(f"values of shape {tuple(x.shape[1:])} for a form on a node of shape {self.shape}")
        return (self.coefficients * self.gathered(x)).flatten(2).sum(2)

    def below(
        self, mean: Tensor, spread: Tensor | None, bias_mean: Tensor, bias_spread: Tensor
    ) -> tuple[LinearForm, Tensor]:  # [B or 1, *shape] each
        size = self.abs()  # once, for both uses
        constant = self.dot(bias_mean) - size.dot(bias_spread)
        scaled = self.scale(mean)
        if spread is None:
            return scaled, constant
        windows = self.gathered(spread.expand(-1, *self.shape))
        return Windows(
            torch.addcmul(scaled.coefficients, size.coefficients, windows, value=-1), self.corner, self.shape
        ), constant

    def local(self, margin: int = 0) -> Local:
        form = self
        if margin:
            form = Windows(F.pad(self.coefficients, (margin,) * 4), self.corner - margin, self.shape)
        return Local(
            form.coefficients, 2, form.gathered, lambda rows: rows, lambda numbers: numbers, lambda n: n[:, None]
        )

    def dense(self) -> Tensor:  # [B or 1, S, *shape]
        (channels, height, width), (kh, kw) = self.shape, self.size
        left, right, top, bottom = self._margins
        batch = max(len(self.coefficients), len(self.corner))
        wide = width + left + right
        across = torch.arange(kw, device=self.device)
        down = torch.arange(kh, device=self.device).unsqueeze(1) * wide
        first = (self.corner[..., 0] + top) * wide + self.corner[..., 1] + left  # [B or 1, S]
        ask_numbers(self.coefficients, 2.0 * batch * self.rows * channels * (height + top + bottom) * wide)
        index = (first[..., None, None] + down + across).flatten(2).unsqueeze(2)
        out = self.coefficients.new_zeros(batch, self.rows, channels, (height + top + bottom) * wide)
        entries = self.coefficients.flatten(3).expand(batch, -1, -1, -1)
        out = out.scatter(3, index.expand(*entries.shape), entries).unflatten(3, (-1, wide))
        return out[..., top : top + height, left : left + width]

    def add(self, other: LinearForm) -> LinearForm:
        shift = self._shift(other)
        if shift is None or not isinstance(other, Windows):
            return Dense(self.dense() + other.dense())
        (a, b), (c, d) = self.size, other.size
        top, left = max(0, -shift[0]), max(0, -shift[1])  # how much earlier the other windows begin
        bottom, right = max(0, c + shift[0] - a), max(0, d + shift[1] - b)
        mine = F.pad(self.coefficients, (left, right, top, bottom))
        height, width = mine.shape[3:]
        start = shift[0] + top, shift[1] + left
        theirs = (start[1], width - d - start[1], start[0], height - c - start[0])
        corner = self.corner if not (top or left) else self.corner - torch.tensor([top, left], device=self.device)
        return Windows(mine + F.pad(other.coefficients, theirs), corner, self.shape)

    def combine(self, other: LinearForm, sign: float) -> LinearForm:
        if isinstance(other, Windows) and other.size == self.size and self._shift(other) == (0, 0):
            total = torch.add(self.coefficients, other.coefficients, alpha=sign)
            return Windows(total, self.corner, self.shape)
        return super().combine(other, sign)

    def stack(self, other: LinearForm) -> LinearForm:
        if not isinstance(other, Windows):
            return super().stack(other)
        height, width = (max(p) for p in zip(self.size, other.size, strict=True))
        batch = max(len(t) for form in (self, other) for t in (form.coefficients, form.corner))
        grown = [
            F.pad(f.coefficients, (0, width - f.size[1], 0, height - f.size[0])).expand(batch, -1, -1, -1, -1)
            for f in (self, other)
        ]
        corners = [f.corner.expand(batch, -1, -1) for f in (self, other)]
        return Windows(torch.cat(grown, 1), torch.cat(corners, 1), self.shape)

    def _shift(self, other: LinearForm) -> Pair | None:
        """How much later the windows of other begin, where that is the same for all rows."""
        if not isinstance(other, Windows) or other.rows != self.rows or self.rows == 0:
            return None
        if other.corner is self.corner:
            return 0, 0
        both = (other.corner - self.corner).flatten(0, 1)
        if bool((both != both[0]).any()):
            return None
        down, across = both[0].tolist()
        return down, across
