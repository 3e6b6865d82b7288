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

from properties.wasserstein.cut import MassWindow
from properties.wasserstein.moves import Moves
from properties.wasserstein.prices import mixed, sums_by_cost

#: of the entropy, for images of mass 1. The thesis has 1000 on MNIST, which blurs: from there to 20,000 attacks on a
#: small MNIST network at eps = 0.3 got stronger, beyond it weaker (40 iterations no longer converge)
LAMBDA = 20000.0
#: the thesis found 30 to 40 enough
ITERATIONS = 40
#: lambda starts this much smaller and grows to its value: prices then come from afar in few iterations
START = 30.0
#: of a column's step in log v; 1 is the plain iteration
RELAXATION = 1.8
#: of Newton's method for a column, to about 1e-6: the next iteration corrects it
NEWTON = 3
#: pixels of the images that are worked on at once: few enough for a core's cache, and for torch to use no more cores
PIECE = 2**14
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
    ends = None if cap is None else cap / unit
    count = max(1, PIECE // x[0].numel())
    out = torch.empty_like(x)
    for part in (slice(k, k + count) for k in range(0, len(x), count)):
        cut = MassWindow.around(x[part], moves.reach)
        held = cut.take(x[part])
        plan = _iterated(
            cut.take(w[part]), cut.take(y[part]), sharp[part], (budget / unit)[part], moves,
            None if ends is None else ends[part],
        )  # fmt: skip
        plan = plan * unit[part].reshape(-1, 1, 1, 1, 1, 1)
        out[part] = cut.put(moves.arrivals(repaired(plan, held, budget[part], moves, cap)), x[part])
    return out


def _iterated(w: Tensor, y: Tensor, sharp: Tensor, eps: Tensor, moves: Moves, cap: Tensor | None) -> Tensor:
    """The plan [B, C, H, W, k, k] of y (mass 1) after the iterations."""
    costs = w.new_tensor([cost for cost, _ in moves.classes()]).unsqueeze(1)
    w, mass = (t.permute(1, 2, 3, 0).contiguous() for t in (w, y))  # sums over windows then run along memory
    log_v, psi = torch.zeros_like(w), torch.ones_like(eps) / START
    for step in range(ITERATIONS):
        growth = START ** (1 / (ITERATIONS - 1)) if step else 1.0
        log_v, psi = log_v * growth, psi * growth  # both are prices times lambda
        lam = sharp * START ** (step / (ITERATIONS - 1) - 1)
        kernel = torch.exp(-psi * costs)  # [classes, B]
        u = mass / mixed(sums_by_cost(log_v.exp(), moves, 1), kernel)
        # columns: lambda (z - w) + log z = log of what comes in at v = 1; z is the thesis's w - beta / lambda
        incoming = mixed(sums_by_cost(u, moves, -1), kernel).log_()
        z = lambert_of_exp(incoming + (lam.log() + lam * w), NEWTON) / lam
        if cap is not None:
            z = torch.minimum(z, cap)
        target = torch.where(z > 0, torch.log(z) - incoming, lam * w)
        log_v = log_v.add_(target.sub_(log_v), alpha=RELAXATION).clamp_(-EXPONENT, EXPONENT)
        sums = sums_by_cost(log_v.exp(), moves, 1)
        u = mass / mixed(sums, kernel)
        flow = kernel * torch.stack([(u * part).sum((0, 1, 2)) for part in sums])
        spent, curve = (flow * costs).sum(0), (flow * costs * costs).sum(0)
        newton = torch.log(spent / eps) * spent / curve
        psi = (psi + newton.nan_to_num(0.0, 0.0, 0.0)).clamp(min=0)
    v = log_v.permute(3, 0, 1, 2).exp()
    plan = torch.exp(-psi[:, None, None] * moves.cost)[:, None, None, None] * moves.neighbours(v)
    return plan * (y / plan.sum((-2, -1))).nan_to_num(0.0, 0.0, 0.0)[..., None, None]


def lambert_of_exp(t: Tensor, steps: int = 6) -> Tensor:  # [...] -> [...]
    """W(exp(t)), the w with w + log w = t, without computing exp(t); float64, to rounding after 6 steps."""
    low = torch.exp(t.clamp(max=1.0))
    w = torch.where(t > 1, t - torch.log(t.clamp(min=1.0)), low / (1 + low))
    for _ in range(steps):  # Newton on w + log w - t, in the form that keeps w > 0 relative accuracy
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
