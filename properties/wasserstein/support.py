"""The support function of a Wasserstein ball, by the dual of the transport problem (no interval bounds needed).

The most that c . z can be when the mass x moves at a cost of at most E is, by duality, the least over psi >= 0 of

    psi E + sum over i of x_i max over j (c_j - psi C_ij),    j among the pixels that i can send to, C_ii = 0.

Any psi gives an upper bound; the function of psi is convex and piecewise linear, and its minimum is the maximum of
c . z. A cap z <= u on pixels adds prices beta >= 0: u times the sum of beta, and c - beta in place of c.

Rows are worked on in pieces that fit the cache. The value is that of the dual function wherever the search for psi and
beta ended, and is found without gradients; its gradient in c is the image made by the plans of both ends of the search,
mixed so that they spend E: a maximiser of c . z, in the limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from properties.input_set import Local
from properties.wasserstein.cut import MassWindow
from properties.wasserstein.moves import Moves
from properties.wasserstein.prices import prices, total

#: entries of one piece's windows
PIECE = 2**17
#: evaluations of a search for psi, at most
EVALUATIONS = 24


def transported(local: Local, x: Tensor, budget: Tensor, moves: Moves, cap: float | None = None) -> Tensor:
    """Upper bound of max c . z over the plans of x [B, C, H, W] that cost at most budget [B]: [*lead].

    Without a cap it is that maximum, up to the end of the search; with one it is above it by what the prices found are
    short of the best. `local` needs a margin of `moves.reach`: a pixel further away than that from every coefficient
    adds nothing.
    """
    coefficients, lead = local.coefficients, local.lead
    gathered = local.gather(x), local.gather(x.new_ones(1, *x.shape[1:]))
    mass, valid, budget = (t if lead > 1 else t.unsqueeze(0) for t in (*gathered, local.per_example(budget)))
    rows_of = coefficients if lead > 1 else coefficients.unsqueeze(0)
    lead = max(lead, 2)
    shape = _joint(rows_of.shape[:lead], mass.shape[:lead])
    window = rows_of.shape[lead:]
    with torch.no_grad():
        out = rows_of.new_zeros(shape)  # a window without mass adds nothing
        images = rows_of.new_zeros(*shape, *window) if rows_of.requires_grad else None
        for b, rows in pieces(mass.expand(-1, shape[1], *mass.shape[2:]), shape, window.numel()):
            m, most = _part(mass, b, rows), _part(budget, b, rows)
            whole = m
            c, inside = _part(rows_of, b, rows), _part(valid, b, rows)
            cut = MassWindow.of(c, m, moves.reach)
            c, m, inside = cut.take(c), cut.take(m), cut.take(inside)
            found = multipliers(c, m, inside, most, moves, cap)
            out[b, rows] = found.value
            if images is not None:
                images[b, rows] = cut.put(maximiser(c, m, inside, most, moves, found), whole)
    if images is not None:
        reached = (rows_of * images).flatten(lead).sum(-1)
        out = out + (reached - reached.detach())
    return out if local.lead > 1 else out.squeeze(0)


def pieces(mass: Tensor, shape: torch.Size, window: int) -> Iterator[tuple[int, Tensor]]:
    """An example and some of its rows (entries of the second leading dimension) at a time: those with any mass.

    Args:
        mass: [B or 1, rows, ...]
        shape: of the leading dimensions of the result.
        window: entries of one window.
    """
    step = max(1, PIECE // (window * shape[2:].numel()))
    counts = (mass > 0).flatten(2).sum(2).expand(shape[0], -1)
    for b in range(shape[0]):
        order = counts[b].argsort(descending=True)  # rows with about as much mass go together
        yield from ((b, rows) for rows in order[: int((counts[b] > 0).sum())].split(step) if len(rows))


def _joint(a: Sequence[int], b: Sequence[int]) -> torch.Size:
    """What two shapes of one length broadcast to (torch.broadcast_shapes takes seconds to import what it needs)."""
    return torch.Size(n if m == 1 else m for m, n in zip(a, b, strict=True))


def _part(values: Tensor, b: int, rows: Tensor) -> Tensor:  # [B or 1, R or 1, ...], [r] -> [r or 1, ...]
    """values[b, rows], where leading dimensions of size 1 are broadcast."""
    own = values[b if len(values) > 1 else 0]
    return own[rows] if len(own) > 1 else own


@dataclass(frozen=True)
class SupportBounds:
    """Where a search ended: bound, psi and its bracket [*rows], prices [*rows, C, h, w] (None: all 0)."""

    value: Tensor
    low: Tensor
    high: Tensor
    psi: Tensor  #: where the value is that of the dual function
    beta: Tensor | None = None


def multipliers(
    c: Tensor,
    mass: Tensor,
    valid: Tensor,
    budget: Tensor,
    moves: Moves,
    cap: float | None,
    near: tuple[Tensor, Tensor] | None = None,
) -> SupportBounds:
    """The bound of rows c [*rows, C, h, w], with prices of full pixels where those help.

    Args:
        mass, valid: what the pixels hold and where there are any; broadcast with c.
        budget: broadcasts with [*rows].
        near: psi [*rows] and prices, shaped as c, of rows nearby.
    """
    free = search(Gains.of(c, mass, valid, moves), budget)
    if cap is None or not (budget > 0).any():
        return free
    beta = prices(
        c, mass, valid, budget, moves, cap, free.high if near is None else near[0], None if near is None else near[1]
    )
    priced = search(Gains.of(c - beta, mass, valid, moves), budget)
    value = priced.value + cap * total(beta)
    better = value < free.value
    pairs = ((priced.low, free.low), (priced.high, free.high), (priced.psi, free.psi))
    low, high, psi = (torch.where(better, a, b) for a, b in pairs)
    beta = torch.where(better[..., None, None, None], beta, 0.0)
    return SupportBounds(torch.minimum(value, free.value), low, high, psi, beta)


def maximiser(c: Tensor, mass: Tensor, valid: Tensor, budget: Tensor, moves: Moves, found: SupportBounds) -> Tensor:
    """Images [*rows, C, h, w] whose plans spend at most about the budget, with c . z near the bound found."""
    net = c if found.beta is None else c - found.beta
    (more, spent), (less, saved) = (moved_image(net, mass, valid, psi, moves) for psi in (found.low, found.high))
    share = torch.where(spent > budget, (budget - saved) / (spent - saved), 1.0).nan_to_num(0.0).clamp(0, 1)
    return torch.lerp(less, more, share[..., None, None, None])


@dataclass(frozen=True)
class Gains:
    """What a unit of mass gains by moving: rows [*rows], sources [*rows, N] (as far as there is mass in them)."""

    still: Tensor  # [*rows] value when nothing moves at a cost
    mass: Tensor  # [*rows or ones, N]
    costs: list[float]  #: ascending, > 0
    gains: list[Tensor]  # [*rows, N] each: the largest gain at that cost

    @classmethod
    def of(cls, c: Tensor, mass: Tensor, valid: Tensor, moves: Moves) -> Gains:
        """Of coefficients c [*rows, C, h, w], mass and valid (0: no such pixel) that broadcast with them."""
        open_to = torch.where(valid > 0, c, -torch.inf)
        mass, order = sources(mass.flatten(-3))
        empty = mass == 0  # may be no pixel at all

        def taken(at: list[tuple[int, int]]) -> Tensor:  # [*rows, N]
            values = moves.largest(open_to, at, -torch.inf).flatten(-3)
            shape = _joint(values.shape[:-1], order.shape[:-1])
            values = values.expand(*shape, values.shape[-1])
            return values.gather(-1, order.expand(*shape, order.shape[-1])).masked_fill_(empty, 0)

        (_, free), *others = moves.classes()
        start = taken(free)
        gains = [taken(at).sub_(start) for _, at in others]
        return cls(weighted(start, mass), mass, [cost for cost, _ in others], gains)

    def value(self, psi: Tensor, budget: Tensor) -> tuple[Tensor, Tensor]:
        """The dual function at psi [*rows], and its slope there."""
        wide = psi.unsqueeze(-1)
        best = self.mass.new_zeros(*self.still.shape, self.mass.shape[-1])
        cost = torch.zeros_like(best)
        for price, gain in zip(self.costs, self.gains, strict=True):
            net = torch.sub(gain, wide, alpha=price)
            better = (net - best).sign_().clamp_(min=0)  # 1 or 0: many times faster than masks
            cost.lerp_(cost.new_tensor(price), better)
            torch.maximum(best, net, out=best)
        return self.still + psi * budget + weighted(best, self.mass), budget - weighted(cost, self.mass)

    def steepest(self) -> Tensor:
        """The least psi at which nothing moves at a cost, [*rows]."""
        steepest = torch.zeros_like(self.still)
        for price, gain in zip(self.costs, self.gains, strict=True):
            steepest = torch.maximum(steepest, gain.amax(-1) / price)
        return steepest


def sources(mass: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of mass [..., K] that are > 0, moved to the front and cut off behind: [..., N], and their places."""
    count = max(1, int((mass > 0).sum(-1).max()))
    order = (mass <= 0).to(torch.uint8).argsort(stable=True, dim=-1)[..., :count]
    return mass.gather(-1, order), order


