"""Slopes that prove bounds of neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


class SlopeTree(Protocol):
    """A proof by branch and bound (verifier.branching.tree): what is asked of it here is its size."""

    @property
    def slope(self) -> Tensor: ...


@dataclass(frozen=True)
class NeuronSlopes:
    """Slopes that prove bounds of one node's entries for one example: each bound has its own.

    A slope is nu / nu-hat of a backward pass from the entry (from its negative for an upper bound); any slopes prove
    something. Of the output node they prove the specification's rows: `neuron` is then the row, `side` 0.
    """

    example: int  #: of the stage's query
    node: int
    neuron: Tensor  # [R] int64: places in the flattened node
    side: Tensor  # [R] uint8: 0 for a lower bound, 1 for an upper one
    #: activation node -> its neurons [u] int64, and their slopes [R, u] in float16 or float32
    slopes: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    #: in place of slopes, proofs by branch and bound: `row` [R] int64 says which of its clauses is about which bound
    tree: SlopeTree | None = None
    row: Tensor | None = None

    @property
    def size(self) -> int:
        """Bytes of the slopes."""
        own = 0 if self.tree is None else self.tree.slope.numel()
        return own + sum(s.numel() * s.element_size() for _, s in self.slopes.values())
