"""Which neuron of a subdomain to split, or which factor of its products, and where."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from verifier.branching.dual import BackwardPass, ForwardPass, SubdomainDual
from verifier.branching.matrices import Block
from verifier.branching.planes import SharedPlanes
from verifier.branching.relaxations import Family, family_of
from verifier.branching.subdomains import STEPS, Subdomains, signed
from verifier.relaxation.families import RelaxationFamily

_LITTLE = 1e-6  # a gain that is not one
_NOTHING = 1e-3  # what an estimate of no gain counts for, as a share of what would close the half


@dataclass(frozen=True)
class Halved:
    """What holds over both halves of the whole interval of every entry that is read, for estimates."""

    at: Tensor  # [1, Z]: where the entries are divided, NaN where they cannot be
    below: list[Half]  #: per block
    above: list[Half]

    @classmethod
    def of(cls, dual: SubdomainDual) -> Halved:
        places, below, above = [dual.net.bias[:0].unsqueeze(0)], list[Half](), list[Half]()
        for block in dual.net.blocks:
            lower, upper = (t[block.reads].unsqueeze(0) for t in dual.ends)
            at = block.op.split_at(lower, upper)
            whole, unknown = (lower, upper), at.isnan()
            below.append(Half.of(block, whole, (lower, torch.where(unknown, upper, at))))
            above.append(Half.of(block, whole, (torch.where(unknown, lower, at), upper)))
            places.append(at)
        return cls(torch.cat(places, 1), below, above)


@dataclass(frozen=True)
class Half:
    """A block's relaxations over one half of every entry's interval.

    Of a neuron, its lines. Of a product two kinds of planes: those where its left factor is halved, and those where its
    right one is.
    """

    block: Block
    families: tuple[Family, ...]

    @classmethod
    def of(cls, block: Block, whole: tuple[Tensor, Tensor], half: tuple[Tensor, Tensor]) -> Half:  # ends, [1, k] each
        if block.factors is None:
            family = family_of(block, *half)
            return cls(block, (family.lean() if isinstance(family, RelaxationFamily) else family,))
        families = []
        for side in (0, 1):
            lower, upper = (t[:, block.factors].clone() for t in whole)
            for ends, halved in zip((lower, upper), half, strict=True):
                ends[:, side] = halved[:, block.factors[side]]
            families.append(SharedPlanes.of(lower, upper, block.factors))
        return cls(block, tuple(families))

    def gains(self, nu_hat: Tensor, z: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """What the half's relaxations make of outputs y [D, m] more, times nu_hat [D, m], by entry: [D, k].

        Args:
            z: [D, k]. t: [D, m], which members of the families. Of planes, the best ones: those of a half are seldom at
                the t of the whole.
        """
        positive = nu_hat >= 0
        if self.block.factors is None:
            return nu_hat * (self.families[0].value(positive, z, t) - y)
        gains = [
            torch.maximum(*(nu_hat * (family.value(positive, z, torch.full_like(t, end)) - y) for end in (0.0, 1.0)))
            for family in self.families
        ]
        return self.block.gathered(torch.zeros_like(z), torch.stack(gains, 1))


def places(dual: SubdomainDual, halved: Halved, subdomains: Subdomains) -> Tensor:
    """Where what is read can be split in each subdomain: [D, Z], NaN where it cannot."""
    found = halved.at.repeat(len(subdomains), 1)
    if dual.net.free == 0:
        return found
    lines = dual.relaxation(subdomains)
    at, lower, upper = torch.full_like(lines.lower, torch.nan), lines.lower, lines.upper
    for block in dual.net.blocks:
        mine = (subdomains.neuron >= block.reads.start) & (subdomains.neuron < block.reads.stop)
        if bool(mine.any()):
            at = torch.where(mine, block.op.split_at(lower, upper), at)
    return found.scatter_(1, subdomains.neuron, at.to(found))


def estimated_gains(
    dual: SubdomainDual, halved: Halved, backward: BackwardPass, primal: ForwardPass, slope: Tensor
) -> tuple[Tensor, Tensor]:  # [D, Z] each
    """What the bound would gain if one entry had the lower, or the upper, half of its interval.

    To first order in the multipliers, at the point where the bound is attained. The dual is concave, so that these are
    never less than what the lines alone bring.

    Args:
        slope: [D, M].
    """
    below, above = torch.empty_like(primal.z), torch.empty_like(primal.z)
    for block, low, up in zip(dual.net.blocks, halved.below, halved.above, strict=True):
        nu_hat, y, t = (v[:, block.part] for v in (backward.nu_hat, primal.y, slope))
        for found, half in ((below, low), (above, up)):
            found[:, block.reads] = half.gains(nu_hat, primal.z[:, block.reads], y, t)
    return below, above


class SplitRule(Protocol):
    """Which entry of each subdomain is split, and where."""

    def choose(
        self, dual: SubdomainDual, halved: Halved, subdomains: Subdomains, backward: BackwardPass
    ) -> tuple[Tensor, Tensor]:  # [D] int64 and [D]
        """The entry of each of D subdomains to split, and where; NaN in the second where nothing can be split.

        Args:
            dual: of one free neuron at least. backward: of the subdomains.
        """


@dataclass(frozen=True)
class TriedGains:
    """The rule that the searches use: estimates of what both halves gain, the best of which are tried.

    Of the neurons whose estimated gains have the largest product, as many as `candidates` are tried: both halves are
    bounded with the subdomain's own variables, and the neuron is taken whose gains then have the largest product. After
    filtered smart branching (De Palma et al. 2021), with estimates that know where the bound is attained. Planes of
    products turn with their factors' ends: halves with products are `warmed` first.
    """

    candidates: int = 4

    def choose(
        self, dual: SubdomainDual, halved: Halved, subdomains: Subdomains, backward: BackwardPass
    ) -> tuple[Tensor, Tensor]:  # [D] int64 and [D]
        at = places(dual, halved, subdomains)
        low, up = estimated_gains(dual, halved, backward, dual.forward(backward), dual.slopes(subdomains))
        # no credit for what is more than enough to close a half; one that closes at once makes up for a poor other one
        enough = (-backward.bound).clamp(min=_LITTLE).unsqueeze(1)
        low, up = ((gain / enough).clamp(0, 1) + _NOTHING for gain in (low, up))
        best = torch.where(at.isnan(), -torch.inf, low * up).topk(min(self.candidates, at.shape[1]), 1)
        if best.indices.shape[1] == 1:
            return best.indices[:, 0], at.gather(1, best.indices)[:, 0]
        value = tried(dual, subdomains, backward, best.indices, at)
        enough = (-subdomains.bound).clamp(min=_LITTLE).unsqueeze(1)
        gains = (value - subdomains.bound.unsqueeze(1)).clamp(min=_LITTLE).minimum(enough)
        pick = torch.where(best.values > -torch.inf, gains[0] * gains[1], -1.0).argmax(1, keepdim=True)
        neuron = best.indices.gather(1, pick)
        return neuron.squeeze(1), at.gather(1, neuron).squeeze(1)


def tried(
    dual: SubdomainDual, subdomains: Subdomains, backward: BackwardPass, entries: Tensor, at: Tensor
) -> Tensor:  # [2, D, k] float64
    """Bounds of the halves, the lower ones first, were each of D subdomains split at each of k entries.

    With the variables of the subdomains; halves with products are `warmed`.

    Args:
        backward: of the subdomains. entries: [D, k] int64. at: [D, Z], where each entry would be split.
    """
    count, k = entries.shape
    again = torch.arange(count).repeat_interleave(k)
    neuron, place = entries.flatten(), at.gather(1, entries).flatten()
    both = subdomains.select(again).halves(neuron, torch.where(place.isnan(), 0.0, place))
    if any(block.factors is not None for block in dual.net.blocks):
        both = warmed(dual, both, backward.select(again), neuron)
    return dual.at(both).bound.double().view(2, count, k)


@dataclass(frozen=True)
class Divided:
    """Some subdomains after their splits."""

    whole: Subdomains  #: those that nothing can split
    part: Subdomains  #: k others
    neuron: Tensor  # [k] int64: what each of them was split at,
    at: Tensor  # [k]: and where
    halves: Subdomains  #: of these, the lower ones first: [2 k]


def divided(
    dual: SubdomainDual, halved: Halved, subdomains: Subdomains, backward: BackwardPass, rule: SplitRule
) -> Divided:
    """Split every subdomain where the rule says; the halves are `warmed`.

    Args:
        backward: of the subdomains.
    """
    if dual.net.free == 0:
        neuron, at = torch.zeros_like(subdomains.target), torch.full_like(subdomains.bound, torch.nan)
    else:
        neuron, at = rule.choose(dual, halved, subdomains, backward)
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
    nu_hat, start = backward.nu_hat.repeat(2, 1), dual.slopes(both)
    own, kept = torch.empty_like(backward.nu).repeat(2, 1), both.slope
    for number, (block, family) in enumerate(zip(dual.net.blocks, lines.blocks, strict=True)):
        coefficient, t = nu_hat[:, block.part], start[:, block.part]
        positive = coefficient >= 0
        if isinstance(family, SharedPlanes):
            before = backward.slopes[number].expand(len(neuron), -1, -1).repeat(2, 1, 1)
            t, changed = _tilted(block, family, positive, before, t, again)
            if changed:
                kept = torch.cat([kept[:, : block.part.start], _steps(t), kept[:, block.part.stop :]], 1)
                t = _steps(t).to(t) / STEPS
        slope = family.sided(positive, t)[0]
        own[:, block.reads] = block.onto(own.new_zeros(len(own), len(block.entries)), coefficient, slope)
    gamma = backward.nu.repeat(2, 1).gather(1, again) - own.gather(1, again)
    slot = (both.neuron == again).float().argmax(1, keepdim=True)
    gamma = signed(gamma, both.raised.gather(1, slot), both.lowered.gather(1, slot))
    others = both.gamma.masked_fill(both.neuron == again, 0.0)
    return replace(both, gamma=others.scatter(1, slot, gamma.float()), slope=kept)


def _tilted(
    block: Block, family: SharedPlanes, positive: Tensor, before: Tensor, t: Tensor, split: Tensor
) -> tuple[Tensor, bool]:
    """Planes of a half whose slopes on the factor that is not split are as they were, where there are such.

    The slope on the factor that is split is then another; what it lacks, the multiplier of the split makes up for.

    Args:
        family: the half's. positive: [D, m]. before: [D, 2, m], slopes of the whole. t: [D, m], its parameters.
        split: [D, 1], the entry that is split, among all Z.

    Returns:
        parameters [D, m], and whether any differ.
    """
    assert block.factors is not None
    reads = block.factors.unsqueeze(0) == (split - block.reads.start).unsqueeze(2)  # [D, 2, m]
    if not bool(reads.any()):
        return t, False
    other = reads[:, 0].long()  # the right factor where the left one is split
    wanted = before.gather(1, other.unsqueeze(1))[:, 0]
    return torch.where(reads.any(1), family.keeping(positive, wanted, other), t), True


def _steps(t: Tensor) -> Tensor:
    """Positions in [0, 1] as they are kept."""
    return (t * STEPS).round().to(torch.uint8)
