"""l2 balls, each optionally clipped to the valid range of inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from properties.input_set import register
from properties.lp_ball import Ball

#: steps of the search for a multiplier at most: each but the last finds entries that the valid range stops
STEPS = 16


@register
class L2Ball(Ball):
    """{z : ||z - x||_2 <= eps}, intersected with the valid range `clip` = (low, high) where given.

    Without a valid range, c . x + eps ||c||_2 is the support function (Wong et al. 2018, section 3.1). With one, it is
    the minimum over one multiplier lambda >= 0 of the ball's constraint of

        c . x + lambda / 2 eps^2 + sum over i of max over d_i in the range of (c_i d_i - lambda / 2 d_i^2),

    a bound at every lambda. The maxima are at d = clamp(c / lambda); the search raises 1 / lambda until ||d||_2 = eps.

    Arguments as of `Ball`.
    """

    threat = "l2"
    symmetric = True
    nested = True
    power = 2
    dual = 2

    @staticmethod
    def largest_gain(c: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:  # [*lead, K], eps [*lead] -> [*lead]
        with torch.no_grad():
            # in a ball of radius 1, with coefficients of at most 1: squares neither over- nor underflow there
            size = c.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(c.dtype).tiny)
            unit, (below, above) = c / size, _in_radii(low, high, eps)
            scale = _scale(unit, below, above)  # 1 / lambda
            d = _clamped(unit, scale, below, above)
            slack = 0.5 / scale * (1 - d.square().sum(-1))
            # what products of small entries lose: each d is at most 1
            lost = c.shape[-1] * torch.finfo(c.dtype).tiny
            slack = size.squeeze(-1) * (slack + lost)
        return torch.where(eps > 0, eps, 0.0) * ((c * d).sum(-1) + slack)

    def length(self, difference: Tensor) -> Tensor:  # [B, *input] -> [B]
        return torch.linalg.vector_norm(difference.flatten(1), dim=1)

    def project(self, x: Tensor) -> Tensor:  # [B, *input]
        center, eps = self.nominal.to(x.dtype), self.eps.to(x.dtype)
        moved = (x - center).flatten(1)
        low, high = (t.flatten(1) for t in self.reach(center))
        share = (eps * _scale(moved, *_in_radii(low, high, eps))).nan_to_num(nan=0.0).clamp(max=1.0)
        return center + torch.minimum(torch.maximum(moved * share.unsqueeze(1), low), high).view_as(x)

    def steepest_ascent(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:  # [B, *input] each
        length = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        size = torch.where(length > 0, step * self.eps.to(gradient.dtype) / length, 0.0)
        return self.per_entry(size) * gradient


def _in_radii(low: Tensor, high: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Ends in units of the radius, no further than the ball itself goes: [*lead, K]."""
    radius = eps.unsqueeze(-1)
    below, above = (torch.where(end == 0, 0.0, end / radius) for end in (low, high))
    return below.clamp(min=-1), above.clamp(max=1)


def _scale(c: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The t > 0 (or infinity) at which clamp(t c) has length 1, or as close below as the search comes: [*lead]."""
    with torch.no_grad():
        scale = 1 / torch.linalg.vector_norm(c, dim=-1)
        for _ in range(STEPS):
            d = _clamped(c, scale, low, high)
            free = (d > low) & (d < high)
            left = 1 - torch.where(free, 0.0, d).square().sum(-1)
            better = (left.clamp(min=0) / torch.where(free, c, 0.0).square().sum(-1)).sqrt()
            better = torch.maximum(scale, better.nan_to_num(nan=0.0, posinf=torch.inf))
            if not (better > scale).any():
                break
            scale = better
    return scale


def _clamped(c: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:  # [*lead, K], scale [*lead] -> [*lead, K]
    moved = torch.where(c == 0, 0.0, c * scale.unsqueeze(-1))
    return torch.minimum(torch.maximum(moved, low), high)
