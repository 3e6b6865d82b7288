"""Small convex programs in batches, by Mehrotra's predictor-corrector interior point method.

Nothing here proves anything: input sets search multipliers and nearby points with it, and bound with what they find.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: right-hand sides (r, p) of (Q + D) y + A^T m = r and A y - m / w = -p -> (y, m)
Solve = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class QuadraticProgram(ABC):
    """S programs per example: min 1/2 y.Q y - q.y over |y| <= 1 with A y <= limits. The rows A are shared by the S."""

    def __init__(self, rows: Tensor) -> None:  # [B, m, N]
        norms = rows.norm(dim=2)
        self.norms = torch.where(norms > 0, norms, torch.ones_like(norms))  # [B, m]
        self.a = rows / self.norms.unsqueeze(2)

    def rows(self, y: Tensor) -> Tensor:  # [B, S, N] -> [B, S, m]
        return y @ self.a.transpose(1, 2)

    def back(self, multipliers: Tensor) -> Tensor:  # [B, S, m] -> [B, S, N]
        return multipliers @ self.a

    @abstractmethod
    def curve(self, y: Tensor) -> Tensor:  # [B, S, N] -> [B, S, N]
        """Q y."""

    @abstractmethod
    def factor(self, d: Tensor, w: Tensor, scale: Tensor) -> Solve:  # d [B, S, N], w [B, S, m], scale [B, S, 1]
        """Solver of Newton's system with Q / scale, D = diag(d) and w."""


