"""The support function of a Wasserstein ball at given multipliers: for searches that change a form step by step.

psi and the prices beta that are best for one form are good for forms nearby, and sound for all: to bound at given ones
costs one pass over the places that mass can go to, where to find them takes dozens. Multipliers are tensors
[B, S, 1 + C H W]: psi, then beta.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from properties.wasserstein.cut import MassWindow
from properties.wasserstein.moves import Moves
from properties.wasserstein.prices import total
from properties.wasserstein.support import PIECE, moved_image, multipliers


def found_multipliers(
    c: Tensor, x: Tensor, budget: Tensor, moves: Moves, cap: float | None, near: Tensor | None
) -> Tensor:
    """Multipliers of dense rows c [B or 1, S, C, H, W] over the balls around x [B, C, H, W] of budgets [B] (cost)."""
    with torch.no_grad():
        found = c.new_zeros(len(x), c.shape[1], 1 + x[0].numel())
        for b, rows, own in _parts(c, x):
            cut = MassWindow.of(own, x[b : b + 1], moves.reach)
            mass, inside = cut.take(x[b : b + 1]), cut.take(torch.ones_like(x[b : b + 1]))
            start = None
            if near is not None:
                start = near[b, rows, 0], cut.take(near[b, rows, 1:].unflatten(1, x.shape[1:]))
            ends = multipliers(cut.take(own), mass, inside, budget[b], moves, cap, start)
            found[b, rows, 0] = ends.psi
            if ends.beta is not None:
                found[b, rows, 1:] = cut.put(ends.beta, torch.zeros_like(own)).flatten(1)
        return found


def transported_at(
    c: Tensor, x: Tensor, budget: Tensor, moves: Moves, cap: float | None, multipliers: Tensor
) -> Tensor:
    """The bounds [B, S] that those multipliers give for dense rows c [B or 1, S, C, H, W]."""
    with torch.no_grad():
        out = c.new_zeros(len(x), c.shape[1])
        images = c.new_zeros(*out.shape, *x.shape[1:])
        for b, rows, own in _parts(c, x):
            cut = MassWindow.of(own, x[b : b + 1], moves.reach)
            mass, inside = cut.take(x[b : b + 1]), cut.take(torch.ones_like(x[b : b + 1]))
            net, at = cut.take(own), multipliers[b, rows].clamp(min=0)  # whatever they are
            psi, beta = at[:, 0], cut.take(at[:, 1:].unflatten(1, x.shape[1:])).masked_fill(net == 0, 0)
            net = net if cap is None else net - beta
            image, spent = moved_image(net, mass, inside, psi, moves)
            out[b, rows] = psi * (budget[b] - spent)
            if cap is not None:
                out[b, rows] += total(beta * (cap - image))
            images[b, rows] = cut.put(image, x[b])
    return out + (c * images).flatten(2).sum(2)


def _parts(c: Tensor, x: Tensor) -> Iterator[tuple[int, slice, Tensor]]:
    """An example, some of its rows, and those rows [r, C, H, W], as much as fits the cache."""
    step = max(1, PIECE // x[0].numel())
    for b in range(len(x)):
        for start in range(0, c.shape[1], step):
            rows = slice(start, start + step)
            yield b, rows, c[b if len(c) > 1 else 0, rows]
