"""Projection onto Wasserstein balls by projected Sinkhorn iterations (Wong 2020, section 5.1, Algorithm 8).

In units of mass 1 and with local plans P_ij = a_i exp(-psi C_ij) b_j, block coordinate ascent on the dual of
min 1/2 |w - z|^2 + 1/lambda sum P log P over plans P of x that end in z and cost at most eps. Ours beside the thesis's:
columns end at a cap where there is one; lambda grows to its value and columns are over-relaxed, without which a large
lambda converges slowly; psi takes Newton steps on the logarithm of the cost (few, and never far off). What is returned
is made of the last plan, repaired to be a plan of exactly x within the budget and below the cap,
not w - beta / lambda, which is none before the iteration has converged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from properties.wasserstein.moves import Moves

#: of the entropy, for images of mass 1. The thesis has 1000 on MNIST, which blurs: from there to 20,000 attacks on a
#: small MNIST network at eps = 0.3 got stronger, beyond it weaker (40 iterations no longer converge)
LAMBDA = 20000.0
#: the thesis found 30 to 40 enough
ITERATIONS = 40
#: lambda starts this much smaller and grows to its value: prices then come from afar in few iterations
START = 30.0
#: of a column's step in log v; 1 is the plain iteration
RELAXATION = 1.8
#: largest exponent that an iterate may have
EXPONENT = 500.0


def projected(w: Tensor, x: Tensor, budget: Tensor, moves: Moves, cap: float | None, sharpness: float) -> Tensor:
    """Members of the balls around x [B, C, H, W] of budgets [B] (cost) near w, as they are after their plans.

    float64; nothing is promised about where in the ball: a member w is not returned exactly.

    Args:
        sharpness: lambda for mass 1; lowered where exponentials would overflow.
    """
    shape, mass = (-1, 1, 1, 1), x.flatten(1).sum(1)
    unit = torch.where(mass > 0, mass, 1.0)
    y, w = x / unit.reshape(shape), w / unit.reshape(shape)
    high, low = w.flatten(1).amax(1), w.flatten(1).amin(1)
    w = w - (0.5 * (high + low)).reshape(shape)  # all z weigh the same: a shift of w only adds a constant
    size = torch.maximum(0.5 * (high - low), y.flatten(1).amax(1)).clamp(min=1e-3)
    sharp = (EXPONENT / size).clamp(max=sharpness)
    plan = _iterated(w, y, sharp, budget / unit, moves, None if cap is None else cap / unit)
    return moves.arrivals(repaired(plan * unit.reshape(-1, 1, 1, 1, 1, 1), x, budget, moves, cap))


def _iterated(w: Tensor, y: Tensor, sharp: Tensor, eps: Tensor, moves: Moves, cap: Tensor | None) -> Tensor:
    """The plan [B, C, H, W, k, k] of y (mass 1) after the iterations."""
    wide, squares = (-1, 1, 1, 1), moves.cost.square()
    log_v, psi = torch.zeros_like(y), torch.ones_like(eps) / START
    for step in range(ITERATIONS):
        growth = START ** (1 / (ITERATIONS - 1)) if step else 1.0
        log_v, psi = log_v * growth, psi * growth  # both are prices times lambda
        lam = (sharp * START ** (step / (ITERATIONS - 1) - 1)).reshape(wide)
        v, kernel = log_v.exp(), _kernel(psi, moves)
        u = y / _sent(moves, v, kernel)
        # columns: lambda (z - w) + log z = log of what comes in at v = 1; z is the thesis's w - beta / lambda
        incoming = torch.log(_sent(moves, u, kernel.flip(1, 2)))
        z = lambert_of_exp(lam.log() + incoming + lam * w) / lam
        if cap is not None:
            z = torch.minimum(z, cap.reshape(wide))
        target = torch.where(z > 0, torch.log(z) - incoming, lam * w)
        log_v = (log_v + RELAXATION * (target - log_v)).clamp(-EXPONENT, EXPONENT)
        v = log_v.exp()
        u = y / _sent(moves, v, kernel)
        spent = (u * _sent(moves, v, kernel * moves.cost)).flatten(1).sum(1)
        curve = (u * _sent(moves, v, kernel * squares)).flatten(1).sum(1)
        newton = torch.log(spent / eps) * spent / curve
        psi = (psi + newton.nan_to_num(0.0, 0.0, 0.0)).clamp(min=0)
    plan = _kernel(psi, moves)[:, None, None, None] * moves.neighbours(log_v.exp())
    return plan * (y / plan.sum((-2, -1))).nan_to_num(0.0, 0.0, 0.0)[..., None, None]


def _kernel(psi: Tensor, moves: Moves) -> Tensor:  # [B] -> [B, k, k]
    return torch.exp(-psi[:, None, None] * moves.cost)


def _sent(moves: Moves, values: Tensor, kernel: Tensor) -> Tensor:  # [B, C, H, W], [B, k, k] -> [B, C, H, W]
    """Sum over each pixel's window of values times the kernel."""
    return torch.einsum("bchwij,bij->bchw", moves.neighbours(values), kernel)


def lambert_of_exp(t: Tensor) -> Tensor:
    """W(exp(t)), the w with w + log w = t, without computing exp(t); float64, to rounding."""
    big = t > 1
    w = torch.where(
        big, t - torch.log(t.clamp(min=1.0)), torch.exp(t.clamp(max=1.0)) / (1 + torch.exp(t.clamp(max=1.0)))
    )
    for _ in range(6):  # Newton on w + log w - t, in the form that keeps w > 0 relative accuracy
        w = torch.where(w > 0, w * (1 + t - torch.log(w)) / (1 + w), w)
    return w


def repaired(plan: Tensor, x: Tensor, budget: Tensor, moves: Moves, cap: float | None) -> Tensor:
    """A plan [B, C, H, W, k, k] of exactly x (to rounding), of a cost <= budget [B], that ends below the cap.

    What a pixel does not send it keeps; flows are scaled down where they leave a pixel with less than nothing, cost too
    much, or overfill a pixel. Where that does not end soon, all flows of the example shrink until nothing overflows.
    """
    r = moves.reach
    flow = plan.clone().clamp_(min=0)
    flow[..., r, r] = 0
    out = flow.sum((-2, -1))
    flow *= torch.where(out > x, x / out, 1.0)[..., None, None]
    cost = moves.spent(flow)
    flow *= torch.where(cost > budget, (1 - 2.0**-40) * budget / cost, 1.0).reshape(-1, 1, 1, 1, 1, 1)
    if cap is not None:
        flow = _below(flow, x, moves, cap)
    flow[..., r, r] = (x - flow.sum((-2, -1))).clamp(min=0)
    return flow


def _below(flow: Tensor, x: Tensor, moves: Moves, cap: float) -> Tensor:
    """Flows [B, C, H, W, k, k] (none to oneself) scaled down, destination by destination, until none overflows."""
    tolerance = 2.0**-40 * cap
    for _ in range(60):
        came, went = moves.arrivals(flow), flow.sum((-2, -1))
        room = (cap - x + went).clamp(min=0)
        if not (came > room + tolerance).any():
            break
        flow = flow * moves.neighbours(torch.where(came > room, room / came, 1.0))
    # less and less comes, so less and less goes: what is still too much after that is shrunk together with the rest
    came, went = moves.arrivals(flow), flow.sum((-2, -1))
    over = came - went > cap - x + tolerance
    share = torch.where(over, (cap - x) / (came - went), 1.0).clamp(min=0).flatten(1).amin(1)
    return flow * share.reshape(-1, 1, 1, 1, 1, 1)
