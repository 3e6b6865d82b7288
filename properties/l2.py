"""l2 balls, each optionally clipped to the valid range of inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from properties.input_set import Functional, Local
from properties.lp_ball import Ball

#: steps of the search for a multiplier at most: each but the last finds entries that the valid range stops
STEPS = 16


class L2Ball(Ball):
    """{z : ||z - x||_2 <= eps}, intersected with the valid range `clip` = (low, high) where given.

    Without a valid range, c . x + eps ||c||_2 is the support function (Wong et al. 2018, section 3.1). With one, it is
    the minimum over one multiplier lambda >= 0 of the ball's constraint of

        c . x + lambda / 2 eps^2 + sum over i of max over d_i in the range of (c_i d_i - lambda / 2 d_i^2),

    a bound at every lambda. The maxima are at d = clamp(c / lambda); the search raises 1 / lambda until ||d||_2 = eps.

    Arguments as of `Ball`.
    """

    threat = "l2"
    power = 2

    def support(self, form: Functional) -> Tensor:
        center, radius = self.center_and_radius(form.dtype)
        if self.clip is None:
            return form.dot(center) + radius.unsqueeze(1) * form.norm(2)
        return self._clipped(form, form.local())

    def support_where(self, form: Functional, rows: Tensor) -> Tensor:
        return self.support(form) if self.clip is None else self._clipped(form, form.local().only(rows))

    def _clipped(self, form: Functional, local: Local) -> Tensor:
        center, radius = self.center_and_radius(form.dtype)
        c, low, high = local.entries(*self.reach(center))
        return form.dot(center) + local.rows(largest_gain(c, low, high, local.per_example(radius)))

    def range(self, form: Functional, half: Functional | None = None) -> tuple[Tensor, Tensor]:
        if self.clip is not None:
            return super().range(form, half)
        center, radius = self.center_and_radius(form.dtype)
        value, radius = form.dot(center), radius.unsqueeze(1)
        if half is None:
            reach = radius * form.norm(2)
            return value - reach, value + reach
        spread = half.dot(center)
        low, high = form.envelope_norm(half, 2)
        return value - spread - radius * low, value + spread + radius * high

    def length(self, difference: Tensor) -> Tensor:
        return torch.linalg.vector_norm(difference.flatten(1), dim=1)

    def project(self, x: Tensor) -> Tensor:
        center = self.nominal.to(x.dtype)
        moved = (x - center).flatten(1)
        low, high = (t.flatten(1) for t in self.reach(center))
        share = _scale(moved, low, high, self.eps.to(x.dtype)).clamp(max=1.0).unsqueeze(1)
        return center + torch.minimum(torch.maximum(moved * share, low), high).view_as(x)

    def steepest_ascent(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        length = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        size = torch.where(length > 0, step * self.eps.to(gradient.dtype) / length, 0.0)
        return self.per_entry(size) * gradient


def largest_gain(c: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
    """Bounds [*lead] of c . d over low <= d <= high and ||d||_2 <= eps; low <= 0 <= high.

    Args:
        c: [*lead, K], low and high likewise (or broadcast); eps: broadcasts with [*lead].
    """
    with torch.no_grad():
        scale = _scale(c, low, high, eps)  # 1 / lambda
        d = _clamped(c, scale, low, high)
        multiplier = torch.where(scale > 0, 1 / scale, 0.0)  # scale 0: the radius is zero, and so is d
        slack = 0.5 * multiplier * (eps.square() - d.square().sum(-1))
    return (c * d).sum(-1) + slack


def _scale(c: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
    """The t in [0, infinity] at which clamp(t c) has the length eps, or as close below as the search comes: [*lead]."""
    with torch.no_grad():
        scale = (eps / torch.linalg.vector_norm(c, dim=-1)).nan_to_num(nan=0.0)
        for _ in range(STEPS):
            d = _clamped(c, scale, low, high)
            free = (d > low) & (d < high)
            left = eps.square() - torch.where(free, 0.0, d).square().sum(-1)
            better = (left.clamp(min=0) / torch.where(free, c, 0.0).square().sum(-1)).sqrt()
            better = torch.maximum(scale, better.nan_to_num(nan=0.0, posinf=torch.inf))
            if not (better > scale).any():
                break
            scale = better
    return scale


def _clamped(c: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    moved = torch.where(c == 0, 0.0, c * scale.unsqueeze(-1))
    return torch.minimum(torch.maximum(moved, low), high)
