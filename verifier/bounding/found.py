"""What `bounds` answers: bounds of nodes by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from verifier.errors import InputError
from verifier.tables import as_html
from verifier.verdict import Trust


@dataclass(frozen=True)
class Lines:
    """Linear functions of the input below and above values: A_lower x + b_lower <= value <= A_upper x + b_upper.

    They hold at every x of the input set (not outside of it), the products with x understood over the real numbers:
    evaluating them rounds once more.
    """

    A_lower: Tensor  # [B, *rows, *input]
    b_lower: Tensor  # [B, *rows]
    A_upper: Tensor  # [B, *rows, *input]
    b_upper: Tensor  # [B, *rows]

    @classmethod
    def stacked(cls, parts: Sequence[Lines], dim: int = 1) -> Lines | None:
        """Of the rows (dim 1) or the examples (dim 0) of several; None of none."""
        if not parts:
            return None
        return cls(*(torch.cat([getattr(part, f.name) for part in parts], dim) for f in fields(cls)))

    def apart(self, error: Tensor) -> Lines:
        """Moved apart by an error, [B, *rows] or as many numbers."""
        error = error.reshape(self.b_lower.shape)
        return replace(self, b_lower=self.b_lower - error, b_upper=self.b_upper + error)

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:  # [B, *input]
        """The values of the lower and the upper functions at x, [B, *rows] each."""
        dims = x.dim() - 1
        x = x.to(self.A_lower).reshape(len(x), *(1,) * (self.b_lower.dim() - 1), *x.shape[1:])
        over = tuple(range(-dims, 0))
        return (self.A_lower * x).sum(over) + self.b_lower, (self.A_upper * x).sum(over) + self.b_upper


@dataclass(frozen=True)
class NodeBounds:
    """lower <= value <= upper for every entry of a node, or for every row of C, over each example's input set."""

    lower: Tensor  # [B, *shape of the node], or [B, S] with C; in the precision that they were computed in
    upper: Tensor  # the same
    lines: Lines | None = None  #: where they were asked for


class BoundsResult(Mapping[str, NodeBounds]):
    """Bounds by the names of nodes, in the network's order; those of the outputs as `lower`, `upper` and `lines` too.

    Args:
        nodes: by name. output: the name of the network's output.
    """

    def __init__(
        self, nodes: Mapping[str, NodeBounds], output: str, method: str, trust: tuple[Trust, ...], exhausted: bool
    ) -> None:
        self._nodes, self.output = dict(nodes), output
        self.method = method  #: the name proper of the stage that bounded
        #: per example, how far its bounds are to be trusted
        self.trust = trust
        #: a budget ended the method before it was done: bounds are looser than they could be, or infinite
        self.exhausted = exhausted

    def __getitem__(self, name: str) -> NodeBounds:
        return self._nodes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def lower(self) -> Tensor:  # [B, *output] or [B, S]
        """Of the outputs, or of the rows of C."""
        return self._outputs.lower

    @property
    def upper(self) -> Tensor:  # [B, *output] or [B, S]
        """Of the outputs, or of the rows of C."""
        return self._outputs.upper

    @property
    def lines(self) -> Lines | None:
        """Of the outputs, or of the rows of C; None where they were not asked for."""
        return self._outputs.lines

    @property
    def _outputs(self) -> NodeBounds:
        if self.output not in self._nodes:
            raise InputError(f"the outputs ({self.output!r}) were not asked about: {list(self._nodes)} were")
        return self._nodes[self.output]

    def plus(self, offset: Tensor) -> BoundsResult:  # [B, S], on the CPU
        """Of the rows of C, each with a number added to it, in float64: bounds of C y + offset, rounded outward."""
        found = self._outputs
        lines = found.lines
        if lines is not None:
            ends = (outward_sum(t, offset, up) for t, up in ((lines.b_lower, False), (lines.b_upper, True)))
            lines = Lines(lines.A_lower, next(ends), lines.A_upper, next(ends))
        lower, upper = outward_sum(found.lower, offset, False), outward_sum(found.upper, offset, True)
        nodes = {**self._nodes, self.output: NodeBounds(lower, upper, lines)}
        return BoundsResult(nodes, self.output, self.method, self.trust, self.exhausted)

    def _repr_html_(self) -> str:
        if list(self._nodes) == [self.output]:
            columns: tuple[str, ...] = ("input", "output", "lower", "upper")
            ends = torch.stack([self.lower.flatten(1), self.upper.flatten(1)], 2)  # [B, S, 2]
            rows = [(i, j, *pair) for i, one in enumerate(ends.tolist()) for j, pair in enumerate(one)]
            return as_html(repr(self), columns, rows)
        columns = ("input", "node", "entries", "least lower", "greatest upper")
        return as_html(repr(self), columns, [
            (i, name, one.lower[i].numel(), float(one.lower[i].min()), float(one.upper[i].max()))
            for i in range(len(self.trust)) for name, one in self._nodes.items()
        ])  # fmt: skip

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(found.lower.shape)}" for name, found in self._nodes.items())
        least = min(self.trust, default=Trust.CHECKED)
        return f"BoundsResult({self.method}, trust {least.name}{', budget spent' * self.exhausted}: {shapes})"


def outward_sum(value: Tensor, offset: Tensor, up: bool) -> Tensor:  # [B, S] each
    """value + offset in float64, not above the exact sum, or (up) not below it; exact where nothing is added."""
    value, offset = value.double(), offset.to(value.device).double()
    total = value + offset
    outward = torch.nextafter(total, torch.full_like(total, torch.inf if up else -torch.inf))
    return torch.where(offset == 0, value, outward)


def joined(parts: Sequence[NodeBounds]) -> NodeBounds:
    """The bounds of several batches as of one."""
    lower, upper = (torch.cat(ends) for ends in zip(*((p.lower, p.upper) for p in parts), strict=True))
    return NodeBounds(lower, upper, Lines.stacked([p.lines for p in parts if p.lines is not None], 0))


def shaped(found: NodeBounds, shape: tuple[int, ...] | None) -> NodeBounds:
    """Rows [B, S] as the entries of a node of that shape; None: as they are."""
    if shape is None:
        return found

    def entries(t: Tensor) -> Tensor:  # [B, S, ...] -> [B, *shape, ...]
        return t.reshape(len(t), *shape, *t.shape[2:])

    lines = found.lines
    if lines is not None:
        lines = Lines(*(entries(getattr(lines, f.name)) for f in fields(Lines)))
    return NodeBounds(entries(found.lower), entries(found.upper), lines)


def known(found: NodeBounds) -> NodeBounds:
    """The same, -inf and inf in place of what is no number: such a value is somewhere on the real line."""
    lower = torch.where(found.lower.isnan(), -torch.inf, found.lower)
    return replace(found, lower=lower, upper=torch.where(found.upper.isnan(), torch.inf, found.upper))
