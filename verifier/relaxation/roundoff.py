"""What rounding may cost a backward pass, as one vector per node: its bounds then hold in the real numbers.

A backward pass carries computed coefficients nu_k. They are numbers as they are, so that at an affine node y = A z + b

    nu . y  =  nu_p . z  +  nu . b  +  (A^T nu - nu_p) . z,       nu_p = the computed A^T nu,

and the last term is all that rounding does: a coefficient is a sum of n products, off by at most gamma_n |A|^T |nu| in
any order of summation (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), so that the term is at
most gamma_n |nu| . (|A| M), M the largest |z|. The rest that rounds at the node is a sum of products as well: nu . b is
off by gamma of its terms times |nu| . |b|, and what is added up afterwards (contributions of several children, all
constants) by gamma of their number times what they are sums of. A row pays |nu_k| . roundoff_k for all of it.

An activation's form nu_hat becomes nu_hat . (line), off by

- gamma of a few times |nu_hat| . (|slopes| M + |biases|): its own products;
- gamma of the terms of a row times |nu_hat| . |biases|: the constant;

and the input's form ends in the set's support function, off by gamma of its terms times |nu_0| . M. Each is
|nu_hat| . owed. As |nu_hat| <= |A|^T |nu| (1 + gamma), the affine child pays |nu| . (|A| owed), and no product with
nu_hat is needed. Nodes that only move entries pass on what is owed. Lines are computed, then *checked* over their
interval, and moved apart by what is missing, so that how they were computed does not matter.

A convolution may keep its adjoint as a product until the next node. What multiplies an activation's biases, or the
input set, is then computed as nu . (A x), or rounded in between: both are off by gamma of all terms times
|nu| . (|A| |x|).

Sums of such errors: gamma_a + gamma_b + gamma_a gamma_b <= gamma_(a + b) (Higham, lemma 3.3).

Products that underflow are off by at most the smallest normal number, whether or not results are flushed to zero. That
is a constant for each coefficient, multiplied by two numbers of the network and a value at most: `rest` in all.

With `Semantics.FLOAT32` a computed value deviates from A z + b by at most gamma_T (|A| M + |b|) in float32, in any
order of summation, blocked, with or without fused multiply-adds (not Winograd's or FFT convolutions, nor TF32). A row
pays |nu_k| times that in addition, and M covers it.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.bound_map import BoundMethod, Bounds, Interval, Provenance
from verifier.forms import LinearForm
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine, Nonlinear, Pieces, SlopeRule
from verifier.query import Query
from verifier.relaxation.backward import Relaxation
from verifier.relaxation.ranges import Range, middle_and_radius
from verifier.rounding import gamma, unit_roundoff
from verifier.verdict import Semantics, Trust

#: roundings besides those of sums: of parameters from another precision, of products of a few factors, of the numbers
#: in here
_FEW = 20

#: a bound pays for a few sums of each node: its value, its coefficients, the neurons that rest on it
PAID = 6


@dataclass(frozen=True)
class _Roundoff:
    """What the coefficients at a node pay: base + gamma_(terms of a row) * each, tensors [B, *shape]."""

    base: Tensor
    each: Tensor | None
    forward: int  #: terms of products with the node's matrix, to be added to those of a row


class Roundoffs:
    """Slacks of one batch, worked out node by node in topological order.

    `step` must be called for the nodes in their order, with the final ranges of the earlier ones, and `relaxation`
    for an activation before its `step` where the pass uses lines.
    """

    def __init__(self, query: Query) -> None:
        self.graph, self.narrow = query.graph, query.semantics is Semantics.FLOAT32
        dtype = query.graph.dtype
        self.unit, self.tiny = unit_roundoff(dtype), 2 * torch.finfo(dtype).tiny
        self._common = counted(query.graph)
        sets = query.inputs.outer() or query.inputs
        largest = _largest(sets.box(dtype))
        self._size: dict[int, Tensor] = {0: largest}  # largest magnitudes
        #: magnitudes of what a form on the node is multiplied with before its coefficients are written out
        self._ends: dict[int, Tensor] = {0: largest}
        terms = (query.inputs.summed or 1) * (query.graph.nodes[0].size + 16) + self._common
        self._owed: dict[int, Tensor] = {0: self._factor(terms) * largest}
        self._at: dict[int, _Roundoff] = {}
        self._steepest = 1.0
        self._rest = self.tiny * terms * (largest + 1).reshape(len(largest), -1).sum(1)  # [B]

    @property
    def rest(self) -> Tensor:  # [B, 1]
        """What underflow may cost a row, whatever its coefficients."""
        return (self._rest * self._steepest**2).unsqueeze(1)

    def has(self, node: int) -> bool:
        """Whether coefficients at the node pay for themselves."""
        return node in self._at

    def pays(self, node: int, terms: int) -> Tensor | None:
        """[B, *shape]: what coefficients at the node pay, each times its magnitude; None: their children pay for them.

        Args:
            terms: how many of a row's coefficients are not zero, at most.
        """
        roundoff = self._at.get(node)
        if roundoff is None:
            return None
        base = (
            roundoff.base
            if roundoff.each is None
            else roundoff.base + self._factor(terms + roundoff.forward) * roundoff.each
        )
        return base * (1 + self.relative(terms))

    def first(self, node: int, terms: int) -> Tensor:
        """[B, *shape]: the same for a form that starts at the node, and has no child that paid for it."""
        roundoff = self.pays(node, terms)
        if roundoff is not None:
            return roundoff
        return (self._owed[node] + self._factor(self._common) * self._size[node]) * (1 + self.relative(terms))

    def offset(self, query: Query) -> Tensor:
        """What casting the specification's offsets and adding them to bounds may cost: [B, S]."""
        return 8 * self.unit * query.spec.offset.to(self._rest).abs() + self.tiny

    def relative(self, terms: int) -> float:
        """Relative error of a sum of so many products, each of a few factors."""
        return self._factor(terms + _FEW)

    def _factor(self, terms: int) -> float:
        """gamma of `terms`, and what its products with computed numbers may be too small; infinite where that fails."""
        share = gamma(terms, self.unit)
        return share * (1 + 8 * share + _FEW * self.unit) if share < 1 / 16 else float("inf")

    def step(self, node: int, ranges: Mapping[int, Range]) -> Range:
        """Bounds of one node from those of its parents, rounded outward."""
        op = self.graph.nodes[node].op
        if isinstance(op, Nonlinear):
            return self._activation(node, op, ranges)
        assert isinstance(op, Affine)
        return self._affine(node, op, ranges)

    def _activation(self, node: int, op: Nonlinear, ranges: Mapping[int, Range]) -> Range:
        ends = ranges[self.graph.nodes[node].parents[0]]
        low, high = op.range(*ends)
        if op.roundings > 0:
            size, below = _largest((low, high)), _largest(ends)
            if not isinstance(op, Activation):  # its factors are no neighbours of its own entries
                below = below.flatten(1).amax(1, keepdim=True)
            off = (op.roundings + 2) * self.unit * size + self.tiny * (1 + below) + self._deviation(op, size, below)
            low, high = low - off, high + off
        size = _largest((low, high))
        if node in self._owed:  # lines
            self._size[node] = torch.maximum(size, self._size[node])
        else:  # interval arithmetic, or multipliers: they pay for themselves
            self._size[node], self._owed[node] = size, self._factor(self._common) * size
        self._underflow(self._size[node], self.graph.nodes[node].size)
        return low, high

    def _deviation(self, op: Nonlinear, size: Tensor, below: Tensor) -> Tensor | float:
        """How far float32 evaluations of an activation may be from its value, of that size [B, *shape] at most.

        Args:
            below: [B, *shape], the largest magnitude of what it reads.
        """
        if not self.narrow or op.roundings == 0:
            return 0.0
        limits = torch.finfo(torch.float32)
        terms = size + below if op.cancels else size
        off = 1.001 * (op.roundings + 1) * unit_roundoff(torch.float32) * terms + limits.tiny * (1 + below)
        return torch.where(size < limits.max / 2, off, torch.inf)

    def _affine(self, node: int, op: Affine, ranges: Mapping[int, Range]) -> Range:
        graph, shapes = self.graph, self.graph.parent_shapes(node)
        parents, entries, terms = graph.nodes[node].parents, graph.nodes[node].size, op.terms(shapes)
        for p in parents:
            self._settle(p, ranges[p])
        lazy = op.keeps_patches and not op.diagonal  # its adjoint may be kept as a product
        vectors: list[tuple[Tensor, ...]] = [(self._size[p], self._owed[p]) for p in parents]
        if lazy:
            vectors = [(*v, self._ends.get(p, torch.zeros_like(v[0]))) for v, p in zip(vectors, parents, strict=True)]
        moved = op.apply_abs(*(torch.cat(v) for v in vectors)).chunk(3 if lazy else 2)
        ones = op.apply_abs(*(v[0].new_ones(1, *v[0].shape[1:]) for v in vectors))  # [1, *shape]
        size, owed, bias = moved[0], moved[1], op.bias_size(shapes, moved[0])
        if bias is not None:
            size = size + bias
        sums = op.adjoint_terms(shapes, entries) + self._common
        largest = torch.stack([v[0].reshape(len(v[0]), -1).amax(1) for v in vectors]).amax(0)
        largest = largest.reshape(-1, *(1,) * (size.dim() - 1))
        tiny = self._tiny([v[0] for v in vectors], largest, size, ones, terms + sums + 2 * entries)
        # a product with the matrix where the adjoint is kept as one; the matrix itself where it takes roundings to make
        sums = sums + terms if lazy or op.diagonal else sums
        base = (self._factor(sums) * size + owed) * (1 + self.relative(terms)) + tiny
        off = self.relative(terms) * size + tiny
        if self.narrow and not op.exact:
            deviation = self._deviations(terms, size, largest, ones)
            base, off = base + deviation, off + deviation
        if op.diagonal and (op.exact or not self.narrow):
            self._size[node] = size * (1 + self.relative(terms))
            self._owed[node] = base if bias is None else base + self._factor(entries) * bias
        else:
            each = bias if not lazy else moved[2] if bias is None else moved[2] + bias
            self._at[node] = _Roundoff(base, each, terms if lazy else 0)
        if op.exact:
            return op.apply(*(ranges[p][0] for p in parents)), op.apply(*(ranges[p][1] for p in parents))
        middles, radii = zip(*(middle_and_radius(*ranges[p]) for p in parents), strict=True)
        middle, radius = op.apply(*middles), op.apply_abs(*radii) + off
        return middle - radius, middle + radius

    def _settle(self, node: int, ends: Range) -> None:
        """Note the size of a node that pays for itself, when its first child asks: its range is final by now."""
        if node not in self._size:
            self._size[node] = _largest(ends)
            self._owed[node] = torch.zeros_like(self._size[node])

    def _tiny(self, parents: list[Tensor], largest: Tensor, size: Tensor, ones: Tensor, terms: int) -> Tensor:
        """What underflow may cost a node's values and products with its coefficients; notes what it may cost a row.

        Args:
            parents: their sizes; `largest` [B, 1, ...]: the largest entry of them.
        """
        self._steepest = max(self._steepest, float(ones.detach().max()))
        self._underflow(size + ones, terms)
        for parent in parents:  # their coefficients are sums of so many products
            self._underflow(parent, terms)
        return self.tiny * terms * (1 + largest + ones)

    def _underflow(self, sizes: Tensor, terms: int) -> None:  # sizes [B, *shape]
        self._rest = self._rest + self.tiny * (terms + self._common) * (sizes + 1).reshape(len(sizes), -1).sum(1)

    def _deviations(self, terms: int, size: Tensor, largest: Tensor, ones: Tensor) -> Tensor:
        """How far float32 evaluations of an affine node may be from its value: [B, *shape].

        Infinite where a sum may overflow. Parameters and values that are flushed to zero are lost with what they are
        multiplied with.
        """
        limits = torch.finfo(torch.float32)
        share = gamma(terms + 2, unit_roundoff(torch.float32)) * (1 + 2 * self.relative(terms + self._common))
        off = share * size + limits.tiny * (terms * (1 + largest) + ones)
        # a mean adds up before it divides
        return torch.where(terms * size < limits.max / 2, off, torch.inf)

    def relaxation(self, node: int, lower: Tensor, upper: Tensor, rule: SlopeRule, value: Range) -> Relaxation:
        """Lines of an activation over [lower, upper] that hold with their coefficients as they were rounded.

        Args:
            lower, upper: [B, *shape]. value: the final range of the activation's parent.
        """
        op, parent = self.graph.nodes[node].op, self.graph.nodes[node].parents[0]
        assert isinstance(op, Activation)
        lines = Relaxation.of(op.relax(lower, upper, rule))
        if op.piecewise_linear:
            lines = replace(lines, bias_spread=lines.bias_spread + self._missing(lines, op.pieces(lower, upper)))
        if self.narrow and op.roundings:
            off = self._deviation(op, _largest(op.range(lower, upper)), _largest((lower, upper)))
            lines = replace(lines, bias_spread=lines.bias_spread + off)
        self._settle(parent, value)
        slope = lines.mean.abs() if lines.spread is None else lines.mean.abs() + lines.spread.abs()
        ends = lines.bias_mean.abs() + lines.bias_spread.abs()
        self._size[node], self._ends[node] = slope * self._size[parent], ends
        entries = self.graph.nodes[node].size
        own = self._factor(self._common) * (self._size[node] + ends) + self._factor(entries) * ends
        self._owed[node] = (slope * self._owed[parent] + own) * (1 + self.relative(1))
        return lines

    def _missing(self, lines: Relaxation, pieces: Pieces) -> Tensor:
        """By how much an activation may leave its lines, the roundings of working it out added: [B, *shape].

        The polyline and the lines differ by a piecewise linear function of x: its largest value is at a corner. Corners
        are off by a rounding where a constant was; each term is rounded a few times.
        """
        missing = torch.zeros_like(lines.mean)
        for x, y in zip(pieces.x, pieces.y, strict=True):
            line = lines.mean * x
            middle, half = line + lines.bias_mean - y, lines.bias_spread
            sizes = line.abs() + y.abs() + lines.bias_mean.abs() + half.abs()
            if lines.spread is not None:
                more = lines.spread * x
                half, sizes = half + more, sizes + more.abs()
            missing = torch.maximum(missing, middle.abs() - half + (16 * self.unit * sizes + self.tiny * (1 + x.abs())))
        return missing


