"""The linear relaxation of every free neuron and product in every subdomain, most of it that of the undivided set."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.branching.matrices import Block, Matrices
from verifier.branching.planes import SharedPlanes
from verifier.branching.subdomains import Subdomains
from verifier.ops.base import Activation, Nonlinear
from verifier.relaxation.families import LineFamily, RelaxationFamily

#: of the neurons, or of the products, of one block
Family = RelaxationFamily | SharedPlanes


def family_of(block: Block, lower: Tensor, upper: Tensor) -> Family:
    """The relaxations of a block over intervals [D, k] of what it reads."""
    if block.factors is not None:
        return SharedPlanes.over(lower, upper, block.factors)
    assert isinstance(block.op, Activation)
    return RelaxationFamily.inner(block.op, lower, upper)


@dataclass(frozen=True)
class SubdomainRelaxation:
    """What holds in each of D subdomains: the lines of all free neurons, and the intervals of what is split."""

    blocks: list[Family]
    lower: Tensor  # [D, K]
    upper: Tensor  # [D, K]

    @classmethod
    def of(cls, net: Matrices, roots: list[Family], subdomains: Subdomains) -> SubdomainRelaxation:
        """From the lines of the undivided set. Ends that no split has moved are the network's own."""
        blocks, dtype = list[Family](), net.bias.dtype
        if net.free == 0:
            return cls([], subdomains.lower.to(dtype), subdomains.upper.to(dtype))
        lower = torch.where(subdomains.raised, subdomains.lower.to(dtype), net.lower[subdomains.neuron])
        upper = torch.where(subdomains.lowered, subdomains.upper.to(dtype), net.upper[subdomains.neuron])
        known: dict[Hashable, Family] = {}  # one activation's lines are the same in every block
        for block, root in zip(net.blocks, roots, strict=True):
            mine = (subdomains.neuron >= block.reads.start) & (subdomains.neuron < block.reads.stop)
            if not bool(mine.any()):
                blocks.append(root)
                continue
            size = len(block.entries)
            place = torch.where(mine, subdomains.neuron - block.reads.start, size)  # a column for the others
            if isinstance(root, SharedPlanes):  # one entry's ends are in the planes of many products
                ends = ((net.lower[block.reads], lower), (net.upper[block.reads], upper))
                blocks.append(family_of(block, *(_scattered(w, o, place, size) for w, o in ends)))
                continue
            kind = _kind(block.op)
            own = known[kind] if kind in known else known.setdefault(kind, family_of(block, lower, upper))
            assert isinstance(own, RelaxationFamily)
            pairs = ((root.low, own.low), (root.up, own.up))
            blocks.append(RelaxationFamily(*(_patched(r, o, place, mine, size) for r, o in pairs)))
        return cls(blocks, lower, upper)

    def select(self, index: Tensor) -> SubdomainRelaxation:  # [k] int64
        return SubdomainRelaxation([b.select(index) for b in self.blocks], self.lower[index], self.upper[index])


def _kind(op: Nonlinear) -> Hashable:
    """Equal for activations that are the same function."""
    kind = type(op), *sorted(vars(op).items())
    try:
        hash(kind)
    except TypeError:
        return id(op)
    return kind


def _patched(root: LineFamily, own: LineFamily, place: Tensor, mine: Tensor, size: int) -> LineFamily:
    """`root`'s numbers [1, size] with `own` [D, K] scattered to `place` [D, K]."""

    def patch(whole: Tensor | None, part: Tensor | None) -> Tensor | None:  # [1, m] and [D, K] -> [D, m]
        assert part is not None
        if whole is None and not bool((mine & (part != 0)).any()):
            return None
        return _scattered(whole, part, place, size)

    return LineFamily(*(patch(a, b) for a, b in zip(root.parts, own.parts, strict=True)))


def _scattered(whole: Tensor | None, part: Tensor, place: Tensor, size: int) -> Tensor:
    """`whole` ([size] or [1, size], None for zeros) with `part` [D, K] at `place` [D, K], where that is not `size`."""
    full = part.new_zeros(len(place), size + 1)
    if whole is not None:
        full[:, :-1] = whole
    return full.scatter_(1, place, part)[:, :-1]


def roots_of(net: Matrices) -> list[Family]:
    """Per block what holds over the intervals of the undivided set, [1, m]."""
    found = list[Family]()
    for block in net.blocks:
        family = family_of(block, *(t[block.reads].unsqueeze(0) for t in (net.lower, net.upper)))
        found.append(family.lean() if isinstance(family, RelaxationFamily) else family)
    return found
