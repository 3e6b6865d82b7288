"""The subdomains of branch and bound: what is to be proved in each, which neurons are split, where its ascent is."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

#: slopes are kept as this many steps between the flattest and the steepest line: any slope is sound
STEPS = 255


@dataclass(frozen=True)
class Subdomains:
    """D subdomains, each with up to K splits: neurons whose interval the subdomain narrows.

    Slots that a subdomain does not use repeat its first one; a subdomain without any split has one slot for neuron 0,
    neither of whose ends is moved. So nothing has to be left out when slots are scattered, and whatever a repeated slot
    has for a multiplier is as good as any.
    """

    node: Tensor  # [D] int64: of the tree
    target: Tensor  # [D] int64: which clause of the network is to be proved
    weight: Tensor  # [D, W] float32 >= 0: of the clause's rows, of which there are up to W
    used: Tensor  # [D] int64: slots that are not repetitions
    neuron: Tensor  # [D, K] int64: the neurons that splits have narrowed
    raised: Tensor  # [D, K] bool: a split has raised the lower end
    lowered: Tensor  # [D, K] bool: a split has lowered the upper end
    lower: Tensor  # [D, K] float64: that end, where it is raised
    upper: Tensor  # [D, K] float64: that end, where it is lowered
    gamma: Tensor  # [D, K] float32: multiplier of the splits, positive of z <= upper, negative of z >= lower
    slope: Tensor  # [D, M] uint8: position between the flattest and the steepest line, in steps
    bound: Tensor  # [D] float64: the lower bound that these variables gave

    def __len__(self) -> int:
        return len(self.target)

    @property
    def slots(self) -> int:
        return self.neuron.shape[1]

    def select(self, index: Tensor) -> Subdomains:
        """The subdomains `index` ([k] int64 or [D] bool)."""
        return Subdomains(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def concatenate(parts: list[Subdomains]) -> Subdomains:
        most = max(p.slots for p in parts)
        parts = [p.padded(most) for p in parts]
        return parts[0] if len(parts) == 1 else Subdomains(*(_joined(parts, f.name) for f in fields(Subdomains)))

    def padded(self, slots: int) -> Subdomains:
        """The same with at least so many slots."""
        more = slots - self.slots
        if more <= 0:
            return self

        def repeated(x: Tensor) -> Tensor:  # [D, K] -> [D, K + more]
            return torch.cat([x, x[:, :1].expand(-1, more)], 1)

        def empty(x: Tensor) -> Tensor:  # [D, K] -> [D, K + more]
            return torch.cat([x, x.new_zeros(len(x), more)], 1)

        return replace(
            self, neuron=repeated(self.neuron), lower=repeated(self.lower), upper=repeated(self.upper),
            raised=repeated(self.raised), lowered=repeated(self.lowered), gamma=empty(self.gamma),
        )  # fmt: skip

    def halves(self, neuron: Tensor, at: Tensor) -> Subdomains:
        """Both halves of every subdomain, the lower ones first: [2 D], with the variables of the whole.

        Args:
            neuron: [D] int64, which neuron is split. at: [D], where.
        """
        narrowed = self.raised | self.lowered
        known = ((self.neuron == neuron.unsqueeze(1)) & narrowed).any(1)
        part = self.padded(int(torch.where(known, 0, self.used).max()) + 1)
        slot = torch.arange(part.slots, device=at.device)
        fresh = (slot == self.used.unsqueeze(1)) & ~known.unsqueeze(1)
        here = fresh | ((part.neuron == neuron.unsqueeze(1)) & known.unsqueeze(1))
        place = at.double().unsqueeze(1)
        part = replace(
            part, neuron=torch.where(fresh, neuron.unsqueeze(1), part.neuron), raised=part.raised & ~fresh,
            lowered=part.lowered & ~fresh, gamma=part.gamma.masked_fill(fresh, 0.0), used=self.used + (~known).long(),
        )  # fmt: skip
        below = replace(part, upper=torch.where(here, place, part.upper), lowered=part.lowered | here)
        above = replace(part, lower=torch.where(here, place, part.lower), raised=part.raised | here)
        return Subdomains.concatenate([below._repeating(), above._repeating()])

    def _repeating(self) -> Subdomains:
        """Unused slots repeat the first one."""
        real = torch.arange(self.slots, device=self.used.device) < self.used.unsqueeze(1)
        names = ("neuron", "lower", "upper", "raised", "lowered")
        repeated = {n: torch.where(real, getattr(self, n), getattr(self, n)[:, :1]) for n in names}
        return replace(self, **repeated)

    @property
    def bytes_each(self) -> int:
        """Memory that one subdomain takes."""
        return sum(t[0].numel() * t.element_size() for f in fields(self) if len(t := getattr(self, f.name)))


def signed(gamma: Tensor, raised: Tensor, lowered: Tensor) -> Tensor:
    """Multipliers of splits with the signs that they may have: z >= l takes from nu, z <= u adds to it.

    Args:
        gamma, raised, lowered: [*shape] each.
    """
    gamma = torch.where(lowered, gamma, gamma.clamp(max=0))
    return torch.where(raised, gamma, gamma.clamp(min=0))


def _joined(parts: list[Subdomains], name: str) -> Tensor:  # [D, ...]
    return torch.cat([getattr(p, name) for p in parts])
