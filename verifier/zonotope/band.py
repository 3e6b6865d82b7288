"""An activation between two parallel lines: one slope, one new error term.

Balunovic & Vechev (2020), appendix A.1, with its misprints corrected: an unstable ReLU over [l, u] becomes
lambda x + mu + mu e with e in [-1, 1] and mu = max(-lambda l, (1 - lambda) u) / 2, for any lambda in [0, 1]. Here mu is
offset and radius of the band that holds f(x) - lambda x at the corners of the activation's hull, whatever the
activation is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.errors import InputError
from verifier.forms import LinearForm
from verifier.graph import Graph
from verifier.ops.base import Activation, LinearRelaxation, Nonlinear, Shape, SlopeRule
from verifier.ops.product import Product
from verifier.relaxation.activations import activation_over


@dataclass(frozen=True)
class Band:
    """|act(x) - slope x - offset| <= radius for every x in an interval. Tensors [B, *shape]."""

    slope: Tensor
    offset: Tensor
    radius: Tensor

    def at(self, z: Tensor) -> Tensor:  # [B, *shape of the parent] -> [B, *shape]
        """The middle of the band."""
        return self.slope * z + self.offset

    def under(self, form: LinearForm) -> tuple[LinearForm, Tensor]:
        """A form on the band's middle as one on what the activation reads, and a constant [B, S]."""
        return form.scale(self.slope), form.dot(self.offset)

    @classmethod
    def of(cls, lines: LinearRelaxation) -> Band:
        """Between two parallel lines."""
        offset, radius = 0.5 * (lines.lower_bias + lines.upper_bias), 0.5 * (lines.upper_bias - lines.lower_bias)
        return cls(lines.lower_slope, offset, radius)

    @classmethod
    def fixed(cls, op: Activation, lower: Tensor, upper: Tensor) -> Band:  # [B, *shape]
        """The slope that brings the two lines closest: DeepZ's u / (u - l) for a ReLU."""
        return cls.of(op.relax(lower, upper, SlopeRule.FIXED))

    @classmethod
    def sloped(cls, op: Activation, lower: Tensor, upper: Tensor, slope: Tensor) -> Band:
        """Of any slope [B, *shape]; stable neurons keep their own."""
        own = op.relax(lower, upper, SlopeRule.FIXED).lower_slope
        slope = torch.where(op.unstable(lower, upper), slope, own)
        pieces = op.pieces(lower, upper)
        rest = pieces.y - slope * pieces.x  # [K, B, *shape]: its range over the hull is that over the corners
        low, high = rest.amin(0), rest.amax(0)
        return cls(slope, 0.5 * (low + high), 0.5 * (high - low))


@dataclass(frozen=True)
class ProductBand(Band):
    """|x y - slope . (x, y) - offset| <= radius for both factors in intervals; slope [B, 2, M], the others [B, M].

    Between the two parallel planes that touch McCormick's hull: x y is m_y x + m_x y - m_x m_y, give or take r_x r_y,
    for middles m and radii r.
    """

    op: Product
    parent: Shape

    def at(self, z: Tensor) -> Tensor:  # [B, *parent] -> [B, M]
        return (self.slope * self.op.read(z)).sum(1) + self.offset

    def under(self, form: LinearForm) -> tuple[LinearForm, Tensor]:
        return self.op.pulled(form, self.slope, self.parent), form.dot(self.offset)


def band_of(op: Nonlinear, lower: Tensor, upper: Tensor, slope: Tensor | None = None) -> Band:
    """The band of an activation or a product over [lower, upper] ([B, *shape of the parent]).

    Args:
        slope: [B, *shape], of an activation; default the fixed one.
    """
    if isinstance(op, Product):
        band = Band.of(op.relax(lower, upper, SlopeRule.FIXED))
        return ProductBand(band.slope, band.offset, band.radius, op, tuple(lower.shape[1:]))
    assert isinstance(op, Activation)
    return Band.fixed(op, lower, upper) if slope is None else Band.sloped(op, lower, upper, slope)


def bands(graph: Graph, bounds: Bounds, node: int, slopes: Mapping[int, Tensor] | None = None) -> dict[int, Band]:
    """The bands of all activations that `node` depends on.

    Args:
        bounds: of the pre-activations. slopes: activation node -> [B, *shape]; the others get the fixed ones.

    Raises:
        InputError: a pre-activation has no bounds.
    """
    found = {}
    for i in sorted(graph.ancestors[node].intersection(graph.activations)):
        parent = graph.nodes[i].parents[0]
        if parent not in bounds:
            raise InputError(f"no bounds of node {parent} ({graph.nodes[parent]}), which an activation reads")
        found[i] = band_of(*activation_over(graph, bounds, i), None if slopes is None else slopes.get(i))
    return found
