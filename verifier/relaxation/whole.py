"""A network as it is, evaluated for rows whose relaxations vary: what `Condensed` is where condensing does not pay.

Multiplying out takes a row for every neuron that a relaxation is needed for, each as wide as the input and all unknowns
before it. Where those are tens of thousands (the products of attention), a backward pass of the few rows of a
specification over the graph is cheaper by far, hundreds of times over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from properties import InputSet
from verifier.bound_map import Bounds
from verifier.forms import Dense, LinearForm
from verifier.graph import Graph
from verifier.ops.product import Product
from verifier.query import Query
from verifier.relaxation.activations import activation_over
from verifier.relaxation.backward import Lowering, OneSided, pull_back
from verifier.relaxation.condensed import Below, Condensed, Functionals, Unknowns
from verifier.relaxation.picking import take


@dataclass(frozen=True)
class OutputRows:
    """R affine functionals per example of the network's output: what `Functionals` are of condensed ones."""

    coefficients: Tensor  # [B, R, *output shape]
    constant: Tensor  # [B, R]

    @classmethod
    def of(cls, query: Query) -> OutputRows:
        """All rows of the specification."""
        rows = query.spec.rows.to(query.graph.dtype).unflatten(2, query.graph.output_shape)
        return cls(rows, query.spec.offset.to(rows.dtype))

    def rows(self, index: Tensor) -> OutputRows:
        """Rows index [B, k] of each example."""
        picked = take(self.coefficients.flatten(2), index).unflatten(2, self.coefficients.shape[2:])
        return OutputRows(picked, self.constant.gather(1, index))

    def select(self, examples: Tensor) -> OutputRows:  # [k] int64
        return OutputRows(self.coefficients[examples], self.constant[examples])


@dataclass(frozen=True)
class Whole:
    """A batch of networks with their unknowns, which a backward pass over the graph replaces one after another."""

    condensed: Condensed  #: unknowns that say nothing of what is before them, and the settled neurons' lines

    @classmethod
    def of(cls, query: Query, bounds: Bounds) -> Whole:
        """Over bounds of every pre-activation, in the graph's precision."""
        network = Condensed(query.graph, query.inputs)
        for i in query.graph.activations:
            op, lower, upper = activation_over(query.graph, bounds, i)
            network = network.with_activation(i, lower, upper, op.unstable(lower, upper), _nothing)
        return cls(network)

    @property
    def graph(self) -> Graph:
        return self.condensed.graph

    @property
    def inputs(self) -> InputSet:
        return self.condensed.inputs

    @property
    def unknowns(self) -> tuple[Unknowns, ...]:
        return self.condensed.unknowns

    def select(self, examples: Tensor) -> Whole:  # [k] int64
        network = self.condensed
        settled = {i: (s[examples], b[examples]) for i, (s, b) in (network.settled or {}).items()}
        unknowns = tuple(u.select(examples) for u in network.unknowns)
        return Whole(Condensed(network.graph, network.inputs.select(examples), unknowns, settled))

    def bound(self, rows: OutputRows, below: Below, ended: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Lower bounds [B, R] of the rows, each unknown replaced as `below` says; arguments as of `Condensed.bound`."""
        by_node = {u.node: u for u in self.unknowns}
        lowerings: dict[int, Lowering] = {}
        for i, (slope, bias) in (self.condensed.settled or {}).items():
            op, parent = self.graph.nodes[i].op, self.graph.nodes[self.graph.nodes[i].parents[0]].shape
            product = op if isinstance(op, Product) else None
            lowerings[i] = _Varied(slope, bias, product, parent, by_node.get(i), below)
        start = OneSided(Dense(rows.coefficients))
        state, constant = pull_back(self.graph, lowerings, self.graph.output, start, rows.constant)
        size = int(torch.Size(self.graph.input_shape).numel())
        inputs = rows.constant.new_zeros(1, 1, size) if state is None else state.one_sided().form.dense().flatten(2)
        inputs = inputs.expand(*rows.constant.shape, size)
        return rows.constant + constant + (self.condensed.ended if ended is None else ended)(inputs)

    def multipliers(self, inputs: Tensor, near: Tensor | None) -> Tensor | None:
        return self.condensed.multipliers(inputs, near)

    def ended_at(self, inputs: Tensor, multipliers: Tensor | None) -> Tensor:  # [B, R, N] -> [B, R]
        return self.condensed.ended_at(inputs, multipliers)


def _nothing(index: Tensor) -> Functionals:  # [B, n] int64
    """What stands for the functionals before unknowns: nobody asks for them here."""
    return Functionals({}, torch.zeros(len(index), 0, 0), torch.zeros(len(index), 0))


@dataclass(frozen=True)
class _Varied:
    """An activation or a product: settled entries as their lines, the unknowns as `choose` says."""

    slope: Tensor  # [B, *shape]; of a product [B, 2, M]. Zero for unknowns
    bias: Tensor  # [B, *shape]
    product: Product | None
    parent: tuple[int, ...]
    unknowns: Unknowns | None
    choose: Below

    def below(self, form: LinearForm) -> tuple[LinearForm, Tensor]:  # a constant [B, R]
        nu_hat = form.dense()
        constant = form.dot(self.bias)
        nu = (nu_hat if self.product is None else nu_hat.unsqueeze(2)) * self.slope.unsqueeze(1)
        if self.unknowns is not None:
            u = self.unknowns
            found, joined = self.choose(u, u.gathered(nu_hat.expand(len(u.index), *nu_hat.shape[1:])))
            nu, constant = nu + u.on_ports(found), constant + joined
        return Dense(nu if self.product is None else self.product.onto(nu, self.parent)), constant