def counted(graph: Graph) -> int:
    """Terms that are added to every count: of a row's constants, two per node and a few, and of a node's children."""
    children = Counter(p for node in graph.nodes for p in node.parents)
    return 2 * len(graph.nodes) + max(children.values(), default=0) + _FEW


def rigorous(query: Query) -> bool:
    """Whether bounds with roundoffs account for every rounding error: on a CPU, where they `can_pay`.

    Not on GPUs. Their libraries say in no document that a product is a sum of products, rounded term by term, for every
    shape: which kernel runs is their choice, and modes of emulation are on for some shapes alone.
    """
    return query.open.device.type == "cpu" and can_pay(query)


def can_pay(query: Query) -> bool:
    """Whether bounds with roundoffs account for every rounding error when they are computed on a CPU.

    Not for smooth activations (torch's exp comes with no error bound), nor for input sets whose support function has
    no error analysis, nor where a library may convolve by Winograd's algorithm (float32 on ARM), nor where constants of
    the graph are not the model's own but rounded ones.
    """
    if query.graph.rounded:
        return False
    plain = query.graph.dtype is torch.float64 or platform.machine().lower() in ("x86_64", "amd64")
    activations = (query.graph.nodes[i].op for i in query.graph.activations)
    piecewise = all(isinstance(op, Activation) and op.piecewise_linear for op in activations)
    return plain and piecewise and query.inputs.summed is not None