def weighted(values: Tensor, mass: Tensor) -> Tensor:  # [..., K] each -> [...]
    """Sum of values * mass over the last dimension."""
    return torch.linalg.vecdot(values, mass)


def search(gains: Gains, budget: Tensor) -> SupportBounds:  # budget broadcasts with [*rows]
    """The least of the dual function over psi, or near it.

    The tangents at both ends of the bracket meet below the minimum: there it is looked for, which ends at the very
    minimum once no kink but one is between the ends. Now and then the bracket is halved instead.
    """
    low = torch.zeros_like(gains.still)
    below, falls = gains.value(low, budget)
    high = gains.steepest()
    above, rises = gains.still + high * budget, budget.expand_as(high)
    best, psi = torch.minimum(above, below), torch.where(above < below, high, low)
    for step in range(EVALUATIONS):
        meet = ((above - below) + falls * low - rises * high) / (falls - rises)
        meet = torch.where(falls < 0, torch.minimum(torch.maximum(meet, low), high), low).nan_to_num()
        gap = best - (below + falls * (meet - low))
        if not (gap > torch.finfo(best.dtype).eps ** 0.5 * (best - gains.still)).any():
            break
        at = 0.5 * (low + high) if step % 4 == 3 else meet
        value, slope = gains.value(at, budget)
        best, psi = torch.minimum(value, best), torch.where(value < best, at, psi)
        left = slope < 0
        low, below, falls = (torch.where(left, a, b) for a, b in ((at, low), (value, below), (slope, falls)))
        high, above, rises = (torch.where(left, b, a) for a, b in ((at, high), (value, above), (slope, rises)))
    return SupportBounds(best, low, high, psi)


def moved_image(c: Tensor, mass: Tensor, valid: Tensor, psi: Tensor, moves: Moves) -> tuple[Tensor, Tensor]:
    """All mass moved to where it gains most at the price psi [*rows]: images [*rows, C, h, w], their costs [*rows]."""
    open_to = torch.where(valid > 0, c, -torch.inf)
    best, choice, wide = open_to.clone(), torch.zeros_like(open_to, dtype=torch.int16), psi[..., None, None, None]
    offsets = [(cost, at) for cost, group in moves.classes() for at in group if at != (0, 0)]
    for number, (cost, at) in enumerate(offsets, 1):
        net = torch.sub(moves.largest(open_to, [at], -torch.inf), wide, alpha=cost)
        choice.masked_fill_(net > best, number)
        best = torch.maximum(best, net)
    best = best.expand(_joint(best.shape, mass.shape))
    image = torch.where(choice == 0, mass, 0.0).expand_as(best).clone()
    spent = torch.zeros_like(psi)
    for number, (cost, (down, right)) in enumerate(offsets, 1):
        sent = torch.where(choice == number, mass, 0.0).expand_as(best)
        image += moves.largest(sent, [(-down, -right)], 0.0)
        spent += cost * total(sent)
    return image, spent
