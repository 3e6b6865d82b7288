"""The forward pass of random vectors through a network whose activations are bands.

With parallel lines an activation is slope * x + offset, give or take a radius (verifier.zonotope.band). So a node is
its value at the center plus a sum of error terms, each in [-1, 1]: those of the input box, and one for each neuron of
an activation. How far the node moves is the l1 norm of its coefficients on all of them. Carry r random combinations
of the error terms through the same linear maps, each term with a standard Cauchy variable of its own: at every node
they are r samples of Cauchy variables whose scale is that l1 norm. An l2 ball is no sum of error terms: its part is
the l2 norm of the coefficients on the input times the radius, and normal variables do for it what Cauchy ones do for
the others.

Algorithm 1 of Wong et al. (2018) estimates one norm for each pair of layers and adds the estimates, each layer's
projections being kept apart. Sums of Cauchy variables add their scales, so here all of them are one sum with one
estimate: r + 1 passes through the network in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from properties import InputSet, L2Ball
from verifier.budget import checkpoint
from verifier.errors import InputError
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine, Shape
from verifier.projection.estimators import cauchy_scale, normal_scale
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.backward import Lowering, Relaxation
from verifier.relaxation.dual import DEFAULT_MEMORY, specification_rows
from verifier.relaxation.plan import PassPlan
from verifier.relaxation.ranges import Range, middle_and_radius
from verifier.zonotope.band import Band


@dataclass(frozen=True)
class Draws:
    """Fresh random numbers, `rows` of each kind for every entry of a node.

    The same for all examples of a batch: no example's result depends on its neighbours, and drawing costs nothing
    beside the pass.
    """

    rows: int
    generator: torch.Generator = field(repr=False)  #: on the device that is worked on

    def cauchy(self, shape: Shape, like: Tensor) -> Tensor:  # [r, 1, *shape]
        return like.new_empty(self.rows, 1, *shape).cauchy_(generator=self.generator)

    def normal(self, shape: Shape, like: Tensor) -> Tensor:  # [r, 1, *shape]
        return like.new_empty(self.rows, 1, *shape).normal_(generator=self.generator)


@dataclass(frozen=True)
class Noise:
    """Random combinations of a node's error terms, and of its coefficients on an l2 ball; None where it has none."""

    cauchy: Tensor | None = None  # [r, B, *shape]
    normal: Tensor | None = None  # [r, B, *shape]

    def rows(self, rows: Tensor) -> Noise:  # [B, S, n]
        """Of linear functionals of the node: samples [r, B, S]."""
        return Noise(*(None if t is None else torch.einsum("bsn,rbn->rbs", rows, t.flatten(2)) for t in self.parts))

    @property
    def parts(self) -> tuple[Tensor | None, Tensor | None]:  # [r, B, *shape] each
        return self.cauchy, self.normal

    def width(self, like: Tensor) -> Tensor:  # [B, *shape]
        """An estimate of how far the node moves from its value at the center."""
        width = torch.zeros_like(like)
        if self.cauchy is not None:
            width = width + cauchy_scale(self.cauchy)
        return width if self.normal is None else width + normal_scale(self.normal)


def supported(inputs: InputSet) -> bool:
    """Whether projections know these sets: boxes, l-infinity balls (cut or not), l2 balls without a valid range."""
    return inputs.is_box or (isinstance(inputs, L2Ball) and inputs.clip is None)


def center_of(inputs: InputSet, dtype: torch.dtype) -> Tensor:
    """The centers [B, *input] that the sets are symmetric about.

    Raises:
        InputError: sets that the projections do not know.
    """
    return _center_and_radius(inputs, dtype)[0]


