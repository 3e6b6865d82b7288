"""The region of a node: {center + sum over k of e_k g_k : every e_k in [-1, 1]}, which holds all its values.

Error terms are born at the input (one per entry of its box) and at activations (one per unstable neuron). A node's
generators of one origin are a matrix: rows are the node's entries, columns the origin's neurons. Its rows are the
entries' unit functionals pulled back to the origin through the affine layers' adjoints and the activations' slopes.
So the matrix is a linear form of the node's rows (verifier.forms), and keeps that structure: between two convolutions
it is a patch per entry, and on the diagonal where it was born. Paths that skip layers arrive at the origin as one
form: what the two ends share cancels or adds up coefficient by coefficient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from properties import InputSet
from verifier.bound_map import Bounds
from verifier.device import ask_numbers
from verifier.forms import Dense, Diagonal, Identity, LinearForm
from verifier.graph import Graph
from verifier.relaxation.backward import OneSided, pull_back
from verifier.relaxation.picking import chosen
from verifier.relaxation.ranges import middle_and_radius
from verifier.zonotope.band import Band, bands


@dataclass(frozen=True)
class GeneratorGroup:
    """The error terms born at one node, and how an entry of the region depends on them."""

    origin: int  #: the input node or an activation
    form: LinearForm  #: rows: entries of the region's node; columns: neurons of the origin
    radius: Tensor  # [B, *columns], >= 0: how far one error term moves its neuron of the origin
    columns: Tensor | None = None  # [B, m] int64: neurons that the form's columns are; None: all of them, in order

    @classmethod
    def of(cls, origin: int, form: LinearForm, radius: Tensor) -> GeneratorGroup:  # [B, *columns]
        """Of a form on all neurons of the origin; of a dense one only the columns with an error term are kept."""
        whole = cls(origin, form, radius)
        if not isinstance(form, Dense) or whole.count == radius[0].numel():
            return whole
        index, _ = whole.terms
        return cls(origin, Dense(whole.picked()), radius.flatten(1).gather(1, index), index)

    @cached_property
    def terms(self) -> tuple[Tensor, Tensor]:
        """Columns [B, k] that have an error term, and which are no padding (bool [B, k])."""
        return chosen(self.radius.flatten(1) != 0)

    @property
    def count(self) -> int:
        """Error terms of the example that has most."""
        return self.terms[0].shape[1]

    @property
    def neurons(self) -> Tensor:  # [B, count]
        """The neuron of the flattened origin that each error term was born at; any neuron in the padding."""
        index, _ = self.terms
        return index if self.columns is None else self.columns.gather(1, index)

    def picked(self) -> Tensor:  # [B, rows, count]
        """The coefficients on the columns with an error term. Raises MemoryError where there is no room for them."""
        index, _ = self.terms
        ask_numbers(self.radius, float(index.numel()) * self.form.rows)
        dense = self.form.dense().flatten(2)
        return dense.expand(len(index), -1, -1).gather(2, index.unsqueeze(1).expand(-1, self.form.rows, -1))

    def reach(self) -> Tensor:  # [B, rows]
        """How far the error terms move every entry at most."""
        return self.form.abs_dot(self.radius)

    def moved(self, errors: Tensor) -> Tensor:  # [B, count] -> [B, rows]
        """What the entries gain at these errors."""
        index, _ = self.terms
        full = errors.new_zeros(len(index), self.radius[0].numel()).scatter(1, index, errors)
        return self.form.dot(full.view_as(self.radius) * self.radius)

    def generators(self) -> Tensor:  # [B, count, rows]
        """One row per error term, zero in the padding (whose radius is)."""
        index, _ = self.terms
        size = self.radius.flatten(1).gather(1, index).unsqueeze(2)
        ask_numbers(self.radius, float(index.numel()) * self.form.rows)
        if isinstance(self.form, Diagonal):
            factor = self.form.factor.flatten(1).expand(len(index), -1).gather(1, index).unsqueeze(2)
            empty = size.new_zeros(*index.shape, self.form.rows)
            return empty.scatter(2, index.unsqueeze(2), factor * size)
        return self.picked().transpose(1, 2) * size


@dataclass(frozen=True)
class ZonotopeRegion:
    """A batch of zonotopes, differentiable in the network's weights and in the bounds that it was made from.

    Generators are numbered group by group, in the network's order; an example with fewer error terms than another has
    zeros at the end of a group.
    """

    center: Tensor  # [B, *shape]
    groups: tuple[GeneratorGroup, ...]

    @property
    def errors(self) -> int:
        """Number k of error terms, padding included."""
        return sum(g.count for g in self.groups)

    @cached_property
    def generators(self) -> Tensor:  # [B, k, *shape]
        """All of them written out, on demand. Raises MemoryError where there is no room for them."""
        ask_numbers(self.center, float(self.errors) * self.center.numel())
        empty = self.center.new_zeros(len(self.center), 0, self.center[0].numel())
        return torch.cat([empty, *(g.generators() for g in self.groups)], 1).unflatten(2, self.center.shape[1:])

    def interval(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest value of every entry over the region, each [B, *shape]."""
        reach = torch.zeros_like(self.center)
        for group in self.groups:
            reach = reach + group.reach().view_as(reach)
        return self.center - reach, self.center + reach

    def at(self, errors: Tensor) -> Tensor:  # [B, k] -> [B, *shape]
        """The point of these errors, each in [-1, 1]; no generator is written out for it.

        Its gradient takes a step on the point to one on the errors, where clipping to [-1, 1] is the projection
        (Balunovic & Vechev 2020, section 5).
        """
        point = self.center
        for group, part in zip(self.groups, errors.split([g.count for g in self.groups], 1), strict=True):
            point = point + group.moved(part).view_as(point)
        return point

    def sample(self, generator: torch.Generator | None = None) -> Tensor:  # [B, *shape]
        """A random point per example: errors drawn uniformly from [-1, 1]."""
        draw = torch.rand(len(self.center), self.errors, generator=generator, dtype=torch.float64)
        return self.at((2 * draw - 1).to(self.center))

    def minimum(self, rows: Tensor) -> Tensor:  # [B, S, *shape] -> [B, S]
        """The minimum of linear functionals over the region."""
        flat = rows.flatten(2)
        value = torch.einsum("bsn,bn->bs", flat, self.center.flatten(1))
        for group in self.groups:
            value = value - torch.einsum("bsn,bkn->bsk", flat, group.generators()).abs().sum(2)
        return value


