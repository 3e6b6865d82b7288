"""Slopes of a zonotope's bands, one per neuron and row, as parameters of an ascent.

Of a band a row sees one edge: the lower one where its coefficient is positive, the upper one where it is negative. The
edge is best where it touches the activation's hull along a side of it; slopes steeper or flatter than all sides give
an edge that is worse everywhere on the interval. So the slope is clipped to what its edge can use: for a ReLU, to
[0, 1] below, and to the chord's u / (u - l) above, where there is nothing to learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from verifier.ops.base import Pieces, SlopeRule
from verifier.relaxation.condensed import Condensed, Unknowns, take
from verifier.relaxation.slopes import Parameters, Values, corner_minimum_of_rows


@dataclass(frozen=True)
class BandFamily:
    """The slopes that the unknowns of one activation can use. Tensors [B, 1, n]."""

    pieces: Pieces  # [K, B, 1, n]
    below: tuple[Tensor, Tensor]  #: flattest and steepest slope of the lower edge
    above: tuple[Tensor, Tensor]  #: and of the upper edge

    @classmethod
    def of(cls, unknowns: Unknowns) -> BandFamily:
        op, lower, upper = unknowns.op, unknowns.lower, unknowns.upper
        ends = [op.relax(lower, upper, torch.full_like(lower, t)) for t in (0.0, 1.0)]
        below, above = (torch.stack([getattr(end, side) for end in ends]) for side in ("lower_slope", "upper_slope"))
        return cls(op.pieces(lower, upper), (below.amin(0), below.amax(0)), (above.amin(0), above.amax(0)))

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """The flattest slope, and how far it is to the steepest."""
        flat = torch.minimum(self.below[0], self.above[0])
        return flat, torch.maximum(self.below[1], self.above[1]) - flat

    def slope(self, share: Tensor, nu_hat: Tensor) -> Tensor:
        """The slopes [B, R, n] at shares [B, R, n] of the range, for coefficients nu_hat on the outputs."""
        flat, width = self.range
        positive = nu_hat >= 0
        low, high = (torch.where(positive, b, a) for b, a in zip(self.below, self.above, strict=True))
        slope = torch.minimum(torch.maximum(torch.addcmul(flat, share, width), low), high)
        return torch.where(low < high, slope, low)  # no gradient where there is nothing to choose

    def share(self, slope: Tensor) -> Tensor:
        """Where in the range a slope is; the middle where there is no range."""
        flat, width = self.range
        return torch.where(width > 0, (slope - flat) / torch.where(width > 0, width, 1.0), 0.5).clamp(0, 1)

    def select(self, examples: Tensor) -> BandFamily:
        pieces = replace(self.pieces, x=self.pieces.x[:, examples], y=self.pieces.y[:, examples])
        return BandFamily(pieces, self._at(self.below, examples), self._at(self.above, examples))

    @staticmethod
    def _at(pair: tuple[Tensor, Tensor], examples: Tensor) -> tuple[Tensor, Tensor]:
        return pair[0][examples], pair[1][examples]


@dataclass(frozen=True)
class BandSlopes(Parameters):
    """Shares in [0, 1] of each family's range of slopes; for a ReLU they are the slopes lambda themselves."""

    families: Mapping[int, BandFamily]
    shares: Values  # [B, R, n]

    @classmethod
    def start(cls, network: Condensed, rows: int) -> BandSlopes:
        """The slopes of DeepZ, the same for every row."""
        families, shares = {}, {}
        for u in network.unknowns:
            families[u.node] = BandFamily.of(u)
            slope = u.op.relax(u.lower, u.upper, SlopeRule.FIXED).lower_slope
            shares[u.node] = families[u.node].share(slope).expand(-1, rows, -1).clone()
        return cls(families, shares)

    @property
    def varied(self) -> Values:
        return self.shares

    def with_varied(self, values: Values) -> Self:
        return replace(self, shares={i: v.clamp(0, 1) for i, v in values.items()})

    def below(self, unknowns: Unknowns, nu_hat: Tensor) -> tuple[Tensor, Tensor]:
        family = self.families[unknowns.node]
        nu = family.slope(self.shares[unknowns.node], nu_hat) * nu_hat
        return nu, corner_minimum_of_rows(family.pieces, nu_hat, nu)

    def rows(self, examples: Tensor, index: Tensor) -> Self:
        families = {i: f.select(examples) for i, f in self.families.items()}
        return replace(self, families=families, shares={i: take(s[examples], index) for i, s in self.shares.items()})
