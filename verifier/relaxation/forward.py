"""Affine functions of the input below and above every node, found forwards: what few inputs make cheap.

A node z lies between functions of e in [-1, 1]^n, n being how many entries of the input's box vary,

    middle(e) - half(e) <= z <= middle(e) + half(e),      both affine: a constant and n slopes for every entry of z.

An affine node y = A z + b maps them to A middle + b and |A| half; an activation between its lines, slopes s - t below
and s + t above, to s middle + (|s + t| - |s - t|) / 2 half and t middle + (|s + t| + |s - t|) / 2 half, and their
biases. These are the symbolic intervals of ReluVal and Neurify (Wang et al. 2018), with a relaxation at each
activation the forward mode of Xu et al. (2020). All neurons of a layer together cost n + 1 evaluations of it, where
each takes a backward pass of its own in Algorithm 1 of Wong & Kolter: looser, but enough to leave few of them open.

Everything is computed in float64. What rounding may cost is added to the constants of `half` where it arises: a sum of
m products is off by at most gamma_m times the sum of their magnitudes (verifier.relaxation.roundoff), and over the box
an affine function is at most the sum of its coefficients' magnitudes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from properties import InputSet
from properties.rounding import cast_down, cast_up
from verifier.graph import Graph
from verifier.ops.base import Affine, Nonlinear
from verifier.relaxation.backward import Lowering, Relaxation
from verifier.relaxation.ranges import Range
from verifier.rounding import gamma, unit_roundoff

#: roundings besides those of sums: of parameters, of products of a few factors, of the numbers in here
_FEW = 20


@dataclass(frozen=True)
class _Between:
    """Functions of e on both sides of a node: [B (1 + n), *shape] each, a constant and n slopes per example."""

    middle: Tensor
    half: Tensor | None  #: None: zero


class AffineEnclosures:
    """The enclosures of one batch, worked out node by node in topological order.

    Args:
        graph: with parameters of any precision.
        inputs: enter as their boxes.
    """

    def __init__(self, graph: Graph, inputs: InputSet) -> None:
        self.graph, self.wide = graph, graph.to(dtype=torch.float64)
        self.unit, self.tiny = unit_roundoff(torch.float64), torch.finfo(torch.float64).tiny
        low, high = (t.double() for t in inputs.box(graph.dtype))
        moved = (high > low).flatten(1).any(0).nonzero().squeeze(1)
        self.batch, self.columns = inputs.batch, 1 + len(moved)
        middle, radius = (t.flatten(1) for t in self._middle_and_radius(low, high))
        slopes = torch.zeros(self.batch, len(moved), graph.nodes[0].size, dtype=torch.float64, device=low.device)
        slopes[:, torch.arange(len(moved)), moved] = radius[:, moved]
        both = torch.cat([middle.unsqueeze(1), slopes], 1)
        self._at: dict[int, _Between] = {0: _Between(both.flatten(0, 1).unflatten(1, graph.input_shape), None)}
        self._readers = dict.fromkeys(range(len(graph.nodes)), 0)
        for node in graph.nodes:
            for parent in node.parents:
                self._readers[parent] += 1

    def step(self, node: int, range_: Range, lowerings: Mapping[int, Lowering]) -> Range:
        """The node's range over the box by its enclosure, rounded outward to the graph's precision.

        Args:
            range_: what is known of the node, [B, *shape] each.
            lowerings: of the activations, up to this node.

        Returns:
            [B, *shape] each; infinite where nothing is known.
        """
        op, parents = self.wide.nodes[node].op, self.graph.nodes[node].parents
        if isinstance(op, Affine):
            found = self._affine(op, self.wide.parent_shapes(node), [self._at[p] for p in parents])
        else:
            lines = lowerings.get(node)
            own = isinstance(op, Nonlinear) and isinstance(lines, Relaxation)
            found = self._between_lines(lines, self._at[parents[0]]) if own else self._constant(range_)
        self._at[node] = found
        for parent in parents:
            self._readers[parent] -= 1
            if self._readers[parent] == 0:
                del self._at[parent]
        return self._range(found)

    def _affine(self, op: Affine, shapes: list[tuple[int, ...]], given: list[_Between]) -> _Between:
        middle = op.linear(*(g.middle for g in given))
        bias, off = op.bias(shapes, middle), op.bias_size(shapes, middle)
        size = op.apply_abs(*(self._largest(g) for g in given))
        if bias is not None and off is not None:
            middle, size = self._to_constants(middle, bias), size + off
        half = None
        if any(g.half is not None for g in given):
            parts = [torch.zeros_like(g.middle) if g.half is None else g.half for g in given]
            half = op.apply_abs(*(p.clamp(min=0) for p in parts)) - op.apply_abs(*(-p.clamp(max=0) for p in parts))
        if op.exact:
            return _Between(middle, half)
        terms = op.terms(shapes)
        ones = op.apply_abs(*(torch.ones_like(g.middle[:1]) for g in given))
        cost = self._factor(2 * terms) * size + self.tiny * terms * (1 + ones) * self.columns
        return _Between(middle, self._to_constants(torch.zeros_like(middle) if half is None else half, cost))

    def _between_lines(self, lines: Lowering | None, given: _Between) -> _Between:
        assert isinstance(lines, Relaxation)
        slope, bias, away = (t.double() for t in (lines.mean, lines.bias_mean, lines.bias_spread))
        spread = torch.zeros_like(slope) if lines.spread is None else lines.spread.double()
        below, above = (slope - spread).abs(), (slope + spread).abs()
        size = torch.maximum(below, above) * self._largest(given) + bias.abs() + away.abs()
        cost = self._factor(_FEW) * size + _FEW * self.tiny * self.columns
        s, t, less, more = (self._each(x) for x in (slope, spread, 0.5 * (above - below), 0.5 * (above + below)))
        middle, half = s * given.middle, t * given.middle
        if given.half is not None:
            middle, half = middle + less * given.half, half + more * given.half
        return _Between(self._to_constants(middle, bias), self._to_constants(half, away + cost))

    def _constant(self, range_: Range) -> _Between:
        """Functions without slopes: the range itself."""
        middle, radius = self._middle_and_radius(*(t.double() for t in range_))
        zeros = middle.new_zeros(self.batch * self.columns, *middle.shape[1:])
        return _Between(self._to_constants(zeros, middle), self._to_constants(zeros, radius))

    def _middle_and_radius(self, low: Tensor, high: Tensor) -> Range:  # [B, *shape] each
        """Of ranges, the radius rounded outward."""
        middle = torch.where(low < high, 0.5 * low + 0.5 * high, low)
        return middle, torch.maximum(high - middle, middle - low) * (1 + 4 * self.unit) + self.tiny

    def _range(self, between: _Between) -> Range:
        middle = self._split(between.middle)
        half = torch.zeros_like(middle) if between.half is None else self._split(between.half)
        cost = self._factor(self.columns) * self._largest(between) + self.columns * self.tiny
        low = middle[:, 0] - half[:, 0] - (middle[:, 1:] - half[:, 1:]).abs().sum(1) - cost
        high = middle[:, 0] + half[:, 0] + (middle[:, 1:] + half[:, 1:]).abs().sum(1) + cost
        dtype = self.graph.dtype
        low, high = cast_down(low, dtype), cast_up(high, dtype)
        return torch.where(low.isnan(), -torch.inf, low), torch.where(high.isnan(), torch.inf, high)

    def _largest(self, between: _Between) -> Tensor:  # [B, *shape]
        """How large the coefficients are together."""
        size = self._split(between.middle.abs()).sum(1)
        return size if between.half is None else size + self._split(between.half.abs()).sum(1)

    def _factor(self, terms: int) -> float:
        """gamma of so many products, with room for the rounding of what it is multiplied with."""
        return 1.01 * gamma(terms + _FEW, self.unit)

    def _split(self, functions: Tensor) -> Tensor:  # [B (1 + n), *shape] -> [B, 1 + n, *shape]
        return functions.unflatten(0, (self.batch, self.columns))

    def _each(self, factor: Tensor) -> Tensor:  # [B, *shape] -> [B (1 + n), *shape]
        return factor.repeat_interleave(self.columns, 0)

    def _to_constants(self, functions: Tensor, numbers: Tensor) -> Tensor:
        """The functions [B (1 + n), *shape] with numbers [B or 1, *shape] added to their constants."""
        result = self._split(functions).clone()
        result[:, 0] += numbers
        return result.flatten(0, 1)


def varying(inputs: InputSet, dtype: torch.dtype) -> int:
    """Entries of the input that are not fixed in every example, in that precision."""
    low, high = inputs.box(dtype)
    return int((high > low).flatten(1).any(0).sum())
