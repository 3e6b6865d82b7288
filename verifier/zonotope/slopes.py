"""Slopes of a zonotope's bands, one per neuron and row, as the family that an ascent chooses from.

Of a band a row sees one edge: the lower one where its coefficient is positive, the upper one where it is negative. The
edge is best where it touches the activation's hull along a side of it; slopes steeper or flatter than all sides give
an edge that is worse everywhere on the interval. So the slope is clipped to what its edge can use: for a ReLU, to
[0, 1] below, and to the chord's u / (u - l) above, where there is nothing to learn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.ops.base import Activation, Pieces, SlopeRule
from verifier.relaxation.condensed import Condensed, Unknowns
from verifier.relaxation.families import RelaxationFamily
from verifier.relaxation.slopes import Family, ProductFamily, Slopes, corner_minimum_of_rows


@dataclass(frozen=True)
class BandFamily:
    """The slopes that the unknowns of one activation can use, a share t in [0, 1] of their range. Tensors [B, 1, n].

    For a ReLU the shares are the slopes lambda themselves. Both edges have one slope and their biases are not linear in
    it, so that they are worked out from the hull's corners, unlike those of `SlopeFamily`.
    """

    pieces: Pieces  # [K, B, 1, n]
    low: tuple[Tensor, Tensor]  #: flattest and steepest slope of the lower edge
    up: tuple[Tensor, Tensor]  #: and of the upper edge

    @classmethod
    def of(cls, u: Unknowns) -> BandFamily:
        assert isinstance(u.op, Activation)
        lines = RelaxationFamily.of(u.op, u.lower, u.upper)
        return cls(u.op.pieces(u.lower, u.upper), lines.low.slopes(u.lower), lines.up.slopes(u.lower))

    @property
    def range(self) -> tuple[Tensor, Tensor]:  # [B, 1, n] each
        """The flattest slope, and how far it is to the steepest."""
        flat = torch.minimum(self.low[0], self.up[0])
        return flat, torch.maximum(self.low[1], self.up[1]) - flat

    def slope(self, share: Tensor, nu_hat: Tensor) -> Tensor:
        """The slopes [B, R, n] at shares [B, R, n] of the range, for coefficients nu_hat on the outputs."""
        flat, width = self.range
        positive = nu_hat >= 0
        low, high = (torch.where(positive, b, a) for b, a in zip(self.low, self.up, strict=True))
        slope = torch.minimum(torch.maximum(torch.addcmul(flat, share, width), low), high)
        return torch.where(low < high, slope, low)  # no gradient where there is nothing to choose

    def share(self, slope: Tensor) -> Tensor:  # [B, 1, n] -> [B, 1, n]
        """Where in the range a slope is; the middle where there is no range."""
        flat, width = self.range
        return torch.where(width > 0, (slope - flat) / torch.where(width > 0, width, 1.0), 0.5).clamp(0, 1)

    def below(self, u: Unknowns, t: Tensor, nu_hat: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, n], [B, R]
        nu = self.slope(t, nu_hat) * nu_hat
        return nu, corner_minimum_of_rows(self.pieces, nu_hat, nu)

    def select(self, examples: Tensor) -> BandFamily:  # [k] int64
        pieces = replace(self.pieces, x=self.pieces.x[:, examples], y=self.pieces.y[:, examples])
        low, up = ((flat[examples], steep[examples]) for flat, steep in (self.low, self.up))
        return BandFamily(pieces, low, up)


def start_of_bands(network: Condensed, rows: int) -> Slopes:
    """The slopes of DeepZ, the same for every row; of a product, the middle of its planes."""
    families: dict[int, Family] = {}
    shares = {}
    for u in network.unknowns:
        if not isinstance(u.op, Activation):
            families[u.node] = ProductFamily.of(u)
            shares[u.node] = u.lower.new_full((len(u.index), rows, u.index.shape[1]), 0.5)
            continue
        family = families[u.node] = BandFamily.of(u)
        slope = u.op.relax(u.lower, u.upper, SlopeRule.FIXED).lower_slope
        shares[u.node] = family.share(slope).expand(-1, rows, -1).clone()
    return Slopes(families, shares)
