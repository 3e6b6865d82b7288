"""The relaxation of every free neuron in every case: two families of lines, few of whose numbers are not zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.branching.matrices import Block, Matrices
from verifier.branching.subdomains import Subdomains
from verifier.ops.base import Activation

#: slope and bias of a line at one end of its family, and what they change by to the other end
_LINE = ("slope", "slope_step", "bias", "bias_step")


@dataclass(frozen=True)
class RelaxationFamily:
    """slope + t slope_step and bias + t bias_step for t in [0, 1]; [D or 1, m] each, None where all are zero."""

    slope: Tensor | None
    slope_step: Tensor | None
    bias: Tensor | None
    bias_step: Tensor | None

    def slope_at(self, t: Tensor) -> Tensor | None:
        return _along(self.slope, self.slope_step, t)

    def bias_at(self, t: Tensor) -> Tensor | None:
        return _along(self.bias, self.bias_step, t)

    def value(self, z: Tensor, t: Tensor) -> Tensor:
        """The lines t at z."""
        return _sum(_product(self.slope_at(t), z), self.bias_at(t), z)

    def change(self, z: Tensor) -> Tensor:
        """d value / d t at z."""
        return _sum(_product(self.slope_step, z), self.bias_step, z)

    def select(self, index: Tensor) -> RelaxationFamily:
        return RelaxationFamily(*(t if t is None or len(t) == 1 else t[index] for t in _parts(self)))


@dataclass(frozen=True)
class BlockRelaxation:
    """The lower and the upper lines of one block's neurons.

    A mean of two sound lines is sound, so that whatever lies between two ends of an operator's own family is, too.
    """

    low: RelaxationFamily
    up: RelaxationFamily

    @classmethod
    def of(cls, op: Activation, lower: Tensor, upper: Tensor) -> BlockRelaxation:
        """Over the intervals [lower, upper], [D or 1, m] each."""
        # the outermost lines of a smooth activation meet it at its ends only: means of those further in are tighter
        outermost = (0.0, 1.0) if op.piecewise_linear else (0.25, 0.75)
        flat, steep = (op.relax(lower, upper, torch.full_like(lower, t)) for t in outermost)
        ends = [
            (flat.lower_slope, steep.lower_slope), (flat.lower_bias, steep.lower_bias),
            (flat.upper_slope, steep.upper_slope), (flat.upper_bias, steep.upper_bias),
        ]  # fmt: skip
        (a, da), (b, db), (c, dc), (d, dd) = ((start, end - start) for start, end in ends)
        return cls(RelaxationFamily(a, da, b, db), RelaxationFamily(c, dc, d, dd))

    def sided(self, positive: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Slope and bias of the line that a coefficient uses: the lower one where it is `positive`, else the upper."""
        slope = _chosen(positive, self.low.slope_at(t), self.up.slope_at(t))
        bias = _chosen(positive, self.low.bias_at(t), self.up.bias_at(t))
        return t.new_zeros(1, 1) if slope is None else slope, bias

    def change(self, positive: Tensor, z: Tensor) -> Tensor:
        """d value / d t of the line that a coefficient uses, at z."""
        return torch.where(positive, self.low.change(z), self.up.change(z))

    def value(self, positive: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return torch.where(positive, self.low.value(z, t), self.up.value(z, t))

    def select(self, index: Tensor) -> BlockRelaxation:
        return BlockRelaxation(self.low.select(index), self.up.select(index))

    def lean(self) -> BlockRelaxation:
        """None in place of what is zero everywhere."""
        families = (
            RelaxationFamily(*(t if t is not None and bool(t.any()) else None for t in _parts(f))) for f in _both(self)
        )
        return BlockRelaxation(*families)


@dataclass(frozen=True)
class SubdomainRelaxation:
    """What holds in each of D cases: the lines of all free neurons, and the intervals of those that are split."""

    blocks: list[BlockRelaxation]
    lower: Tensor  # [D, K]
    upper: Tensor  # [D, K]

    @classmethod
    def of(cls, net: Matrices, roots: list[BlockRelaxation], cases: Subdomains) -> SubdomainRelaxation:
        """From the lines of the undivided set. Ends that no split has moved are the network's own."""
        blocks, dtype = [], net.bias.dtype
        if net.free == 0:
            return cls([], cases.lower.to(dtype), cases.upper.to(dtype))
        lower = torch.where(cases.raised, cases.lower.to(dtype), net.lower[cases.neuron])
        upper = torch.where(cases.lowered, cases.upper.to(dtype), net.upper[cases.neuron])
        for block, root in zip(net.blocks, roots, strict=True):
            mine = (cases.neuron >= block.part.start) & (cases.neuron < block.part.stop)
            if not bool(mine.any()):
                blocks.append(root)
                continue
            own = BlockRelaxation.of(block.op, lower, upper)
            place = torch.where(mine, cases.neuron - block.part.start, len(block.neurons))  # a column for the others
            pairs = zip(_both(root), _both(own), strict=True)
            blocks.append(BlockRelaxation(*(_patched(r, o, place, mine, len(block.neurons)) for r, o in pairs)))
        return cls(blocks, lower, upper)

    def select(self, index: Tensor) -> SubdomainRelaxation:
        return SubdomainRelaxation([b.select(index) for b in self.blocks], self.lower[index], self.upper[index])


def _patched(root: RelaxationFamily, own: RelaxationFamily, place: Tensor, mine: Tensor, size: int) -> RelaxationFamily:
    """`root`'s numbers [1, size] with `own` [D, K] scattered to `place` [D, K]."""

    def patch(whole: Tensor | None, part: Tensor | None) -> Tensor | None:
        assert part is not None
        if whole is None and not bool((mine & (part != 0)).any()):
            return None
        full = part.new_zeros(len(place), size + 1)
        if whole is not None:
            full[:, :-1] = whole
        return full.scatter_(1, place, part)[:, :-1]

    return RelaxationFamily(*(patch(a, b) for a, b in zip(_parts(root), _parts(own), strict=True)))


def roots_of(net: Matrices) -> list[BlockRelaxation]:
    """Per block the lines over the intervals of the undivided set, [1, m]."""

    def ends(block: Block) -> tuple[Tensor, Tensor]:
        return net.lower[block.part].unsqueeze(0), net.upper[block.part].unsqueeze(0)

    return [BlockRelaxation.of(b.op, *ends(b)).lean() for b in net.blocks]


def _parts(family: RelaxationFamily) -> list[Tensor | None]:
    return [getattr(family, name) for name in _LINE]


def _both(lines: BlockRelaxation) -> tuple[RelaxationFamily, RelaxationFamily]:
    return lines.low, lines.up


def _along(start: Tensor | None, step: Tensor | None, t: Tensor) -> Tensor | None:
    if step is None:
        return start
    return t * step if start is None else torch.addcmul(start, t, step)


def _chosen(positive: Tensor, low: Tensor | None, up: Tensor | None) -> Tensor | None:
    if low is None and up is None:
        return None
    like = low if low is not None else up
    assert like is not None
    zero = like.new_zeros(())
    return torch.where(positive, zero if low is None else low, zero if up is None else up)


def _product(a: Tensor | None, z: Tensor) -> Tensor | None:
    return None if a is None else a * z


def _sum(a: Tensor | None, b: Tensor | None, like: Tensor) -> Tensor:
    if a is None:
        return torch.zeros_like(like) if b is None else b.expand_as(like)
    return a if b is None else a + b
