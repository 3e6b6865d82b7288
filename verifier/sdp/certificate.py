"""What proves how far one row can move: a weight per slope and per input, and a spectral norm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.rounding import gamma
from verifier.sdp.coupling import Coupling
from verifier.sdp.spectrum import TINY, UNIT, frobenius_bound, norm_bound, up


@dataclass(frozen=True)
class SdpCertificate:
    """For one row and any weights a > 0 (slopes), b > 0 (inputs), with K_ij = B_ij / (a_i b_j) (see `Coupling`):

        |row(x + d) - row(x)| = |sum_ij tau_i B_ij d_j| <= ||K|| sqrt(sum a_i^2 tau_i^2) sqrt(sum b_j^2 d_j^2)
                             <= ||K|| |a| sqrt(sum b_j^2 r_j^2)     where |d_j| <= r_j.

    This is the dual bound of Raghunathan et al. (2018), eq. 14-16, for c = (a^2, b^2), made feasible by scaling c where
    the paper shifts it: ||K|| <= t means 2 t diag(c) >= M. Since t and d may be scaled against each other, the sum over
    c becomes a geometric mean of its two parts, and radii may differ from input to input without a new problem. At the
    optimum, and for a uniform radius, the bound is the semidefinite program's value.

    Where a_i or b_j is zero, that row or column of B must be.
    """

    left: Tensor  # [1 + m]: a
    right: Tensor  # [n]: b
    norm: float  #: upper bound of ||K||, rounding errors accounted for
    value: float  #: reached by the relaxation at radius 1, up to rounding: no weights give less (0 where not known)

    @classmethod
    def of(cls, coupling: Coupling, row: int, left: Tensor, right: Tensor, value: float = 0.0) -> SdpCertificate:
        """The certificate with given weights, left [1 + m] and right [n]: its norm is computed here."""
        return cls(left, right, scaled_norm(coupling, row, left, right), value)

    def reach(self, radius: Tensor) -> Tensor:  # [B, n], >= 0 -> [B]
        """How far the row can move at most while input j moves by radius_j; rounded up."""
        if not math.isfinite(self.norm):
            return torch.full_like(radius[:, 0], torch.inf)
        # the products are squared, not the factors: a weight of 1e-163 has no square, but radii may be large
        moved = radius * self.right
        size = moved.abs().amax(1, keepdim=True).clamp(min=TINY)
        inputs = ((moved / size).square().sum(1) + 2 * len(self.right) * TINY).sqrt() * size.squeeze(1)
        slopes = frobenius_bound(self.left.unsqueeze(0))
        factor = 1 + 2 * gamma(len(self.right) + 12, UNIT)
        reach = inputs * (self.norm * slopes * factor)
        reach = torch.where((radius == 0).all(1), 0.0, reach)
        return reach.nan_to_num(nan=torch.inf)


def weights_of(coupling: Coupling, row: int, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (a [1 + m], b [n]) from dual variables p, q of an ascent that may have ended early.

    At the optimum p_i q_j >= B_ij^2 (a minor of diag(p, q) - [[0, B], [B^T, 0]]), so that p_i is at least
    max_j B_ij^2 / sum(q), and no p_i is zero unless its row is. Any weights are valid; these are good ones.
    """
    size = coupling.matrix(row).abs()
    floors = []
    for largest, total in ((size.amax(1), q.sum()), (size.amax(0), p.sum())):
        floors.append(torch.where(largest > 0, (largest * (largest / total)).clamp(min=TINY), 0.0))
    return torch.maximum(p, floors[0]).sqrt(), torch.maximum(q, floors[1]).sqrt()


def scaled_norm(coupling: Coupling, row: int, left: Tensor, right: Tensor) -> float:
    """Upper bound of the spectral norm of B_ij / (left_i right_j), B with its rounding errors accounted for.

    Args:
        left: [1 + m]. right: [n].
    """
    matrix, error = coupling.matrix(row), coupling.first_error(row)
    if not (_usable(left, (matrix != 0).any(1)) and _usable(right, (matrix != 0).any(0) | (error != 0))):
        return math.inf
    if left[0] == 0 and bool((error != 0).any()):
        return math.inf
    a, b = (torch.where(w > 0, w, 1.0) for w in (left, right))  # what a zero divides is zero
    scaled = matrix / a.unsqueeze(1) / b
    # two products and two divisions per entry, and what may underflow in them
    rounding = gamma(6, UNIT) * frobenius_bound(scaled) + frobenius_bound((error / a[0] / b).unsqueeze(0))
    under = 8 * TINY * math.sqrt(matrix.numel()) * (1 + 1 / float(a.min())) * (1 + 1 / float(b.min()))
    return up(norm_bound(scaled) + rounding + under, 8)


def _usable(weights: Tensor, needed: Tensor) -> bool:  # [k] each
    """Whether weights are finite numbers >= 0, and above 0 where one is needed."""
    return bool((weights.isfinite() & (weights >= 0) & ((weights > 0) | ~needed)).all())
