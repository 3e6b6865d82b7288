"""The linear relaxation of every free neuron in every subdomain, most of it that of the undivided set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.branching.matrices import Block, Matrices
from verifier.branching.subdomains import Subdomains
from verifier.relaxation.families import LineFamily, RelaxationFamily


@dataclass(frozen=True)
class SubdomainRelaxation:
    """What holds in each of D subdomains: the lines of all free neurons, and the intervals of those that are split."""

    blocks: list[RelaxationFamily]
    lower: Tensor  # [D, K]
    upper: Tensor  # [D, K]

    @classmethod
    def of(cls, net: Matrices, roots: list[RelaxationFamily], subdomains: Subdomains) -> SubdomainRelaxation:
        """From the lines of the undivided set. Ends that no split has moved are the network's own."""
        blocks, dtype = [], net.bias.dtype
        if net.free == 0:
            return cls([], subdomains.lower.to(dtype), subdomains.upper.to(dtype))
        lower = torch.where(subdomains.raised, subdomains.lower.to(dtype), net.lower[subdomains.neuron])
        upper = torch.where(subdomains.lowered, subdomains.upper.to(dtype), net.upper[subdomains.neuron])
        for block, root in zip(net.blocks, roots, strict=True):
            mine = (subdomains.neuron >= block.part.start) & (subdomains.neuron < block.part.stop)
            if not bool(mine.any()):
                blocks.append(root)
                continue
            own = RelaxationFamily.inner(block.op, lower, upper)
            place = torch.where(
                mine, subdomains.neuron - block.part.start, len(block.neurons)
            )  # a column for the others
            pairs, size = ((root.low, own.low), (root.up, own.up)), len(block.neurons)
            blocks.append(RelaxationFamily(*(_patched(r, o, place, mine, size) for r, o in pairs)))
        return cls(blocks, lower, upper)

    def select(self, index: Tensor) -> SubdomainRelaxation:  # [k] int64
        return SubdomainRelaxation([b.select(index) for b in self.blocks], self.lower[index], self.upper[index])


def _patched(root: LineFamily, own: LineFamily, place: Tensor, mine: Tensor, size: int) -> LineFamily:
    """`root`'s numbers [1, size] with `own` [D, K] scattered to `place` [D, K]."""

    def patch(whole: Tensor | None, part: Tensor | None) -> Tensor | None:  # [1, m] and [D, K] -> [D, m]
        assert part is not None
        if whole is None and not bool((mine & (part != 0)).any()):
            return None
        full = part.new_zeros(len(place), size + 1)
        if whole is not None:
            full[:, :-1] = whole
        return full.scatter_(1, place, part)[:, :-1]

    return LineFamily(*(patch(a, b) for a, b in zip(root.parts, own.parts, strict=True)))


def roots_of(net: Matrices) -> list[RelaxationFamily]:
    """Per block the lines over the intervals of the undivided set, [1, m]."""

    def ends(block: Block) -> tuple[Tensor, Tensor]:  # [1, m] each
        return net.lower[block.part].unsqueeze(0), net.upper[block.part].unsqueeze(0)

    return [RelaxationFamily.inner(b.op, *ends(b)).lean() for b in net.blocks]
