"""Dual bounds of thousands of boxes at once: what `dual-adaptive` computes, with less memory traffic.

For every box: bounds of the pre-activations in topological order, each neuron that is still undecided by a form pulled
back to the input, then lower forms of the specification's rows. Forms are dense, [boxes, rows, *shape], and small
groups of boxes are worked on at a time, so that a group's forms stay in the processor's cache. Boxes are grouped by how
many neurons they leave undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.budget import checkpoint
from verifier.forms import Dense, LinearForm, Selected
from verifier.graph import Graph
from verifier.ops.base import Affine, LinearRelaxation, Nonlinear, SlopeRule
from verifier.ops.product import Product
from verifier.relaxation import interval
from verifier.relaxation.dual import unstable_at
from verifier.relaxation.picking import masked_first
from verifier.relaxation.products import Planes
from verifier.relaxation.ranges import Range

#: numbers in the forms of one group: a few such tensors fit a processor's cache
_GROUP = 1 << 16


@dataclass(frozen=True)
class Relaxed:
    """An activation's lines over D boxes, as the backward pass wants them. Tensors [D, *shape].

    A form of their own, for speed: with the difference of the slopes one tensor of a form's size less is read and
    written than with both lines (verifier.relaxation.families) or with their mean and spread
    (verifier.relaxation.backward.Relaxation), and here those tensors are the whole cost.
    """

    lower_slope: Tensor
    change: Tensor  #: upper slope less lower slope
    lower_bias: Tensor | None  #: None where it is zero everywhere
    upper_bias: Tensor

    @classmethod
    def of(cls, lines: LinearRelaxation) -> Relaxed:
        bias = lines.lower_bias if bool((lines.lower_bias != 0).any()) else None  # NaN is not zero
        return cls(lines.lower_slope, lines.upper_slope - lines.lower_slope, bias, lines.upper_bias)

    def select(self, index: Tensor) -> Relaxed:  # [k] int64
        bias = None if self.lower_bias is None else self.lower_bias[index]
        return Relaxed(self.lower_slope[index], self.change[index], bias, self.upper_bias[index])

    def below(self, form: Tensor) -> tuple[Tensor, Tensor]:  # [D, R, *shape] -> [D, R, *shape], [D, R]
        """The form on the activation's input that is below `form` on its output, and its constant."""
        falling = form.clamp(max=0)
        constant = _dot(falling, self.upper_bias)
        if self.lower_bias is not None:
            constant += _dot(form - falling, self.lower_bias)
        below = form * self.lower_slope.unsqueeze(1)
        return below.addcmul_(falling, self.change.unsqueeze(1)), constant

    def loss(self, coefficient: Tensor, low: Tensor, high: Tensor) -> Tensor:  # [D, *shape] each
        """What the lines cost at most, about: for a coefficient on the output."""
        above = torch.maximum(-low * self.lower_slope, high * (1 - self.lower_slope)).clamp(min=0)
        gap = torch.where(coefficient < 0, self.upper_bias, 0.5 * above)
        return torch.where(self.change != 0, coefficient.abs() * gap, 0.0)