class FewRows(QuadraticProgram):
    """Many variables and few rows; Q = quadratic * identity-like diagonal [B, 1, N], or None for zero."""

    def __init__(self, rows: Tensor, quadratic: Tensor | None = None) -> None:
        super().__init__(rows)
        self.quadratic = quadratic
        batch, m, n = rows.shape
        self._products = (self.a.unsqueeze(2) * self.a.unsqueeze(1)).reshape(batch, m * m, n).transpose(1, 2)

    def curve(self, y: Tensor) -> Tensor:  # [B, S, N] -> [B, S, N]
        return torch.zeros_like(y) if self.quadratic is None else self.quadratic * y

    def factor(self, d: Tensor, w: Tensor, scale: Tensor) -> Solve:  # [B, S, N], [B, S, m], [B, S, 1]
        inverse = 1 / (d if self.quadratic is None else d + self.quadratic / scale)
        m = w.shape[2]
        matrix = (inverse @ self._products).unflatten(2, (m, m)) + torch.diag_embed(1 / w)
        reduced = solver(matrix)

        def solve(r: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:  # [B, S, N], [B, S, m] each
            m = reduced(self.rows(inverse * r) + p)
            return inverse * (r - self.back(m)), m

        return solve


class FewVariables(QuadraticProgram):
    """Few variables and any number of rows; Q [B, N, N]."""

    def __init__(self, rows: Tensor, quadratic: Tensor) -> None:
        super().__init__(rows)
        self.quadratic = quadratic

    def curve(self, y: Tensor) -> Tensor:  # [B, S, N] -> [B, S, N]
        return y @ self.quadratic

    def factor(self, d: Tensor, w: Tensor, scale: Tensor) -> Solve:  # [B, S, N], [B, S, m], [B, S, 1]
        weighted = self.a.transpose(1, 2).unsqueeze(1) * w.unsqueeze(2)  # [B, S, N, m]
        matrix = weighted @ self.a.unsqueeze(1) + torch.diag_embed(d) + self.quadratic.unsqueeze(1) / scale.unsqueeze(3)
        reduced = solver(matrix)

        def solve(r: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:  # [B, S, N], [B, S, m] each
            y = reduced(r - self.back(w * p))
            return y, w * (self.rows(y) + p)

        return solve


class _Iterate(NamedTuple):
    """Where the method stands, or a change of it; all but y stay positive. Each [B, S, N], the last two [B, S, m]."""

    y: Tensor
    low: Tensor  #: y + 1
    high: Tensor  #: 1 - y
    at_low: Tensor  #: multipliers of low >= 0
    at_high: Tensor  #: multipliers of high >= 0
    slack: Tensor  #: limits - A y
    multipliers: Tensor

    def products(self) -> Tensor:  # [B, S, 2 N + m]
        """What is zero at the optimum."""
        return torch.cat([self.at_low * self.low, self.at_high * self.high, self.multipliers * self.slack], 2)

    def along(self, change: _Iterate, length: Tensor) -> _Iterate:  # length [B, S, 1]
        return _Iterate(*(v + length * d for v, d in zip(self, change, strict=True)))

    def finite(self) -> Tensor:  # [B, S, 1]
        """Which of the programs have finite numbers only."""
        return sum((v.sum(2, keepdim=True) for v in self), torch.zeros(())).isfinite()

    def zero_unless(self, chosen: Tensor) -> _Iterate:  # chosen [B, S, 1]
        return _Iterate(*(torch.where(chosen, v, 0.0) for v in self))

    def longest(self, change: _Iterate, fraction: float) -> Tensor:  # [B, S, 1]
        """The longest step <= 1 that keeps all positive, times `fraction` where one of them ends it."""
        # the step ends where the fastest value, relative to itself, gets to zero
        speeds = [(d / v).amin(2, keepdim=True) for v, d in zip(self[1:], change[1:], strict=True) if v.shape[2]]
        fastest = torch.cat(speeds, 2).amin(2, keepdim=True)
        return torch.where(fastest < 0, -fraction / fastest, 1.0).clamp(max=1.0)


@torch.no_grad()
def minimise(
    program: QuadraticProgram, q: Tensor, limits: Tensor, steps: int = 40, precision: float = 1e-11
) -> tuple[Tensor, Tensor]:
    """Minimisers y [B, S, N] and multipliers [B, S, m] >= 0 of the rows, as far as `steps` get.

    Args:
        q: [B, S, N]. limits: [B, m].
        precision: of the complementarity and of both residuals, relative to the size of q and of the rows.
    """
    scale = q.abs().amax(2, keepdim=True)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    q, limits = q / scale, (limits / program.norms).unsqueeze(1)  # [B, S, N], [B, 1, m]
    one, slack = torch.ones_like(q), limits.clamp(min=1.0).expand(*q.shape[:2], -1)
    now = _Iterate(torch.zeros_like(q), one, one, one, one, slack, torch.ones_like(slack))
    y, multipliers, best = now.y, now.multipliers, torch.full_like(scale, torch.inf)
    for _ in range(steps):
        dual = program.curve(now.y) / scale - q - now.at_low + now.at_high + program.back(now.multipliers)
        primal = program.rows(now.y) + now.slack - limits
        gap = now.products().sum(2, keepdim=True)
        worst = torch.maximum(dual.abs().amax(2, keepdim=True), gap)
        if primal.shape[2]:
            worst = torch.maximum(worst, primal.abs().amax(2, keepdim=True))
        better = worst < best
        best = torch.minimum(best, worst)
        y, multipliers = torch.where(better, now.y, y), torch.where(better, now.multipliers, multipliers)
        running = best > precision
        if not running.any():
            break
        newton = _Newton(program, now, dual, primal, scale)
        towards = newton.change(torch.zeros_like(now.products()))
        after = now.along(towards, now.longest(towards, 1.0)).products().sum(2, keepdim=True)
        target = (after / gap).clamp(0, 1) ** 3 * gap / now.products().shape[2]
        change = newton.change(target - towards.products())
        good = running & change.finite()
        if not good.any():
            break
        if not good.all():
            change = change.zero_unless(good)
        now = now.along(change, now.longest(change, 0.995))
    return y.clamp(-1, 1), multipliers * scale / program.norms.unsqueeze(1)


class _Newton:
    """Newton's system of the optimality conditions at one iterate.

    Args:
        dual, primal: the residuals, [B, S, N] and [B, S, m]. scale: [B, S, 1].
    """

    def __init__(self, program: QuadraticProgram, now: _Iterate, dual: Tensor, primal: Tensor, scale: Tensor) -> None:
        self.program, self.now, self.dual, self.primal = program, now, dual, primal
        self.weight = now.multipliers / now.slack
        self.solve = program.factor(now.at_low / now.low + now.at_high / now.high, self.weight, scale)

    def change(self, products: Tensor) -> _Iterate:  # [B, S, 2 N + m]
        """The change that makes the residuals zero and the products these, to first order."""
        now, n = self.now, self.now.y.shape[2]
        at_low, at_high = products[..., :n] / now.low, products[..., n : 2 * n] / now.high
        at_slack = products[..., 2 * n :] / now.slack
        r = at_low - at_high - self.dual - now.at_low + now.at_high
        y, multipliers = self.solve(r, self.primal + (at_slack - now.multipliers) / self.weight)
        return _Iterate(
            y, y, -y,
            at_low - now.at_low - now.at_low / now.low * y,
            at_high - now.at_high + now.at_high / now.high * y,
            -self.primal - self.program.rows(y), multipliers,
        )  # fmt: skip


def solver(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """Solver of a symmetric positive semi-definite system [..., n, n]; gives NaN where the matrix has no root.

    The diagonal is scaled to 1, since its entries differ by many orders of magnitude, and then lifted by a rounding.
    """
    scale = torch.diagonal(matrix, dim1=-2, dim2=-1).rsqrt()
    scale = torch.where(scale.isfinite(), scale, torch.ones_like(scale))
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device) * 2.0**-50
    root, info = torch.linalg.cholesky_ex(matrix * scale.unsqueeze(-1) * scale.unsqueeze(-2) + unit)
    root = torch.where((info == 0)[..., None, None], root, torch.nan)
    return lambda r: scale * torch.cholesky_solve((scale * r).unsqueeze(-1), root).squeeze(-1)