def roundoffs_for(query: Query) -> Roundoffs | None:
    """What bounds of this query must pay; None where that would not make them rigorous."""
    return Roundoffs(query) if rigorous(query) or query.semantics is not Semantics.REAL else None


def trusts_of(query: Query, known: Bounds) -> Tensor:
    """[B] int64: how far bounds with roundoffs are to be trusted, made from those known."""
    best = proof_trust(query)
    return torch.tensor([min(best, t) for t in known.trusts(query.batch)])


def proof_trust(query: Query) -> Trust:
    """How far bounds with roundoffs are to be trusted, given the bounds that they were made from."""
    return Trust.CHECKED if rigorous(query) else Trust.FLOAT


#: of intervals whose roundings are paid for
CHECKED_INTERVAL = Provenance("interval", Trust.CHECKED, BoundMethod.INTERVAL)


def rounded_outward(query: Query, known: Bounds, roundoffs: Roundoffs) -> dict[int, Range]:
    """Bounds of every node, rounded outward, each intersected with what is known of it."""
    ranges: dict[int, Range] = {0: query.inputs.box(query.graph.dtype)}
    for node in range(1, len(query.graph.nodes)):
        ranges[node] = roundoffs.step(node, ranges)
        if node in known:
            tight = Interval.of(*ranges[node], CHECKED_INTERVAL).intersect(known[node])
            ranges[node] = (tight.lower, tight.upper)
    return ranges


def interval_cost(query: Query, roundoffs: Roundoffs, rows: LinearForm, below: LinearForm, size: Tensor) -> Tensor:
    """What rounding may cost bounds [B, S] of the specification's rows by intervals one layer down.

    Args:
        rows: at the output. below: at the node where the intervals are, of magnitudes `size` [B, *shape].
    """
    terms = size[0].numel()
    cost = rows.abs_dot(roundoffs.first(query.graph.output, rows.terms)) + roundoffs.relative(terms) * below.abs_dot(
        size
    )
    return cost * (1 + roundoffs.relative(terms)) + roundoffs.offset(query) + roundoffs.rest


def _largest(ends: Range) -> Tensor:  # [*shape]
    return torch.maximum(ends[0].abs(), ends[1].abs())
