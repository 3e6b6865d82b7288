"""Prices for room in capped pixels, by Sinkhorn iterations of the entropy-regularised dual, annealed.

The plans of mass x that end below a cap u, at the temperature T, are P_ij = a_i exp((c_j - beta_j - psi C_ij) / T):
rows are scaled to x, columns down to u where they are above it (beta_j rises) or back up to it (beta_j falls to 0), and
psi follows the budget, as in the thesis's Algorithm 8 and conjugate Sinkhorn iteration (Wong 2020, section 5.1.6).
Columns are over-relaxed. What comes out need not be optimal: any beta >= 0 gives a sound bound.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from properties.wasserstein.moves import Moves

#: iterations; on MNIST digits and the layers of a small network 20 leave 0.5 % to 50 % of the gain over no movement
#: too much, where without prices it was 4 % to 1000 %
ITERATIONS = 20
#: of those, how many are made from prices of rows nearby, where more of them forget what was known: after 4 the bounds
#: of small images were nearer to the maximum than after 20 from nothing
AGAIN = 4
#: temperatures at the start and at the end, as fractions of the range of a row's coefficients
HOT, COLD = 0.1, 0.015
#: of a column's step in log beta; 1 is the plain iteration
RELAXATION = 1.9


def prices(
    c: Tensor,
    mass: Tensor,
    valid: Tensor,
    budget: Tensor,
    moves: Moves,
    cap: float,
    psi: Tensor,
    near: Tensor | None = None,
) -> Tensor:
    """beta >= 0 for rows c [*rows, C, h, w], 0 where c is 0; finite.

    (So pixels outside the window, where c is 0, have the price 0, and whatever is there stays there.)

    Args:
        mass, valid: what the pixels hold and where there are any; broadcast with c.
        budget: broadcasts with [*rows]; cap: > 0.
        psi: [*rows], the price of cost without a cap: where to start.
        near: prices [*rows, C, h, w] of rows nearby, to start from: then hot iterations are left out.
    """
    shape = (*psi.shape, *c.shape[-3:])
    wide, held, inside = (_rows_last(t, shape) for t in (c, mass, valid))
    start = torch.zeros_like(wide) if near is None else _rows_last(near, shape)
    first = 0 if near is None else ITERATIONS - AGAIN
    beta = _prices(wide, held, inside, budget.expand_as(psi).flatten(), moves, cap, psi.flatten(), start, first)
    return beta.permute(3, 0, 1, 2).reshape(shape)


def _rows_last(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Values that broadcast to `shape` as [C, h, w, R or 1]: sums over windows then run along memory."""
    if values.shape[:-3].numel() > 1:
        values = values.expand(shape)
    return values.flatten(0, -4).permute(1, 2, 3, 0).contiguous()


def _prices(
    c: Tensor,
    mass: Tensor,
    valid: Tensor,
    budget: Tensor,
    moves: Moves,
    cap: float,
    psi: Tensor,
    beta: Tensor,
    first: int,
) -> Tensor:
    """The same from iteration `first`: c, beta [C, h, w, R]; mass, valid [C, h, w, R or 1]; budget, psi [R]."""
    least = torch.finfo(c.dtype).tiny
    spread = (c.amax((0, 1, 2)) - c.amin((0, 1, 2))).clamp(min=1e6 * least)
    costs = c.new_tensor([cost for cost, _ in moves.classes()]).unsqueeze(1)
    inside, priced = (valid > 0).to(c.dtype), (c != 0).to(c.dtype)
    for step in range(first, ITERATIONS):
        heat = spread * (HOT * (COLD / HOT) ** (step / (ITERATIONS - 1)))
        net = (c - beta).div_(heat)
        net = net.sub_(net.amax((0, 1, 2))).clamp_(min=-80.0)  # far from underflow in float32
        weight = net.exp_().mul_(inside)
        sums = sums_by_cost(weight, moves, 1)
        kernel = torch.exp(-(psi / heat) * costs)  # [classes, R]
        scale = mass / mixed(sums, kernel).clamp_(min=least)
        flow = kernel * torch.stack([(scale * part).sum((0, 1, 2)) for part in sums])
        spent, square = (flow * costs).sum(0), (flow * costs * costs).sum(0)
        psi = (psi + heat * torch.log(spent / budget) * spent / square).clamp(min=0).nan_to_num(0, 0, 0)
        kernel = torch.exp(-(psi / heat) * costs)
        scale = mass / mixed(sums, kernel).clamp_(min=least)
        column = mixed(sums_by_cost(scale, moves, -1), kernel).mul_(weight).mul_(1 / cap).clamp_(min=least)
        beta = beta.addcmul_(column.log_(), heat, value=RELAXATION).clamp_(min=0).mul_(priced)
    return beta.nan_to_num_(0, 0, 0)


def sums_by_cost(values: Tensor, moves: Moves, sign: int) -> list[Tensor]:  # [C, h, w, R]
    """For every class of cost, the sum of what each pixel finds at its offsets, or at their opposites (sign -1)."""
    r, (height, width) = moves.reach, values.shape[1:3]
    padded = F.pad(values, (0, 0, r, r, r, r))
    out = []
    for _, offsets in moves.classes():
        first, *others = (
            padded[:, r + sign * a : r + sign * a + height, r + sign * b : r + sign * b + width] for a, b in offsets
        )
        part = first if not others else first + others[0]
        for moved in others[1:]:
            part += moved
        out.append(part)
    return out


def mixed(sums: list[Tensor], kernel: Tensor) -> Tensor:
    """Sum of kernel[t] * sums[t]: [C, h, w, R]."""
    out = sums[0] * kernel[0]
    for part, factor in zip(sums[1:], kernel[1:], strict=True):
        out.addcmul_(part, factor)
    return out


def total(values: Tensor) -> Tensor:
    """Sum over the window: [*rows, C, h, w] -> [*rows]."""
    return values.flatten(-3).sum(-1)
