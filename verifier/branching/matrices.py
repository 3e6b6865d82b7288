"""One example's condensed network as a few flat matrices, which many subdomains share.

    z = A x + L y + b,    y_j = f_j(z_j),    row = p x + q y + d,

with one z and one y per free (unstable) neuron and L strictly lower triangular in the order of the activations. On a
robustly trained network M is a hundred or so where the layers have thousands of neurons, and bounds of a thousand
subdomains are a few products with A and L.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from properties import InputSet
from verifier.bounds import Bounds
from verifier.ops.base import Activation
from verifier.query import Query
from verifier.relaxation.condensed import Functionals, Unknowns
from verifier.relaxation.dual import DEFAULT_MEMORY
from verifier.relaxation.optimised import condensed, specification
from verifier.relaxation.plan import PassPlan


@dataclass(frozen=True)
class Block:
    """The free neurons of one activation node."""

    node: int  #: of the activation
    op: Activation
    neurons: Tensor  # [m] int64: their places in the flattened node
    part: slice  #: their places among all M free neurons


@dataclass(frozen=True)
class Matrices:
    """M free neurons between n inputs and S rows; `inputs` and the intervals are of one example."""

    inputs: InputSet
    blocks: tuple[Block, ...]  #: in topological order
    to_input: Tensor  # [M, n]: A
    to_free: Tensor  # [M, M]: L
    bias: Tensor  # [M]: b
    row_input: Tensor  # [S, n]: p
    row_free: Tensor  # [S, M]: q
    row_bias: Tensor  # [S]: d
    lower: Tensor  # [M]
    upper: Tensor  # [M]

    @property
    def free(self) -> int:
        """M, the number of free neurons."""
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
        blocks, count = [], 0
        for u in unknowns:
            assert isinstance(u.op, Activation)
            blocks.append(Block(u.node, u.op, u.index[0], slice(count, count + u.index.shape[1])))
            count += u.index.shape[1]
        parts = [_flat(u.before, blocks, count) for u in unknowns]
        row_input, row_free, row_bias = _flat(rows, blocks, count)
        empty = (row_input[:0], row_free[:0], row_bias[:0])
        to_input, to_free, bias = (torch.cat(p) for p in zip(empty, *parts, strict=True))
        ends = [[getattr(u, side)[0, 0] for u in unknowns] for side in ("lower", "upper")]
        lower, upper = (torch.cat([bias[:0], *e]) for e in ends)
        return Matrices(inputs, tuple(blocks), to_input, to_free, bias, row_input, row_free, row_bias, lower, upper)


def _flat(functionals: Functionals, blocks: list[Block], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The functionals of a batch of one as coefficients on x [R, n] and on y [R, M], and constants [R]."""
    on_input, constant = functionals.inputs[0], functionals.constant[0]
    on_free = on_input.new_zeros(len(on_input), count)
    for block in blocks:
        if block.node in functionals.outputs:
            on_free[:, block.part] = functionals.outputs[block.node][0]
    return on_input, on_free, constant
