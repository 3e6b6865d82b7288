"""The one dual object: any multipliers at the activations give a sound bound (Wong & Kolter 2018, Theorem 1).

Give every activation an input z and an output y of its own, tied to the rest of the network by the equality
"z is the value of the activation's parent". A multiplier nu per neuron for that equality splits the minimum of a row
into independent parts: the input set's support function, the affine layers' biases, and per neuron

    min over (z, y) in the activation's hull of  nu_hat y - nu z,

nu_hat being the row's coefficient on y that the backward pass has arrived at. The hull is a polygon, so the minimum
is at one of its corners. Lower lines of a relaxation are the special case nu = slope * nu_hat; the row duals of the
linear program, and multipliers of the splits of branch and bound, are others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.forms import Dense, LinearForm
from verifier.ops.base import Activation, Nonlinear, Pieces, SlopeRule
from verifier.ops.product import Product
from verifier.query import Query
from verifier.relaxation.activations import activation_over
from verifier.relaxation.backward import Lowering, OneSided, State, bound
from verifier.relaxation.products import ProductMultipliers
from verifier.relaxation.roundoff import Roundoffs, rounded_outward, roundoffs_for


@dataclass(frozen=True)
class Multipliers:
    """An activation under given multipliers.

    Where a neuron is not `free`, it is one line over its interval: nu follows that line, so that no rounding of a
    stored multiplier costs anything, and its interval is not used as a constraint.
    """

    pieces: Pieces  # [K, B, *shape]
    slope: Tensor  # [B, *shape]: of the neurons that are not free
    free: Tensor  # [B, *shape] bool
    nu: Tensor  # [B, S, *shape]: multipliers of the free neurons
    #: relative rounding error of the sum of all corners' values, taken off; 0: rounding is not accounted for
    relative: float = 0.0

    @classmethod
    def of(
        cls,
        op: Activation,
        lower: Tensor,
        upper: Tensor,
        nu: Tensor,
        free: Tensor | None = None,
        roundoffs: Roundoffs | None = None,
    ) -> Multipliers:
        """Multipliers nu [B, S, *shape] of an activation over [lower, upper] ([B, *shape]).

        `free` defaults to the unstable neurons; neurons that a split has made stable must be named in it for the
        split to count.
        """
        slope = op.relax(lower, upper, SlopeRule.ADAPTIVE).lower_slope
        unstable = op.unstable(lower, upper) if free is None else free
        relative = 0.0 if roundoffs is None else roundoffs.relative(lower[0].numel())
        return cls(op.pieces(lower, upper), slope, unstable, nu, relative)

    def below(self, form: LinearForm) -> tuple[LinearForm, Tensor]:  # a constant [B, S]
        nu_hat = form.dense()  # [B, S, *shape]
        nu = torch.where(self.free.unsqueeze(1), self.nu, self.slope.unsqueeze(1) * nu_hat)
        constant = corner_minimum(self.pieces, nu_hat, nu).flatten(2).sum(2)
        if (
            self.relative > 0
        ):  # any nu is a number as it is; the corners' values are sums of two products, then added up
            x, y = (t.abs().amax(0).unsqueeze(1) for t in (self.pieces.x, self.pieces.y))
            constant = constant - self.relative * (nu_hat.abs() * y + nu.abs() * x).flatten(2).sum(2)
        return Dense(nu), constant


def multiplied(
    op: Nonlinear, lower: Tensor, upper: Tensor, nu: Tensor, free: Tensor | None = None,
    roundoffs: Roundoffs | None = None,
) -> Lowering:  # fmt: skip
    """An activation or a product under multipliers nu, [B, S, *shape] or [B, S, 2, M].

    Args:
        lower, upper: [B, *shape of the parent]. free: as of `Multipliers.of`; a product's are those that vary.
    """
    if isinstance(op, Product):
        return ProductMultipliers(op, lower, upper, nu)
    assert isinstance(op, Activation)
    return Multipliers.of(op, lower, upper, nu, free, roundoffs)


def as_slopes(nu_hat: Tensor, nu: Tensor) -> Tensor:  # [*shape] each -> [*shape]
    """The slopes nu / nu-hat that multipliers amount to; 0 where there is none: any slope proves something."""
    return torch.where(nu_hat == 0, 0.0, nu / nu_hat).nan_to_num(nan=0.0)


def corner_minimum(pieces: Pieces, nu_hat: Tensor, nu: Tensor) -> Tensor:
    """min over the corners of nu_hat y - nu x, per neuron: [B, S, *shape]. NaN where any part of it is NaN."""
    least: Tensor | None = None
    for x, y in zip(pieces.x, pieces.y, strict=True):
        value = nu_hat * y.unsqueeze(1) - nu * x.unsqueeze(1)
        least = value if least is None else torch.minimum(least, value)
    assert least is not None
    return least


def dual_bound(
    query: Query,
    bounds: Bounds,
    multipliers: Mapping[int, Tensor],
    free: Mapping[int, Tensor] | None = None,
    visit: Callable[[int, State, State], None] | None = None,
) -> Tensor:
    """Lower bounds [B, S] of all rows of the specification by the multipliers of every activation.

    What rounding may cost is taken off where that can be bounded (`verifier.relaxation.roundoff.rigorous`): given the
    intervals, such bounds hold in the real numbers.

    Args:
        bounds: of every pre-activation.
        multipliers: activation node -> nu [B, S, *shape], any values; of a product [B, S, 2, M].
        free: activation node -> [B, *shape] bool, which neurons the multipliers are for; default the unstable ones.
        visit: as of `pull_back`.
    """
    graph, dtype = query.graph, query.graph.dtype
    roundoffs = roundoffs_for(query)
    bounds = bounds.to(dtype)
    if roundoffs is not None:
        rounded_outward(query, bounds, roundoffs)
    lowerings: dict[int, Lowering] = {}
    for i in graph.activations:
        nu = multipliers[i].to(dtype)
        chosen = None if free is None else free[i]
        lowerings[i] = multiplied(*activation_over(graph, bounds, i), nu, chosen, roundoffs)
    rows = query.spec.rows.to(dtype)
    start = OneSided(Dense(rows.unflatten(2, graph.output_shape)))
    lower = bound(graph, query.inputs, lowerings, graph.output, start, rows, visit, roundoffs) + query.spec.offset.to(
        dtype
    )
    return lower if roundoffs is None else lower - roundoffs.offset(query)