def region(
    graph: Graph, inputs: InputSet, bounds: Bounds, node: int, slopes: Mapping[int, Tensor] | None = None
) -> ZonotopeRegion:
    """The region of a node over the input sets.

    The input set enters as its box (exactly for boxes and l-infinity balls, as an enclosure for others). Where forms do
    not stay patches the work takes B x (size of the node) x (size of the widest layer below) numbers: split the batch
    where that is too much.

    Args:
        graph: with live parameters where gradients shall reach them.
        bounds: of the pre-activations that `node` depends on (a zonotope's or any others).
        slopes: activation node -> lambda [B, *shape]; default the fixed ones of DeepZ.

    Raises:
        InputError: a pre-activation has no bounds.
    """
    middle, radius = middle_and_radius(*inputs.box(graph.dtype))
    groups: list[GeneratorGroup] = []
    lowerings = {i: _Noting(i, band, groups) for i, band in bands(graph, bounds, node, slopes).items()}
    shape = graph.nodes[node].shape
    state, constant = pull_back(graph, lowerings, node, OneSided(Identity(shape, middle)), middle)
    if state is not None:
        form = state.one_sided().form
        constant = constant + form.dot(middle)
        groups.append(GeneratorGroup.of(0, form, radius))
    rows = middle.new_zeros(inputs.batch, graph.nodes[node].size)
    return ZonotopeRegion((rows + constant).unflatten(1, shape), tuple(g for g in reversed(groups) if g.count))


@dataclass(frozen=True)
class _Noting:
    """An activation's band that notes the form it is asked about: the coefficients of its new error terms."""

    node: int
    band: Band
    groups: list[GeneratorGroup]

    def below(self, form: LinearForm) -> tuple[LinearForm, Tensor]:  # a constant [B, S]
        form = form.settled()
        self.groups.append(GeneratorGroup.of(self.node, form, self.band.radius))
        return self.band.under(form)
