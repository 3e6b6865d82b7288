"""What tighter bounds of neurons leave of subdomains that were made under looser ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.bound_map import Interval
from verifier.branching.dual import SubdomainDual
from verifier.branching.matrices import Matrices
from verifier.branching.subdomains import Subdomains
from verifier.graph import Graph
from verifier.relaxation.activations import activation_over


@dataclass(frozen=True)
class Narrowing:
    """How the free neurons and entries of one condensed network are found in that of tighter bounds, M' and Z' of them.

    A neuron that has become stable is in the matrices no more.
    """

    old: Tensor  # [M'] int64: the place of each among the M of before, -1 for one that was not free
    start: Tensor  # [M'] uint8: where the slope of such a one begins
    entry: Tensor  # [Z] int64: the place of each entry of before among the Z', -1 where it is not there
    lower: Tensor  # [Z]: what is known of the entries of before now
    upper: Tensor  # [Z]

    @classmethod
    def of(cls, net: Matrices, dual: SubdomainDual, graph: Graph, bounds: Mapping[int, Interval]) -> Narrowing:
        """From the network `net` to that of `dual`, which the tighter `bounds` of one example belong to."""
        entry = torch.full((net.entries,), -1)
        old = torch.full((dual.net.free,), -1)
        lower, upper = torch.empty_like(net.lower), torch.empty_like(net.upper)
        blocks = {block.node: block for block in dual.net.blocks}
        for block in net.blocks:
            _, low, high = activation_over(graph, bounds, block.node)
            lower[block.reads] = low.flatten()[block.entries].to(lower)
            upper[block.reads] = high.flatten()[block.entries].to(upper)
            new = blocks.get(block.node)
            if new is not None:
                entry[block.reads] = _places(block.entries, new.entries, new.reads.start)
                old[new.part] = _places(new.neurons, block.neurons, block.part.start)
        start = dual.start(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)).slope[0]
        return cls(old, start, entry, lower, upper)

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The intervals of the entries of before: [Z] each."""
        return self.lower, self.upper

    def of_subdomains(self, subdomains: Subdomains) -> Subdomains:
        """The same subdomains with the variables that are left. Those must lie within the tighter bounds somewhere."""
        neuron, slope = subdomains.neuron, subdomains.slope
        slope = torch.where(self.old >= 0, slope[:, self.old.clamp(min=0)], self.start)
        if len(self.entry) == 0:
            return replace(subdomains, slope=slope)
        place = self.entry[neuron]
        there = place >= 0
        used = (there & (torch.arange(subdomains.slots) < subdomains.used.unsqueeze(1))).sum(1)
        # what is left moves to the front, in order: so do repetitions of a first slot that is left
        most = max(1, int(there.sum(1).max())) if len(place) else 1
        order = (~there).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        real = there.gather(1, order)

        def kept(x: Tensor) -> Tensor:  # [D, K] -> [D, most]
            x = x.gather(1, order)
            return torch.where(real, x, x[:, :1])

        some = real[:, :1]
        return replace(
            subdomains, slope=slope, used=used, neuron=torch.where(some, kept(place), 0),
            raised=kept(subdomains.raised) & some, lowered=kept(subdomains.lowered) & some,
            lower=kept(torch.maximum(subdomains.lower, self.lower[neuron])),
            upper=kept(torch.minimum(subdomains.upper, self.upper[neuron])),
            gamma=subdomains.gamma.gather(1, order).masked_fill(~real, 0.0),
        )  # fmt: skip


def _places(wanted: Tensor, among: Tensor, start: int) -> Tensor:  # [k] and [m] int64 -> [k] int64
    """Where each of `wanted` stands in `among`, counted from `start`; -1 where it does not."""
    if len(among) == 0 or len(wanted) == 0:
        return torch.full_like(wanted, -1)
    order = among.argsort()
    at = torch.searchsorted(among[order], wanted).clamp(max=len(among) - 1)
    found = order[at]
    return torch.where(among[found] == wanted, found + start, -1)
