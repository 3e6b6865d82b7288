"""Which neuron of a subdomain to split, and where."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.branching.dual import BackwardPass, ForwardPass, SubdomainDual
from verifier.branching.subdomains import Subdomains, signed
from verifier.relaxation.families import RelaxationFamily

_LITTLE = 1e-6  # a gain that is not one
_OTHER_HALF = 0.05  # how much the larger of two estimated gains counts beside the smaller


@dataclass(frozen=True)
class Halved:
    """The lines over both halves of every free neuron's whole interval, for estimates; [1, M] and [1, m]."""

    at: Tensor  # [1, M]: where the neurons are divided, NaN where they cannot be
    below: list[RelaxationFamily]
    above: list[RelaxationFamily]

    @classmethod
    def of(cls, dual: SubdomainDual) -> Halved:
        places, below, above = [dual.net.bias[:0].unsqueeze(0)], [], []
        for block in dual.net.blocks:
            lower, upper = (t[block.part].unsqueeze(0) for t in dual.ends)
            at = block.op.split_at(lower, upper)
            middle = torch.where(at.isnan(), upper, at)
            below.append(RelaxationFamily.inner(block.op, lower, middle).lean())
            above.append(RelaxationFamily.inner(block.op, torch.where(at.isnan(), lower, at), upper).lean())
            places.append(at)
        return cls(torch.cat(places, 1), below, above)


def places(dual: SubdomainDual, halved: Halved, subdomains: Subdomains) -> Tensor:
    """Where each neuron of each subdomain can be split: [D, M], NaN where it cannot."""
    found = halved.at.repeat(len(subdomains), 1)
    if dual.net.free == 0:
        return found
    lines = dual.relaxation(subdomains)
    at, lower, upper = torch.full_like(lines.lower, torch.nan), lines.lower, lines.upper
    for block in dual.net.blocks:
        mine = (subdomains.neuron >= block.part.start) & (subdomains.neuron < block.part.stop)
        if bool(mine.any()):
            at = torch.where(mine, block.op.split_at(lower, upper), at)
    return found.scatter_(1, subdomains.neuron, at.to(found))


def estimated_gains(
    dual: SubdomainDual, halved: Halved, backward: BackwardPass, primal: ForwardPass, slope: Tensor
) -> tuple[Tensor, Tensor]:  # [D, M] each
    """What the bound would gain if one neuron had the lines of its lower, or of its upper, half.

    To first order in the multipliers, at the point where the bound is attained. The dual is concave, so that these are
    never less than what the lines alone bring.
    """
    below, above = torch.empty_like(primal.z), torch.empty_like(primal.z)
    for block, low, up in zip(dual.net.blocks, halved.below, halved.above, strict=True):
        nu_hat, z, y, t = (v[:, block.part] for v in (backward.nu_hat, primal.z, primal.y, slope))
        positive = nu_hat >= 0
        below[:, block.part] = nu_hat * (low.value(positive, z, t) - y)
        above[:, block.part] = nu_hat * (up.value(positive, z, t) - y)
    return below, above


def choose(
    dual: SubdomainDual, halved: Halved, subdomains: Subdomains, backward: BackwardPass, candidates: int
) -> tuple[Tensor, Tensor]:  # [D] int64 and [D]
    """The neuron of each subdomain to split, and where; NaN in the second where nothing can be split.

    Of the neurons whose estimated gains are largest (of the worse half, mainly), as many as `candidates` are tried:
    both halves are bounded with the subdomain's own variables, and the neuron from which both gain most is taken. After
    filtered smart branching (De Palma et al. 2021), with estimates that know where the bound is attained.
    """
    count = len(subdomains)
    if dual.net.free == 0:
        return torch.zeros_like(subdomains.target), torch.full_like(subdomains.bound, torch.nan)
    at = places(dual, halved, subdomains)
    low, up = estimated_gains(dual, halved, backward, dual.forward(backward), dual.slopes(subdomains))
    score = torch.minimum(low, up) + _OTHER_HALF * torch.maximum(low, up)
    score = torch.where(at.isnan(), -torch.inf, score)
    best = score.topk(min(candidates, score.shape[1]), 1)
    tried = best.indices.shape[1]
    if tried == 1:
        pick = torch.zeros(count, 1, dtype=torch.int64)
    else:
        many = subdomains.select(torch.arange(count).repeat_interleave(tried))
        neuron = best.indices.flatten()
        place = at.gather(1, best.indices).flatten()
        both = many.halves(neuron, torch.where(place.isnan(), 0.0, place))
        value = dual.at(both).bound.double().view(2, count, tried)
        # the product of both gains, and no credit for what is more than enough to close a half
        enough = (-subdomains.bound).clamp(min=_LITTLE).unsqueeze(1)
        gains = (value - subdomains.bound.unsqueeze(1)).clamp(min=_LITTLE).minimum(enough)
        pick = torch.where(best.values > -torch.inf, gains[0] * gains[1], -1.0).argmax(1, keepdim=True)
    neuron = best.indices.gather(1, pick)
    return neuron.squeeze(1), at.gather(1, neuron).squeeze(1)


@dataclass(frozen=True)
class Divided:
    """Some subdomains after their splits."""

    whole: Subdomains  #: those that nothing can split
    part: Subdomains  #: k others
    neuron: Tensor  # [k] int64: what each of them was split at,
    at: Tensor  # [k]: and where
    halves: Subdomains  #: of these, the lower ones first: [2 k]


def divided(
    dual: SubdomainDual, halved: Halved, subdomains: Subdomains, backward: BackwardPass, candidates: int
) -> Divided:
    """Split every subdomain where `choose` says; the halves are `warmed`.

    Args:
        backward: of the subdomains.
    """
    neuron, at = choose(dual, halved, subdomains, backward, candidates)
    whole = at.isnan()
    rest = (~whole).nonzero().squeeze(1)
    part, neuron, at = subdomains.select(rest), neuron[rest], at[rest]
    both = warmed(dual, part.halves(neuron, at), backward.select(rest), neuron) if len(rest) else part
    return Divided(subdomains.select(whole), part, neuron, at, both)


def warmed(dual: SubdomainDual, both: Subdomains, backward: BackwardPass, neuron: Tensor) -> Subdomains:
    """Halves whose new multipliers leave the coefficients on the split neurons as they were, as far as signs allow.

    Where they do, a half starts with no less than the bound of the whole: the lower line of a convex activation, say,
    is its own line in the half and a multiplier of the half's constraint.

    Args:
        both: [2 D], the halves of D subdomains, lower ones first. backward: of the D. neuron: [D], what was split.
    """
    lines, again = dual.relaxation(both), neuron.repeat(2).unsqueeze(1)
    nu_hat, slopes = backward.nu_hat.repeat(2, 1), torch.empty_like(backward.nu_hat).repeat(2, 1)
    for block, family in zip(dual.net.blocks, lines.blocks, strict=True):
        slopes[:, block.part] = family.sided(nu_hat[:, block.part] >= 0, dual.slopes(both)[:, block.part])[0]
    gamma = backward.nu.repeat(2, 1).gather(1, again) - (slopes * nu_hat).gather(1, again)
    slot = (both.neuron == again).float().argmax(1, keepdim=True)
    gamma = signed(gamma, both.raised.gather(1, slot), both.lowered.gather(1, slot))
    others = both.gamma.masked_fill(both.neuron == again, 0.0)
    return replace(both, gamma=others.scatter(1, slot, gamma.float()))
