"""One example's condensed network as a few flat matrices, which many subdomains share.

    z = A x + L y + b,    y_j = f_j(z_j) or y_j = z_left(j) z_right(j),    row = p x + q y + d,

with one y per free (unstable) neuron and per product of which both factors vary, and one z per entry that these read:
a neuron has its own, products share their factors. L is lower triangular by blocks, in the order of the activations and
products. On a robustly trained network M is a hundred or so where the layers have thousands of neurons, and bounds of a
thousand subdomains are a few products with A and L.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from properties import InputSet
from verifier.bound_map import Bounds
from verifier.ops.base import Nonlinear
from verifier.ops.product import Product
from verifier.query import Query
from verifier.relaxation.condensed import Functionals, Unknowns
from verifier.relaxation.dual import DEFAULT_MEMORY
from verifier.relaxation.optimised import condensed, specification
from verifier.relaxation.plan import PassPlan


@dataclass(frozen=True)
class Block:
    """The free neurons of one activation node, or the free products of one product node, and what they read."""

    node: int  #: of the activation
    op: Nonlinear
    neurons: Tensor  # [m] int64: their places in the flattened node
    part: slice  #: their places among all M free neurons
    entries: Tensor  # [k] int64: what they read, places in the flattened parent; an activation's neurons themselves
    reads: slice  #: the places of these among all Z entries that are read
    factors: Tensor | None = None  # [2, m] int64: the left and right factors of products, among the k entries

    def along(self, slope: Tensor, z: Tensor) -> Tensor:
        """Linear functions [D, m] of what is read, z [D, k]; slopes [D or 1, m], of products [D or 1, 2, m]."""
        return slope * z if self.factors is None else (slope * z[:, self.factors]).sum(1)

    def onto(self, total: Tensor, nu_hat: Tensor, slope: Tensor) -> Tensor:
        """The adjoint of `along`, added to multipliers `total` [D, k]; nu_hat [D, m]."""
        if self.factors is None:
            return torch.addcmul(total, nu_hat, slope)
        return self.gathered(total, nu_hat.unsqueeze(1) * slope)

    def gathered(self, total: Tensor, parts: Tensor) -> Tensor:
        """With what each product has for its factors, [D, 2, m], added to `total` [D, k] where these are."""
        assert self.factors is not None
        for factor, part in zip(self.factors, parts.unbind(1), strict=True):
            total = total.index_add(1, factor, part)
        return total


@dataclass(frozen=True)
class Matrices:
    """M free neurons between n inputs and S rows, which read Z entries; `inputs` and the intervals are of one example.

    Of a network without products, Z is M.
    """

    inputs: InputSet
    blocks: tuple[Block, ...]  #: in topological order
    to_input: Tensor  # [Z, n]: A
    to_free: Tensor  # [Z, M]: L
    bias: Tensor  # [Z]: b
    row_input: Tensor  # [S, n]: p
    row_free: Tensor  # [S, M]: q
    row_bias: Tensor  # [S]: d
    lower: Tensor  # [Z]
    upper: Tensor  # [Z]

    @property
    def free(self) -> int:
        """M, the number of free neurons and products."""
        return self.row_free.shape[1]

    @property
    def entries(self) -> int:
        """Z, the number of entries that they read, any of which may be split."""
        return len(self.bias)

    def to(self, dtype: torch.dtype) -> Matrices:
        """In another precision; the input set keeps its own."""
        return replace(
            self, to_input=self.to_input.to(dtype), to_free=self.to_free.to(dtype), bias=self.bias.to(dtype),
            row_input=self.row_input.to(dtype), row_free=self.row_free.to(dtype), row_bias=self.row_bias.to(dtype),
            lower=self.lower.to(dtype), upper=self.upper.to(dtype),
        )  # fmt: skip

    @staticmethod
    def of(query: Query, bounds: Bounds) -> Matrices:
        """The network of a query of one example, with the given bounds of every pre-activation."""
        if query.batch != 1:
            raise ValueError(f"matrices are of one example at a time, not of {query.batch}")
        network = condensed(query, bounds, PassPlan(query.graph, DEFAULT_MEMORY))
        return Matrices.joined(query.inputs, network.unknowns, specification(query, network))

    @staticmethod
    def joined(inputs: InputSet, unknowns: Sequence[Unknowns], rows: Functionals) -> Matrices:
        """From a condensed network of one example, and functionals of it."""
        blocks, taken = [], []
        count, read = 0, 0
        for u in unknowns:
            neurons = u.index[0]
            entries, first, factors = _entries(u)
            part, reads = slice(count, count + len(neurons)), slice(read, read + len(entries))
            blocks.append(Block(u.node, u.op, neurons, part, entries, reads, factors))
            taken.append(first)
            count, read = part.stop, reads.stop
        pairs = list(zip(unknowns, taken, strict=True))
        parts = [tuple(t[first] for t in _flat(u.before, blocks, count)) for u, first in pairs]
        row_input, row_free, row_bias = _flat(rows, blocks, count)
        empty = (row_input[:0], row_free[:0], row_bias[:0])
        to_input, to_free, bias = (torch.cat(p) for p in zip(empty, *parts, strict=True))
        ends = [[getattr(u, side)[0, 0].flatten()[first] for u, first in pairs] for side in ("lower", "upper")]
        lower, upper = (torch.cat([bias[:0], *e]) for e in ends)
        return Matrices(inputs, tuple(blocks), to_input, to_free, bias, row_input, row_free, row_bias, lower, upper)


def _entries(u: Unknowns) -> tuple[Tensor, Tensor, Tensor | None]:
    """What unknowns of one example read: places in the parent [k], which rows of `before` have them [k], and `factors`.

    Each entry once, however many products share it: one split of it serves them all.
    """
    if not isinstance(u.op, Product):
        return u.index[0], torch.arange(u.index.shape[1]), None
    reads = torch.cat([u.op.left[u.index[0]], u.op.right[u.index[0]]])
    entries, place = reads.unique(return_inverse=True)
    first = torch.full_like(entries, len(reads)).scatter_reduce_(0, place, torch.arange(len(reads)), "amin")
    return entries, first, place.view(2, -1)


def _flat(functionals: Functionals, blocks: list[Block], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The functionals of a batch of one as coefficients on x [R, n] and on y [R, M], and constants [R]."""
    on_input, constant = functionals.inputs[0], functionals.constant[0]
    on_free = on_input.new_zeros(len(on_input), count)
    for block in blocks:
        if block.node in functionals.outputs:
            on_free[:, block.part] = functionals.outputs[block.node][0]
    return on_input, on_free, constant
