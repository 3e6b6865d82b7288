"""Where mass may move, and at what cost: local transport plans (Wong 2020, section 5.1.5).

A plan is a tensor [B, C, H, W, k, k]: entry (i, a, b) is the mass that pixel i sends to the pixel (a - r, b - r) away
from it, in its own channel, with r = k // 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Moves:
    """The cost [k, k] of one unit of mass, k odd, >= 0 and finite, 0 at the centre; float64."""

    cost: Tensor

    @classmethod
    def euclidean(cls, window: int) -> Moves:
        """Euclidean distances in pixels within a window of that size: the 1-Wasserstein distance of the thesis."""
        if window < 1 or window % 2 == 0:
            raise ValueError(f"the window of a transport plan must be an odd number of pixels >= 1, got {window}")
        away = torch.arange(window, dtype=torch.float64) - window // 2
        return cls((away[:, None] ** 2 + away[None, :] ** 2).sqrt())

    @classmethod
    def of(cls, cost: Tensor) -> Moves:  # [k, k]
        """Any cost. Raises ValueError where it is unusable."""
        cost = cost.detach().to(torch.float64, copy=True)
        size = tuple(cost.shape)
        if len(size) != 2 or size[0] != size[1] or size[0] % 2 == 0:
            raise ValueError(f"cost must be a square [k, k] with k odd, got shape {size}")
        if not (cost.isfinite() & (cost >= 0)).all():
            raise ValueError("cost must be finite and >= 0 everywhere")
        if cost[size[0] // 2, size[0] // 2] != 0:
            raise ValueError(
                f"staying must cost nothing, but the cost at the centre is {cost[size[0] // 2, size[0] // 2]}"
            )
        return cls(cost)

    @property
    def window(self) -> int:
        return self.cost.shape[0]

    @property
    def reach(self) -> int:
        """How many pixels away mass may go, along either axis."""
        return self.window // 2

    def classes(self) -> list[tuple[float, list[tuple[int, int]]]]:
        """The offsets (down, right) in groups of equal cost, cheapest first; staying is in the group of cost 0."""
        groups: dict[float, list[tuple[int, int]]] = {}
        for a, row in enumerate(self.cost.tolist()):
            for b, cost in enumerate(row):
                groups.setdefault(cost, []).append((a - self.reach, b - self.reach))
        return sorted(groups.items())

    def to(self, device: torch.device) -> Moves:
        return Moves(self.cost.to(device))

    def neighbours(self, values: Tensor, outside: float = 0.0) -> Tensor:  # [..., H, W] -> [..., H, W, k, k]
        """Values at the pixels that each pixel can send to (a view); `outside` where there are none."""
        r = self.reach
        return F.pad(values, (r, r, r, r), value=outside).unfold(-2, self.window, 1).unfold(-2, self.window, 1)

    def arrivals(self, plan: Tensor) -> Tensor:  # [B, C, H, W, k, k] -> [B, C, H, W]
        """What every pixel holds after the plan."""
        r, (height, width) = self.reach, plan.shape[-4:-2]
        held = plan.new_zeros(*plan.shape[:-4], height + 2 * r, width + 2 * r)
        for a in range(self.window):
            for b in range(self.window):
                held[..., a : a + height, b : b + width] += plan[..., a, b]
        return held[..., r : r + height, r : r + width]

    def spent(self, plan: Tensor) -> Tensor:  # [B, C, H, W, k, k] -> [B]
        """The cost of every example's plan."""
        return torch.einsum("bchwij,ij->b", plan, self.cost)

    def largest(self, values: Tensor, offsets: list[tuple[int, int]], outside: float) -> Tensor:  # [..., H, W]
        """The largest value that each pixel finds at those offsets (down, right); `outside` beyond the edges."""
        first, *others = self._shifts(values, offsets, outside)
        best = first.clone()
        for moved in others:
            torch.maximum(best, moved, out=best)
        return best

    def summed(self, values: Tensor, offsets: list[tuple[int, int]]) -> Tensor:  # [..., H, W]
        """The sum of the values that each pixel finds at those offsets (down, right)."""
        first, *others = self._shifts(values, offsets, 0.0)
        out = first.clone()
        for moved in others:
            out += moved
        return out

    def _shifts(self, values: Tensor, offsets: list[tuple[int, int]], outside: float) -> list[Tensor]:  # [..., H, W]
        """Views of the padded values, one per offset."""
        r, (height, width) = self.reach, values.shape[-2:]
        padded = F.pad(values, (r, r, r, r), value=outside)
        return [padded[..., r + a : r + a + height, r + b : r + b + width] for a, b in offsets]
