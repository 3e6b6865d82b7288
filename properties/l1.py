"""l1 balls, each optionally clipped to the valid range of inputs."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from properties.input_set import register
from properties.lifted import Lifted, one_example, sparse
from properties.lp_ball import Ball

#: steps of the search for a multiplier; the bound holds wherever it ends
STEPS = 12
#: how many entries one step of an attack may change (Wong 2020, section 5.3.4: k1 and k2)
FEWEST, MOST = 5, 20


@register
class L1Ball(Ball):
    """{z : ||z - x||_1 <= eps}, intersected with the valid range `clip` = (low, high) where given.

    Without a valid range, c . x + eps max |c_i| is the support function. With one, it is the minimum over one
    multiplier lambda >= 0 of the ball's constraint of

        c . x + lambda eps + sum over i of max(0, |c_i| - lambda) r_i,

    a bound at every lambda; r_i is how far entry i may go in the direction of c_i.

    Arguments as of `Ball`.
    """

    threat = "l1"
    symmetric = True
    nested = True
    power = 1
    dual = math.inf

    def lifted(self) -> Lifted:
        """Columns: how far entries go up, then how far others go down; together no further than the radius."""
        one_example(self)
        center, eps = self.nominal[0].cpu().numpy().ravel(), float(self.eps[0])
        down, up = (t[0].cpu().numpy().ravel() for t in self.reach(self.nominal))
        rises, falls = np.flatnonzero(up > 0), np.flatnonzero(down < 0)
        n = len(rises) + len(falls)
        sign = np.concatenate([np.ones(len(rises)), -np.ones(len(falls))])
        return Lifted(
            np.zeros(n),
            np.concatenate([up[rises], -down[falls]]),
            sparse(sign, np.concatenate([rises, falls]), np.arange(n), (len(center), n)),
            center,
            sparse(1.0, np.zeros(n), np.arange(n), (1, n)),
            np.full(1, -np.inf),
            np.full(1, eps),
            np.zeros(n),
            np.zeros(len(center)),
        )

    @staticmethod
    def largest_gain(c: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:  # [*lead, K], eps [*lead] -> [*lead]
        with torch.no_grad():
            size, most = c.abs(), torch.where(c > 0, high, -low)
            multiplier = _snapped(_multiplier(size, most, eps), size)
            level = multiplier.unsqueeze(-1)
            d = torch.where(size > level, most, 0.0)
            # entries of exactly that size share what is left: at a multiplier of least bound nothing is left after them
            tied = torch.where(size == level, most, 0.0)
            share = ((eps - d.sum(-1)) / tied.sum(-1)).nan_to_num(nan=0.0).clamp(0, 1)
            d = d + share.unsqueeze(-1) * tied
            slack = multiplier * (eps - d.sum(-1))
        return (c.abs() * d).sum(-1) + slack

    def length(self, difference: Tensor) -> Tensor:  # [B, *input] -> [B]
        return difference.flatten(1).abs().sum(1)

    def project(self, x: Tensor) -> Tensor:  # [B, *input]
        center = self.nominal.to(x.dtype)
        moved = (x - center).flatten(1)
        low, high = (t.flatten(1) for t in self.reach(center))
        size, most = moved.abs(), torch.where(moved > 0, high, -low)
        threshold = _threshold(size, most, self.eps.to(x.dtype)).unsqueeze(1)
        kept = torch.minimum((size - threshold).clamp(min=0), most)
        return center + (moved.sign() * kept).view_as(x)

    def steepest_ascent(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:  # [B, *input] each
        # The single best entry would be the steepest step; a few of them at once find more (Tramer & Boneh 2019). How
        # many is drawn anew at each step in the thesis; here the place of the largest entry decides, so that a step is
        # a function of its arguments. They share its length by their gradients, so that the best one wins in the end.
        # Entries at the end of the valid range are left out.
        low, high = (-math.inf, math.inf) if self.clip is None else self.clip
        g, at = gradient.flatten(1), x.flatten(1)
        size = torch.where(torch.where(g > 0, at < high, at > low), g.abs(), 0.0)
        value, index = size.topk(min(MOST, size.shape[1]), 1)
        count = FEWEST + index[:, :1] % (MOST - FEWEST + 1)
        value = torch.where(torch.arange(value.shape[1], device=x.device) < count, value, 0.0)
        share = (value / value.sum(1, keepdim=True)).nan_to_num(nan=0.0)
        update = torch.zeros_like(g).scatter(1, index, share * step * self.eps.to(x.dtype).unsqueeze(1))
        return (g.sign() * update).view_as(x)


def _multiplier(size: Tensor, most: Tensor, eps: Tensor) -> Tensor:
    """A lambda >= 0 near the minimum of lambda eps + sum of max(0, size - lambda) most: [*lead].

    The function is convex with one corner per entry. Tangents at both ends of a bracket meet nearer to the minimum;
    each step replaces one end by that point, and ends after finitely many at the corner itself.
    """
    a = torch.zeros_like(size[..., 0])
    b = torch.where(most > 0, size, 0.0).amax(-1)  # beyond this the slope is eps >= 0
    a_value, a_slope = _value_and_slope(a, size, most, eps)
    b_value, b_slope = _value_and_slope(b, size, most, eps)
    best, lowest = torch.where(b_value < a_value, b, a), torch.minimum(a_value, b_value)
    for _ in range(STEPS):
        at = ((b_value - b_slope * b - a_value + a_slope * a) / (a_slope - b_slope)).nan_to_num(nan=0.0)
        at = torch.minimum(torch.maximum(at, a), b)
        if ((at == a) | (at == b)).all():
            break
        value, slope = _value_and_slope(at, size, most, eps)
        best, lowest = torch.where(value < lowest, at, best), torch.minimum(lowest, value)
        left = slope < 0
        a, a_value, a_slope = (torch.where(left, n, o) for n, o in ((at, a), (value, a_value), (slope, a_slope)))
        b, b_value, b_slope = (torch.where(left, o, n) for n, o in ((at, b), (value, b_value), (slope, b_slope)))
    return best


def _snapped(multiplier: Tensor, size: Tensor) -> Tensor:  # [*lead], [*lead, K] -> [*lead]
    """The multiplier, moved to the nearest size where that is a rounding away: the minimum is at one of them."""
    apart = (size - multiplier.unsqueeze(-1)).abs()
    nearest = size.expand_as(apart).gather(-1, apart.argmin(-1, keepdim=True)).squeeze(-1)
    return torch.where((nearest - multiplier).abs() <= 1e-6 * multiplier, nearest, multiplier)


def _value_and_slope(at: Tensor, size: Tensor, most: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """The bound at a multiplier, and its slope there, each [*lead]; at and eps [*lead], size and most [*lead, K]."""
    over = (size - at.unsqueeze(-1)).clamp(min=0)
    value = at * eps + torch.where(over > 0, over * most, 0.0).sum(-1)
    return value, eps - torch.where(over > 0, most, 0.0).sum(-1)


def _threshold(size: Tensor, most: Tensor, eps: Tensor) -> Tensor:
    """The least t >= 0 with sum of clamp(size - t, 0, most) <= eps: [B]; size and most [B, n], eps [B].

    The sum falls with t along straight lines between the corners, at the sizes and `most` below them.
    """
    corners = torch.cat([(size - most).clamp(min=0), size, torch.zeros_like(size[:, :1])], 1).sort(1).values
    low, high = (
        torch.zeros_like(size[:, 0], dtype=torch.int64),
        torch.full_like(size[:, 0], corners.shape[1] - 1).long(),
    )

    def total(t: Tensor) -> Tensor:  # [B] -> [B]
        return torch.minimum((size - t.unsqueeze(1)).clamp(min=0), most).sum(1)

    # total at corner `low` > eps >= total at corner `high`, or low = 0; as many halves as there are, nobody is asked
    for _ in range((corners.shape[1] - 1).bit_length()):
        middle = (low + high) // 2
        fits = total(corners.gather(1, middle.unsqueeze(1)).squeeze(1)) <= eps
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    start, end = (corners.gather(1, i.unsqueeze(1)).squeeze(1) for i in (low, high))
    above, below = total(start), total(end)
    share = ((above - eps) / (above - below)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(0, 1)
    return torch.where(above <= eps, start, start + share * (end - start))