def _center_and_radius(inputs: InputSet, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Centers [B, *input], and radii that broadcast with them."""
    if not supported(inputs):
        kind = inputs.describe().get("kind", type(inputs).__name__)
        raise InputError(
            f"random projections know boxes, linf balls (with or without clip) and l2 balls without clip, not {kind} "
            "with these settings: give one of those, or use the exact bound (projections=None)"
        )
    if isinstance(inputs, L2Ball):
        center, radius = inputs.center_and_radius(dtype)
        return center, inputs.per_entry(radius)
    return middle_and_radius(*inputs.box(dtype))


def born(inputs: InputSet, draws: Draws, dtype: torch.dtype) -> Noise:
    """The noise of the input node.

    Raises:
        InputError: sets that the projections do not know.
    """
    center, radius = _center_and_radius(inputs, dtype)
    if isinstance(inputs, L2Ball):
        return Noise(normal=radius * draws.normal(inputs.shape, center))
    return Noise(cauchy=radius * draws.cauchy(inputs.shape, center))


def through_affine(op: Affine, noises: Sequence[Noise], shapes: Sequence[Shape]) -> Noise:
    """The noise of an affine node from its parents'."""
    found: list[Tensor | None] = []
    for parts in zip(*(n.parts for n in noises), strict=True):
        present = next((p for p in parts if p is not None), None)
        if present is None:
            found.append(None)
            continue
        lead = present.shape[:2]
        whole = (p if p is not None else present.new_zeros(*lead, *s) for p, s in zip(parts, shapes, strict=True))
        found.append(op.linear(*(p.flatten(0, 1) for p in whole)).unflatten(0, lead))
    return Noise(*found)


def through_band(band: Band, noise: Noise, draws: Draws) -> Noise:
    """The noise of an activation from its parent's: every neuron has an error term of its own."""
    own = band.radius * draws.cauchy(tuple(band.radius.shape[1:]), band.radius)
    cauchy = own if noise.cauchy is None else band.slope * noise.cauchy + own
    return Noise(cauchy, None if noise.normal is None else band.slope * noise.normal)


def project(graph: Graph, inputs: InputSet, bands: Mapping[int, Band], node: int, draws: Draws) -> Noise:
    """The noise of one node, all of it drawn anew.

    Args:
        bands: of every activation that the node depends on.
    """
    noises = {0: born(inputs, draws, graph.dtype)}
    needed = sorted(graph.ancestors[node])
    last = {p: i for i in needed for p in graph.nodes[i].parents}
    for i in needed[1:]:
        checkpoint()
        noises[i] = step(graph, i, noises, bands.get(i), draws)
        for parent in set(graph.nodes[i].parents):
            if last[parent] == i:
                del noises[parent]
    return noises[node]


def step(graph: Graph, node: int, noises: dict[int, Noise], band: Band | None, draws: Draws) -> Noise:
    """The noise of a node from its parents'; `band` where it is an activation."""
    op, parents = graph.nodes[node].op, graph.nodes[node].parents
    if isinstance(op, Activation):
        assert band is not None
        return through_band(band, noises[parents[0]], draws)
    assert isinstance(op, Affine)
    return through_affine(op, [noises[p] for p in parents], graph.parent_shapes(node))


def center_step(graph: Graph, node: int, centers: dict[int, Tensor], band: Band | None) -> Tensor:  # [B, *shape]
    """A node's value at the center, activations replaced by the middles of their bands."""
    op, parents = graph.nodes[node].op, graph.nodes[node].parents
    if band is not None:
        return band.slope * centers[parents[0]] + band.offset
    assert isinstance(op, Affine)
    return op.apply(*(centers[p] for p in parents))


def within(tight: Range, center: Tensor, width: Tensor) -> Range:  # [B, *shape] each
    """center +- width inside an interval that is known to hold; the interval alone where the two are disjoint."""
    low, high = tight
    below, above = center - width, center + width
    lower, upper = torch.where(below > low, below, low), torch.where(above < high, above, high)
    disjoint = ~(lower <= upper)
    return torch.where(disjoint, low, lower), torch.where(disjoint, high, upper)


def estimated_margins(query: Query, draws: Draws) -> Tensor:
    """Estimates [B, S] of the rows' lower bounds by the dual with fixed slopes, differentiable in the weights.

    The neurons' bounds are estimated. What the rows are over the bands that come of them is not: the rows are few, and
    a backward pass has their norms themselves, as the programs of Wong et al. (2018) do. Time and memory are those of
    r + 1 passes through the network, r the rows of `draws`, and one for each row of the specification. No proof: the
    estimate of a neuron's width is too small about as often as too large.

    Raises:
        InputError: sets that the projections do not know.
    """
    graph = query.graph
    bands = estimated(graph, query.inputs, draws, graph.output).bands
    lines: dict[int, Lowering] = {i: Relaxation(b.slope, None, b.offset, b.radius) for i, b in bands.items()}
    return specification_rows(query, lines, PassPlan(graph, DEFAULT_MEMORY))


@dataclass(frozen=True)
class Estimate:
    """What a pass that estimates its own bands knows when it is at a node."""

    node: int
    range: Range
    noise: Noise
    centers: dict[int, Tensor]  #: where every error is zero, of the nodes that it came by and of this one: [B, *shape]
    bands: dict[int, Band]  #: of the activations that it came by
    exact: frozenset[int]  #: pre-activations that intervals know exactly, of the whole graph


def estimated(graph: Graph, inputs: InputSet, draws: Draws, node: int) -> Estimate:
    """One pass to a node that bounds the pre-activations on its way, each by the noise that is there.

    Time and memory are those of r + 1 passes through the network. Interval arithmetic is taken where it is exact, or
    tighter than the estimate. Differentiable in the weights; no proof.

    Raises:
        InputError: sets that the projections do not know.
    """
    noise, centers = born(inputs, draws, graph.dtype), {0: center_of(inputs, graph.dtype)}
    exact = frozenset(graph.pre_activations).difference(_bounded(graph, inputs))
    return onward(graph, Estimate(0, inputs.box(graph.dtype), noise, centers, {}, exact), draws, node)


def onward(graph: Graph, start: Estimate, draws: Draws, node: int) -> Estimate:
    """The same pass, gone on with from a cut of the graph (verifier.graph.cuts) to a node behind it."""
    ranges, noises = {start.node: start.range}, {start.node: start.noise}
    centers, bands = dict(start.centers), dict(start.bands)
    for i in range(start.node + 1, node + 1):
        op = graph.nodes[i].op
        if isinstance(op, Activation):
            bands[i] = Band.fixed(op, *ranges[graph.nodes[i].parents[0]])
        centers[i] = center_step(graph, i, centers, bands.get(i))
        noises[i] = step(graph, i, noises, bands.get(i), draws)
        ranges[i] = interval.step(graph, i, ranges)
        if i in graph.pre_activations and i not in start.exact:
            ranges[i] = within(ranges[i], centers[i], noises[i].width(centers[i]))
    return Estimate(node, ranges[node], noises[node], centers, bands, start.exact)


def bounded_nodes(query: Query) -> list[int]:
    """Pre-activations whose bounds are not exact by interval arithmetic."""
    return _bounded(query.graph, query.inputs)


def _bounded(graph: Graph, inputs: InputSet) -> list[int]:
    return [i for i in graph.pre_activations if not (inputs.is_box and graph.exact_by_interval[i])]


def row_values(query: Query, output: Tensor) -> Tensor:  # [B, *output] -> [B, S]
    """The specification's rows at an output."""
    rows = query.spec.rows.to(output)
    return torch.einsum("bsn,bn->bs", rows, output.flatten(1)) + query.spec.offset.to(output)
