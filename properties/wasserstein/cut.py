"""The part of every row's window that matters: near mass, and near coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: parts of their own for the rows are gathered where they have less than this share of the part that does for all
WORTH = 0.7


@dataclass(frozen=True)
class MassWindow:
    """A rectangle of the windows [*rows, C, h, w], the same for all rows, or of one size with an origin per row."""

    window: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    places: Tensor | None = None  # [rows, height * width] into the flattened window, in place of top and left

    @classmethod
    def around(cls, mass: Tensor, reach: int) -> MassWindow:
        """All that mass [..., C, h, w] can come to, the same for all rows."""
        there = (mass > 0).flatten(0, -3).any(0)
        (top, bottom), (left, right) = (_extent(there.any(k), reach) for k in (1, 0))
        return cls((mass.shape[-2], mass.shape[-1]), int(top), int(left), int(bottom - top), int(right - left))

    @classmethod
    def of(cls, c: Tensor, mass: Tensor, reach: int) -> MassWindow:
        """For rows c [*rows, C, h, w] over mass that broadcasts with them, which moves by `reach` pixels at most.

        Mass outside the rectangle cannot come to a coefficient that is not 0. Mass that could leave it can only go from
        where c is 0 to where c is 0: it may as well stay, if that has no price. So prices must be 0 where c is.
        """
        common = cls.around(mass, reach)
        if c.dim() != 4 or len(c) < 2:
            return common
        used = (c != 0).any(1)
        starts, sizes = [], []
        for line, low, size in ((used.any(2), common.top, common.height), (used.any(1), common.left, common.width)):
            first, last = _extent(line, reach)
            first, last = first.clamp(min=low), last.clamp(max=low + size)
            sizes.append(max(1, int((last - first).max())))
            starts.append(first.clamp(max=line.shape[-1] - sizes[-1]))
        if sizes[0] * sizes[1] > WORTH * common.height * common.width:
            return common
        down, across = (torch.arange(n, device=c.device) for n in sizes)
        rows, columns = starts[0][:, None, None] + down[:, None], starts[1][:, None, None] + across
        return cls(common.window, 0, 0, sizes[0], sizes[1], (rows * common.window[1] + columns).flatten(1))

    def take(self, values: Tensor) -> Tensor:  # [rows or 1, ..., C, h, w]
        """Only the rectangle."""
        if self.places is None:
            return values[..., self.top : self.top + self.height, self.left : self.left + self.width]
        flat = values.flatten(-2).expand(len(self.places), -1, -1)
        return flat.gather(2, self._index(flat)).unflatten(2, (self.height, self.width))

    def put(self, values: Tensor, elsewhere: Tensor) -> Tensor:  # [*rows, C, h, w] -> [*rows, C, H, W]
        """Whole windows, filled up with what they hold elsewhere (broadcasts with them)."""
        whole = elsewhere.expand(*values.shape[:-2], *self.window).clone(memory_format=torch.contiguous_format)
        if self.places is None:
            whole[..., self.top : self.top + self.height, self.left : self.left + self.width] = values
            return whole
        whole.flatten(-2).scatter_(2, self._index(values), values.flatten(-2))
        return whole

    def _index(self, values: Tensor) -> Tensor:  # [rows, C, ...] -> [rows, C, h * w]
        assert self.places is not None
        return self.places.unsqueeze(1).expand(-1, values.shape[1], -1)


def _extent(line: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """From the first to behind the last True of line [..., n], and `reach` more either way; one entry where none is."""
    size, marks = line.shape[-1], line.to(torch.uint8)
    first = marks.argmax(-1)
    last = torch.where(line.any(-1), size - 1 - marks.flip(-1).argmax(-1), first)
    return (first - reach).clamp(min=0), (last + 1 + reach).clamp(max=size)
