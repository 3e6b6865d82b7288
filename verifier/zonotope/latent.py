"""Points of a region by a forward pass: what the error terms choose, at the price of evaluating the network.

A point of a node's region is the value of the linearised network there: an input of the box, affine nodes as they are,
and every activation on its band, slope z + offset + radius e. So no generator is needed to find the point of given
errors, nor for the gradient in them: A^T of Balunovic & Vechev (2020), section 5, is the backward pass. Generators (or
backward bounds, which are the same numbers) are needed for the bands alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from properties import InputSet
from properties.device import sent
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.graph import Graph
from verifier.query import Query
from verifier.relaxation.dual import DualPass
from verifier.relaxation.ranges import middle_and_radius
from verifier.zonotope.band import Band, bands

#: errors by the node that they are born at, the input or an activation: [B, *shape of that node], each in [-1, 1]
Errors = Mapping[int, Tensor]


@dataclass(frozen=True)
class Latent:
    """The region of a node over a batch of boxes, as the pass to its points (`ZonotopeRegion.at` for the same bounds).

    Every neuron of an activation has an error; those of stable ones have radius zero, and do nothing.
    """

    graph: Graph
    node: int
    center: Tensor  # [B, *input]
    radius: Tensor  # [B, *input]
    bands: Mapping[int, Band]  #: of the activations that the node depends on

    @classmethod
    def of(cls, graph: Graph, inputs: InputSet, node: int, found: Mapping[int, Band]) -> Latent:
        """Of the bands of the activations that `node` depends on (`bands`, `exact_bands`).

        The input set enters as its box: exactly for boxes and l-infinity balls, as an enclosure for others.
        """
        return cls(graph, node, *middle_and_radius(*inputs.box(graph.dtype)), found)

    def sample(self, generator: torch.Generator | None = None) -> dict[int, Tensor]:
        """Errors drawn uniformly from [-1, 1], [B, *shape] of each origin.

        Args:
            generator: on the CPU, wherever the region is.
        """
        shapes = {0: self.center.shape, **{i: band.radius.shape for i, band in self.bands.items()}}
        draws = {i: torch.rand(shape, generator=generator, dtype=self.center.dtype) for i, shape in shapes.items()}
        return {i: sent(2 * draw - 1, self.center.device) for i, draw in draws.items()}

    def at(self, errors: Errors) -> Tensor:  # -> [B, *shape of the node]
        """The point of these errors; where an origin has none, they are zero. Differentiable in the errors."""
        values = {0: self._moved(self.center, self.radius, errors.get(0))}
        for i in sorted(self.graph.ancestors[self.node] - {0}):
            node = self.graph.nodes[i]
            assert node.op is not None
            if i in self.bands:
                band = self.bands[i]
                values[i] = self._moved(band.at(values[node.parents[0]]), band.radius, errors.get(i))
            else:
                values[i] = node.op.apply(*(values[p] for p in node.parents))
        return values[self.node]

    @staticmethod
    def _moved(value: Tensor, radius: Tensor, errors: Tensor | None) -> Tensor:  # [B, *shape] each
        return value if errors is None else value + radius * errors


def exact_bands(graph: Graph, inputs: InputSet, node: int) -> dict[int, Band]:
    """The bands of the activations that `node` depends on, over dual bounds with fixed slopes.

    Those are the widths of the zonotopes with the slopes of DeepZ (verifier.stages.zonotope). Nothing behind the node
    is bounded, and no gradient is kept.
    """
    part = graph.until(node)
    if not part.activations:
        return {}
    with torch.no_grad():
        return bands(part, DualPass().plain_bounds(Query.of_nodes(part, inputs), Bounds(), Budget()).bounds, node)