@dataclass(frozen=True)
class RelaxedProducts:
    """Products' planes over D boxes."""

    planes: Planes

    def select(self, index: Tensor) -> RelaxedProducts:  # [k] int64
        return RelaxedProducts(self.planes.select(index))

    def below(self, form: Tensor) -> tuple[Tensor, Tensor]:  # [D, R, M] -> [D, R, *parent], [D, R]
        """The form on the factors that is below `form` on the products, and its constant."""
        below, constant = self.planes.below(Dense(form))
        return below.dense(), constant

    def loss(self, coefficient: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """What the planes cost at most, shared by both factors: [D, *parent] for coefficients [D, M]."""
        op = self.planes.op
        width = op.read(high) - op.read(low)
        cost = (coefficient.abs() * 0.125 * width[:, 0] * width[:, 1]).unsqueeze(1)
        return op.onto(cost.unsqueeze(2).expand(-1, -1, 2, -1), self.planes.parent).squeeze(1)


Lines = Relaxed | RelaxedProducts


def relaxed_over(graph: Graph, node: int, ends: Range, slope: Tensor | SlopeRule) -> Lines:
    """An activation's lines or a product's planes over D boxes, where what it reads is between `ends`."""
    op = graph.nodes[node].op
    assert isinstance(op, Nonlinear)
    lines = op.relax(*ends, slope)
    if isinstance(op, Product):
        return RelaxedProducts(Planes(op, tuple(ends[0].shape[1:]), lines))
    return Relaxed.of(lines)


@dataclass(frozen=True)
class Forms:
    """Affine functions of the input, constant + slope . x, that are below R rows on D boxes."""

    slope: Tensor  # [D, R, n]
    constant: Tensor  # [D, R]

    def least(self, lower: Tensor, upper: Tensor) -> Tensor:  # [D, n] each -> [D, R]
        """Their smallest values on boxes."""
        middle, radius = middle_and_radius(lower, upper)
        return self.constant + _dot(self.slope, middle) - _dot(self.slope.abs(), radius)

    def select(self, index: Tensor) -> Forms:  # [k] int64
        return Forms(self.slope[index], self.constant[index])

    def add(self, offset: Tensor) -> Forms:  # [D, R]
        return Forms(self.slope, self.constant + offset)


@dataclass(frozen=True)
class BoxBounds:
    """What the backward passes found for D boxes."""

    ranges: dict[int, Range]  #: of every node up to the last activation, [D, *shape] each
    relaxed: dict[int, Lines]
    reach: dict[int, Tensor]  #: of pre-activations, [D, k, size]: how far each side moves an undecided neuron

    def select(self, index: Tensor) -> BoxBounds:  # [k] int64
        ranges = {i: (low[index], high[index]) for i, (low, high) in self.ranges.items()}
        relaxed = {i: r.select(index) for i, r in self.relaxed.items()}
        return BoxBounds(ranges, relaxed, {i: r[index] for i, r in self.reach.items()})


class Kernel:
    """Bounds of boxes for one graph with adaptive slopes, in the graph's precision.

    Args:
        sides: [k] int64, the input entries that boxes are split along; default all.
    """

    def __init__(self, graph: Graph, sides: Tensor | None = None) -> None:
        self.graph = graph
        inputs = int(torch.Size(graph.input_shape).numel())
        self.sides = torch.arange(inputs) if sides is None else sides
        self.like = torch.zeros((), dtype=graph.dtype)
        self.children: dict[int, list[int]] = {}
        for i in graph.activations:
            self.children.setdefault(graph.nodes[i].parents[0], []).append(i)
        self.last = max(graph.activations, default=0)
        self._widest = {i: max(graph.nodes[k].size for k in graph.ancestors[i]) for i in (*self.children, graph.output)}
        self._exact = {i: self._coefficients(i) for i in self.children if graph.exact_by_interval[i]}

    def _coefficients(self, node: int) -> Tensor:
        """|coefficients| [k, size] at which a node is read from the input; of activations on the way, at zero."""
        graph, shape = self.graph.until(node), self.graph.input_shape
        n = int(torch.Size(shape).numel())
        units = torch.cat([torch.zeros(1, n), torch.eye(n)]).to(graph.dtype).unflatten(1, shape)
        values = graph.forward(units).flatten(1)
        return (values[1:] - values[:1]).abs()[self.sides]

    def bounds(self, lower: Tensor, upper: Tensor, known: Mapping[int, Range]) -> BoxBounds:
        """Ranges and lines over D boxes.

        Args:
            lower, upper: [D, n] in the graph's precision.
            known: of pre-activations, what holds on the boxes anyway.
        """
        graph, shape = self.graph, self.graph.input_shape
        radius = middle_and_radius(lower, upper)[1]
        ranges: dict[int, Range] = {0: (lower.unflatten(1, shape), upper.unflatten(1, shape))}
        relaxed: dict[int, Lines] = {}
        reach: dict[int, Tensor] = {}
        for i in range(self.last + 1):
            if i > 0:
                ranges[i] = interval.step(graph, i, ranges)
            if i not in self.children:
                continue
            if i in known:
                low, high = known[i]
                ranges[i] = (torch.maximum(ranges[i][0], low), torch.minimum(ranges[i][1], high))
            if i in self._exact:
                reach[i] = self._exact[i] * radius[:, self.sides].unsqueeze(2)
            else:
                ranges[i], reach[i] = self._tightened(i, ranges[i], relaxed, lower, upper)
            for child in self.children[i]:
                relaxed[child] = relaxed_over(graph, child, ranges[i], SlopeRule.ADAPTIVE)
        return BoxBounds(ranges, relaxed, reach)

    def rows(self, rows: Tensor, relaxed: Mapping[int, Lines]) -> Forms:
        """Lower forms of the rows [D, S, *output]."""
        step = max(1, _GROUP // (rows.shape[1] * self._widest[self.graph.output]))
        parts = []
        for boxes in torch.arange(len(rows)).split(step):
            part = {i: r.select(boxes) for i, r in relaxed.items()}
            parts.append(self._pull({self.graph.output: Dense(rows[boxes])}, part, None))
        return Forms(torch.cat([p.slope for p in parts]), torch.cat([p.constant for p in parts]))

    def losses(self, rows: Tensor, found: BoxBounds) -> Tensor:  # [D, *output] -> [D, n]
        """How much of the distance between a row and its lower form each side of the box answers for: an estimate.

        What an undecided neuron's lines cost at most, shared among the sides as they move the neuron's input.
        """
        total = torch.zeros_like(found.ranges[0][0].flatten(1))

        def note(node: int, form: Tensor) -> None:  # [D, 1, *shape]
            parent, lines = self.graph.nodes[node].parents[0], found.relaxed[node]
            loss = lines.loss(form[:, 0], *found.ranges[parent]).flatten(1)
            reach = found.reach[parent]
            share = reach / reach.sum(1, keepdim=True).clamp(min=torch.finfo(reach.dtype).tiny)
            total[:, self.sides] += torch.einsum("dm,dnm->dn", loss, share)

        self._pull({self.graph.output: Dense(rows.unsqueeze(1))}, found.relaxed, None, note)
        return total

    def _tightened(
        self, node: int, known: Range, relaxed: Mapping[int, Lines], lower: Tensor, upper: Tensor
    ) -> tuple[Range, Tensor]:
        """The range of one pre-activation, its undecided neurons bounded by backward passes; and their reach.

        Args:
            lower, upper: [D, n], the boxes.

        Returns:
            The range, [D, *shape] each, and the reach, [D, k, size].
        """
        shape = self.graph.nodes[node].shape
        low, high = (t.flatten(1).clone() for t in known)
        reach = low.new_zeros(*low.shape, len(self.sides))
        mask = unstable_at(self.graph, node, *known).flatten(1)
        order = mask.sum(1).argsort(descending=True)
        counts = mask.sum(1)[order].tolist()
        index = masked_first(mask)
        start = 0
        while start < len(order) and counts[start] > 0:
            rows = counts[start]
            size = max(1, _GROUP // (2 * rows * self._widest[node]))
            boxes, start = order[start : start + size], start + size
            picked, where = index[boxes, :rows], boxes.unsqueeze(1)
            part = {i: r.select(boxes) for i, r in relaxed.items()}
            forms = self._both(node, Selected(picked.reshape(1, -1), shape, low), part, len(boxes))
            values = forms.least(lower[boxes], upper[boxes])
            half = 0.5 * (upper - lower)[boxes][:, self.sides]
            reach[where, picked] = forms.slope[:, :rows][..., self.sides].abs() * half.unsqueeze(1)
            # neurons that only fill up the rows are left as they are, so that no box depends on its neighbours; where
            # a NaN came out, nothing is known beyond what was known: fmax and fmin keep that
            asked = mask[where, picked]
            below = torch.where(asked, values[:, :rows], -torch.inf)
            above = torch.where(asked, -values[:, rows:], torch.inf)
            low[where, picked] = torch.fmax(low[where, picked], below)
            high[where, picked] = torch.fmin(high[where, picked], above)
        return (low.unflatten(1, shape), high.unflatten(1, shape)), reach.transpose(1, 2)

    def _both(self, node: int, picked: Selected, relaxed: Mapping[int, Lines], boxes: int) -> Forms:
        """Lower forms of D times R single neurons, box by box, then of their negatives: [D, 2 R]."""
        op, parents, shapes = self.graph.nodes[node].op, self.graph.nodes[node].parents, self.graph.parent_shapes(node)

        def signed(rows: Tensor) -> Tensor:  # [1, D R, ...] -> [D, 2 R, ...]
            rows = rows.reshape(boxes, -1, *rows.shape[2:])
            return torch.cat([rows, -rows], 1)

        if not isinstance(op, Affine):
            return self._pull({node: Dense(signed(picked.dense()))}, relaxed, None)
        bias = op.bias(shapes, self.like)
        constant = None if bias is None else signed(picked.dot(bias))
        pending: dict[int, LinearForm] = {}
        for k, parent in enumerate(parents):  # on bare neurons an operator knows something better than a product
            _accumulate(pending, parent, Dense(signed(op.adjoint(picked, shapes, k).dense())))
        return self._pull(pending, relaxed, constant)

    def _pull(
        self,
        pending: dict[int, LinearForm],
        relaxed: Mapping[int, Lines],
        constant: Tensor | None,
        note: Callable[[int, Tensor], None] | None = None,
    ) -> Forms:
        """Forms [D, R] at some nodes, pulled back to the input and summed there."""
        graph, total = self.graph, constant
        some = next(iter(pending.values())).dense()
        for i in range(max(pending), 0, -1):
            form = pending.pop(i, None)
            if form is None:
                continue
            checkpoint()
            op, parents = graph.nodes[i].op, graph.nodes[i].parents
            if isinstance(op, Nonlinear):
                dense = form.dense()
                if note is not None:
                    note(i, dense)
                below, add = relaxed[i].below(dense)
                total = add if total is None else total + add
                _accumulate(pending, parents[0], Dense(below))
            else:
                assert isinstance(op, Affine)
                shapes = graph.parent_shapes(i)
                bias = op.bias(shapes, self.like)
                if bias is not None:
                    add = _rows_of(form.dense()) @ bias.reshape(-1)
                    total = add if total is None else total + add
                for k, parent in enumerate(parents):
                    _accumulate(pending, parent, op.adjoint(form, shapes, k))
        lead = some.shape[:2]
        last = pending.get(0)
        slope = some.new_zeros(*lead, int(torch.Size(graph.input_shape).numel())) if last is None else last.dense()
        return Forms(_rows_of(slope), some.new_zeros(lead) if total is None else total)


def middle_and_radius(lower: Tensor, upper: Tensor) -> Range:  # [D, n] each -> [D, n] each
    """Middles and radii of boxes; the radius reaches both ends, up to its own rounding.

    Rounded once, unlike those of verifier.relaxation.ranges: proofs of boxes are searched for with these very numbers.
    """
    middle = 0.5 * lower + 0.5 * upper
    return middle, torch.maximum(upper - middle, middle - lower)


def _dot(form: Tensor, x: Tensor) -> Tensor:  # [D, R, *shape], [D, *shape] -> [D, R]
    return torch.bmm(_rows_of(form), x.reshape(len(x), -1, 1)).squeeze(2)


def _accumulate(pending: dict[int, LinearForm], node: int, form: LinearForm) -> None:
    pending[node] = pending[node].add(form) if node in pending else form


def _rows_of(form: Tensor) -> Tensor:
    """Coefficients [B, R, *shape] as [B, R, n]; a shape of no dimensions has one entry."""
    return form.reshape(*form.shape[:2], -1)
