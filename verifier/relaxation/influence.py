"""How much each neuron's relaxation may cost a row: which neurons to encode exactly, or to split, first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.ops.base import Activation, SlopeRule
from verifier.ops.product import Product
from verifier.query import Query
from verifier.relaxation.activations import activation_over, relaxations
from verifier.relaxation.backward import OneSided, State, bound
from verifier.relaxation.dual import start_form

#: share of a gap on the side that the row does not press against: it orders neurons that cost nothing at first sight
_OTHER_SIDE = 0.01


def influences(query: Query, bounds: Bounds) -> tuple[Tensor, dict[int, Tensor]]:
    """Lower bounds [B, S] of all rows, and per activation node the influence of each neuron on each, [B, S, *shape].

    Of a product, that of each entry of the node whose entries it multiplies, [B, S, *shape of that node].

    A row with coefficient nu-hat on a neuron's output presses it against the lower side of its hull where nu-hat > 0,
    against the upper side where nu-hat < 0. The influence is |nu-hat| times how far the function is from that side at
    its corners: for a ReLU and nu-hat < 0 it is the upper line's share of the bound, -l u / (u - l), as in the score of
    Bunel et al. (2020), section 5.3.

    Args:
        bounds: of every pre-activation.
    """
    graph = query.graph
    forms: dict[int, Tensor] = {}

    def note(node: int, after: State, before: State) -> None:
        forms[node] = after.one_sided().form.dense()

    lines, rows = relaxations(graph, bounds, SlopeRule.ADAPTIVE), query.spec.rows.to(graph.dtype)
    lower = bound(graph, query.inputs, lines, graph.output, OneSided(start_form(graph, rows)), rows, note)
    return lower + query.spec.offset.to(graph.dtype), _scores(query, bounds, forms)


def _scores(query: Query, bounds: Bounds, forms: Mapping[int, Tensor]) -> dict[int, Tensor]:  # [B, S, *shape]
    found = {}
    for node, form in forms.items():
        op, lower, upper = activation_over(query.graph, bounds, node)
        if isinstance(op, Product):  # both sides of the hull are as far from the function, at the middle
            width = op.read(upper) - op.read(lower)
            score = form.abs() * (0.25 * width[:, 0] * width[:, 1]).unsqueeze(1)
            found[node] = op.onto(score.unsqueeze(2).expand(-1, -1, 2, -1), tuple(lower.shape[1:]))
            continue
        assert isinstance(op, Activation)
        below, above = (g.unsqueeze(1) for g in _gaps(op, lower, upper))
        first, second = torch.where(form > 0, below, above), torch.where(form > 0, above, below)
        found[node] = form.abs() * (first + _OTHER_SIDE * second)
    return found


def _gaps(op: Activation, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """How far the corners are above and below the chord between the ends, [B, *shape] each."""
    pieces = op.pieces(lower, upper)
    x, y = pieces.x, pieces.y
    width = x[-1] - x[0]
    share = (x - x[0]) / torch.where(width > 0, width, 1.0)
    rise = (y - (y[0] + share * (y[-1] - y[0]))) * op.unstable(lower, upper)
    return rise.amax(0).clamp(min=0), rise.neg().amax(0).clamp(min=0)
