"""Where to split a case, and its two halves."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from verifier.branching.dual import Domains, Evaluation, Hulls, evaluate
from verifier.branching.matrices import Matrices

_LITTLE = 1e-6  # a gain that is not one


def kinks(net: Matrices, domains: Domains) -> Tensor:
    """The point inside each neuron's interval at which a split makes both halves simplest: [D, M], NaN for none.

    The innermost corner of a piecewise linear activation: zero for a ReLU.
    """
    found = torch.full_like(domains.lower, torch.nan)
    for block in net.blocks:
        if not block.op.piecewise_linear:
            continue
        lower, upper = domains.lower[:, block.part], domains.upper[:, block.part]
        x = block.op.pieces(lower, upper).x
        inside = (x > lower) & (x < upper)
        depth = torch.where(inside, torch.minimum(x - lower, upper - x), -1.0)
        at = depth.max(0)
        chosen = x.gather(0, at.indices.unsqueeze(0)).squeeze(0)
        found[:, block.part] = torch.where(at.values > 0, chosen, torch.nan)
    return found


def halves(domains: Domains, neuron: Tensor, at: Tensor) -> Domains:
    """Both halves of every case, the lower ones first: [2 D].

    Args:
        neuron: [D] int64, which neuron is split. at: [D], where.
    """
    one_hot = torch.zeros_like(domains.cut_below).scatter(1, neuron.unsqueeze(1), True)
    at = at.unsqueeze(1)
    below = replace(domains, upper=torch.where(one_hot, at, domains.upper), cut_above=domains.cut_above | one_hot)
    above = replace(domains, lower=torch.where(one_hot, at, domains.lower), cut_below=domains.cut_below | one_hot)
    return Domains.concatenate([below, above])


def choose(net: Matrices, domains: Domains, evaluation: Evaluation, candidates: int) -> tuple[Tensor, Tensor]:
    """The neuron of each case to split, and where: [D] int64 and [D]. NaN in the second where nothing can be split.

    Filtered smart branching (De Palma et al. 2021): the neurons whose relaxation costs most are tried, that is both
    halves are bounded with the case's own slopes, and the one from which both gain most is taken.
    """
    if net.free == 0:
        return torch.zeros_like(domains.row), torch.full_like(evaluation.bound, torch.nan)
    at = kinks(net, domains)
    cost = looseness(net, domains, evaluation)
    cost = torch.where(at.isnan(), -1.0, cost)
    top = cost.topk(min(candidates, cost.shape[1]), 1)
    count = top.indices.shape[1]
    many = domains.select(torch.arange(len(domains)).repeat_interleave(count))
    neuron = top.indices.flatten()
    place = at.repeat_interleave(count, 0).gather(1, neuron.unsqueeze(1)).squeeze(1)
    both = halves(many, neuron, place)
    value = evaluate(net, Hulls.of(net, both), both.row, both.alpha, both.gamma).bound
    low, high = value.view(2, len(domains), count)
    # the product of both gains, and no credit for what is more than enough to close a half
    enough = (-evaluation.bound).clamp(min=_LITTLE).unsqueeze(1)
    gains = [(v - evaluation.bound.unsqueeze(1)).clamp(min=_LITTLE).minimum(enough) for v in (low, high)]
    score = torch.where(top.values >= 0, gains[0] * gains[1], -torch.inf)
    pick = score.argmax(1, keepdim=True)
    neuron = top.indices.gather(1, pick).squeeze(1)
    return neuron, at.gather(1, neuron.unsqueeze(1)).squeeze(1)


def looseness(net: Matrices, domains: Domains, evaluation: Evaluation) -> Tensor:
    """How much each neuron's relaxation may cost its case: |nu-hat| times the height of the hull: [D, M]."""
    heights = []
    for block in net.blocks:
        lower, upper = domains.lower[:, block.part], domains.upper[:, block.part]
        p = block.op.pieces(lower, upper)
        width = upper - lower
        chord = torch.where(width > 0, (p.y[-1] - p.y[0]) / torch.where(width > 0, width, 1.0), 0.0)
        heights.append((p.y - p.y[0] - chord * (p.x - lower)).abs().amax(0))
    return evaluation.nu_hat.abs() * torch.cat(heights, 1)
