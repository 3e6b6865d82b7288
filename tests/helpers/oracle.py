"""The truth about tiny piecewise linear networks, by exhaustion. Imports numpy and scipy, nothing of the product.

A network is a list of steps in topological order; value 0 is the input, step i (from 1) makes value i from earlier
ones. The exact minimum of a linear functional over a box is found by enumerating the linear pieces that occur in the
box, depth first, one neuron at a time: a prefix of decided neurons is a polytope, what the next neuron reads is affine
on it, and linear programs say which of its pieces occur. At a leaf everything is affine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

Array = NDArray[np.float64]

#: smaller slivers than this are not entered; by continuity that costs a comparable amount of value
_SLIVER = 1e-10
_TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@dataclass(frozen=True)
class AffineStep:
    """sum over (parent, matrix) of matrix @ value[parent], plus bias."""

    terms: tuple[tuple[int, Array], ...]
    bias: Array


@dataclass(frozen=True)
class ReluStep:
    """max(value[parent], 0)."""

    parent: int


@dataclass(frozen=True)
class PiecewiseStep:
    """A polyline of each entry: `slopes[i]` between `kinks[i - 1]` and `kinks[i]`, `value` at the first kink."""

    parent: int
    kinks: tuple[float, ...]  # increasing
    slopes: tuple[float, ...]  # one more than kinks
    value: float

    @property
    def intercepts(self) -> list[float]:
        """Of the line of each piece."""
        found = [self.value - self.slopes[0] * self.kinks[0]]
        for kink, before, after in zip(self.kinks, self.slopes[:-1], self.slopes[1:], strict=True):
            found.append(found[-1] + (before - after) * kink)
        return found

    def __call__(self, z: Array) -> Array:
        y = self.value + self.slopes[0] * (z - self.kinks[0])
        for kink, before, after in zip(self.kinks, self.slopes[:-1], self.slopes[1:], strict=True):
            y = y + (after - before) * np.maximum(z - kink, 0.0)
        return y


@dataclass(frozen=True)
class MaxStep:
    """The largest of every `width` neighbours, without overlap; what does not fill a window is left out."""

    parent: int
    width: int

    def __call__(self, z: Array) -> Array:
        count = z.shape[-1] // self.width
        return z[..., : count * self.width].reshape(*z.shape[:-1], count, self.width).max(-1)


def leaky(parent: int, slope: float) -> PiecewiseStep:
    """max(z, 0) + slope min(z, 0)."""
    return PiecewiseStep(parent, (0.0,), (slope, 1.0), 0.0)


def hardtanh(parent: int, low: float = -1.0, high: float = 1.0) -> PiecewiseStep:
    """min(max(z, low), high)."""
    return PiecewiseStep(parent, (low, high), (0.0, 1.0, 0.0), low)


Step = AffineStep | ReluStep | PiecewiseStep | MaxStep


@dataclass(frozen=True)
class TinyNetwork:
    """Steps 1, 2, ... of a network on `inputs` numbers; the last one is the output."""

    inputs: int
    steps: tuple[Step, ...]

    @property
    def relus(self) -> list[int]:
        return [i for i, s in enumerate(self.steps, 1) if isinstance(s, ReluStep)]

    def values(self, x: Array) -> list[Array]:
        """All values at one input [n] or at many [k, n]."""
        values = [np.asarray(x, dtype=np.float64)]
        for step in self.steps:
            if isinstance(step, ReluStep):
                values.append(np.maximum(values[step.parent], 0.0))
            elif isinstance(step, PiecewiseStep | MaxStep):
                values.append(step(values[step.parent]))
            else:
                values.append(sum((values[p] @ m.T for p, m in step.terms), start=np.zeros(1)) + step.bias)
        return values

    def forward(self, x: Array) -> Array:
        return self.values(x)[-1]


@dataclass(frozen=True)
class Minimum:
    """A minimum, where it is reached, and how many linear regions were visited."""

    value: float
    point: Array
    regions: int


@dataclass
class _Region:
    """The inputs that share the decided signs: rows @ x <= limits inside the box, with a member."""

    rows: list[Array]
    limits: list[float]
    member: Array


def exact_minimum(network: TinyNetwork, cost: Array, offset: float, lower: Array, upper: Array) -> Minimum:
    """min over the box of cost . output + offset."""
    best = Minimum(np.inf, np.full(network.inputs, np.nan), 0)
    count = 0
    identity = (np.eye(network.inputs), np.zeros(network.inputs))
    start = _Region([], [], (lower + upper) / 2)
    # a stack entry: values so far as (matrix, bias), the post-activation rows under construction, the region
    stack: list[tuple[list[tuple[Array, Array]], list[tuple[Array, float]], _Region]] = [([identity], [], start)]
    while stack:
        values, partial, region = stack.pop()
        if len(values) == len(network.steps) + 1:
            matrix, bias = values[-1]
            count += 1
            value, point = _minimise(cost @ matrix, region, lower, upper)
            value += float(cost @ bias) + offset
            if value < best.value:
                best = Minimum(value, point, count)
            continue
        step = network.steps[len(values) - 1]
        if isinstance(step, AffineStep):
            matrix = sum((m @ values[p][0] for p, m in step.terms), start=np.zeros((len(step.bias), network.inputs)))
            bias = sum((m @ values[p][1] for p, m in step.terms), start=np.zeros(len(step.bias))) + step.bias
            stack.append(([*values, (matrix, bias)], [], region))
            continue
        j = len(partial)
        pieces = _pieces(step, *values[step.parent], j)
        if pieces is None:
            done = (np.array([row for row, _ in partial]).reshape(j, -1), np.array([b for _, b in partial]))
            stack.append(([*values, done], [], region))
            continue
        for piece, part in _occurring(pieces, region, lower, upper):
            stack.append((values, [*partial, (piece.row, piece.bias)], part))
    return Minimum(best.value, best.point, count)


@dataclass(frozen=True)
class _Piece:
    """A neuron is row . x + bias where every `conditions` row . x <= limit."""

    row: Array
    bias: float
    conditions: list[tuple[Array, float]]


def _pieces(step: ReluStep | PiecewiseStep | MaxStep, matrix: Array, bias: Array, j: int) -> list[_Piece] | None:
    """The pieces of output j of a step that reads matrix @ x + bias; None where there is no such output."""
    if isinstance(step, MaxStep):
        taps = range(step.width * j, step.width * (j + 1))
        if taps.stop > len(bias):
            return None
        return [
            _Piece(
                matrix[t], float(bias[t]), [(matrix[o] - matrix[t], float(bias[t] - bias[o])) for o in taps if o != t]
            )
            for t in taps
        ]
    if j == len(bias):
        return None
    row, b = matrix[j], float(bias[j])
    if isinstance(step, ReluStep):
        return [_Piece(row, b, [(-row, b)]), _Piece(np.zeros_like(row), 0.0, [(row, -b)])]
    found = []
    for i, (slope, intercept) in enumerate(zip(step.slopes, step.intercepts, strict=True)):
        conditions = []
        if i > 0:
            conditions.append((-row, b - step.kinks[i - 1]))
        if i < len(step.kinks):
            conditions.append((row, step.kinks[i] - b))
        found.append(_Piece(slope * row, slope * b + intercept, conditions))
    return found


def _occurring(pieces: list[_Piece], region: _Region, lower: Array, upper: Array) -> list[tuple[_Piece, _Region]]:
    """The pieces that occur in the region, with the part of the region where they do."""
    middle, radius = (lower + upper) / 2, (upper - lower) / 2
    found, slacks = [], []
    for piece in pieces:
        # over the whole box: conditions that always hold are dropped, pieces with one that never does as well
        ranges = [(float(row @ middle) - limit, float(np.abs(row) @ radius)) for row, limit in piece.conditions]
        if all(at + r <= 0 for at, r in ranges):
            return [(piece, region)]
        slacks.append(min(limit - float(row @ region.member) for row, limit in piece.conditions))
        if any(at - r >= 0 for at, r in ranges):
            continue
        needed = [c for c, (at, r) in zip(piece.conditions, ranges, strict=True) if at + r > 0]
        member = region.member
        if min(limit - float(row @ member) for row, limit in needed) <= 0:  # the member is elsewhere: is anything here?
            slack, member = _deepest(needed, region, lower, upper)
            if slack <= _SLIVER:
                continue
        rows, limits = [row for row, _ in needed], [limit for _, limit in needed]
        found.append((piece, _Region([*region.rows, *rows], [*region.limits, *limits], member)))
    return found or [(pieces[int(np.argmax(slacks))], region)]


def _deepest(conditions: list[tuple[Array, float]], region: _Region, lower: Array, upper: Array) -> tuple[float, Array]:
    """The largest slack that all conditions have at one point of the region (negative: none), and that point."""
    if len(conditions) == 1:
        row, limit = conditions[0]
        least, point = _minimise(row, region, lower, upper)
        return limit - least, point
    old, new = np.array(region.rows).reshape(-1, len(lower)), np.array([row for row, _ in conditions])
    slack = np.concatenate([np.zeros(len(old)), np.ones(len(new))])
    matrix = np.column_stack([np.concatenate([old, new]), slack])
    limits = np.array([*region.limits, *(limit for _, limit in conditions)])
    bounds = [*zip(lower, upper, strict=True), (None, 1.0)]
    cost = np.append(np.zeros(len(lower)), -1.0)
    result = linprog(cost, matrix, limits, bounds=bounds, method="highs", options=_TIGHT)
    if result.status != 0:
        raise RuntimeError(f"linprog on a non-empty region: {result.message}")
    return -float(result.fun), result.x[:-1]


def _minimise(cost: Array, region: _Region, lower: Array, upper: Array) -> tuple[float, Array]:
    if not region.rows:
        point = np.where(cost > 0, lower, upper)
        return float(cost @ point), point
    bounds = np.stack([lower, upper], 1)
    result = linprog(cost, region.rows, region.limits, bounds=bounds, method="highs", options=_TIGHT)
    if result.status != 0:
        raise RuntimeError(f"linprog on a non-empty region: {result.message}")
    return float(result.fun), result.x


def check_against_grid(
    network: TinyNetwork, costs: Sequence[Array], exact: Array, lower: Array, upper: Array, points: int
) -> Array:
    """The oracle itself: no point of a grid is below its minima `exact`, and its own minimisers reach them.

    Returns:
        the grid, `points` to a side: [points ** n, n].
    """
    axes = np.meshgrid(*(np.linspace(lo, hi, points) for lo, hi in zip(lower, upper, strict=True)))
    grid = np.stack([a.ravel() for a in axes], 1)
    y = network.forward(grid)
    for cost, value in zip(costs, exact, strict=True):
        found = exact_minimum(network, cost, 0.0, lower, upper)
        assert found.value == value
        assert (y @ cost).min() >= found.value - 1e-8
        assert abs(float(network.forward(found.point) @ cost) - found.value) < 1e-7
    return grid


def triangle_minimum(
    network: TinyNetwork,
    cost: Array,
    offset: float,
    lower: Array,
    upper: Array,
    bounds: Mapping[int, tuple[Array, Array]],
) -> float:
    """min of cost . output + offset over the triangle relaxation with the GIVEN pre-activation bounds.

    Args:
        bounds: of the value before each ReLU step: index of that value -> (lower, upper). They are constraints on
            stable neurons too.
    """
    columns = network.inputs + sum(len(bounds[_relu(network, i).parent][0]) for i in network.relus)
    variables: list[Array] = [np.eye(network.inputs, columns)]  # every value as matrix . variables + constant
    constants: list[Array] = [np.zeros(network.inputs)]
    rows: list[Array] = []
    limits: list[float] = []
    low, high = [*lower], [*upper]
    for step in network.steps:
        if isinstance(step, AffineStep):
            size = len(step.bias)
            variables.append(sum((m @ variables[p] for p, m in step.terms), start=np.zeros((size, columns))))
            constants.append(sum((m @ constants[p] for p, m in step.terms), start=np.zeros(size)) + step.bias)
            continue
        matrix, constant = variables[step.parent], constants[step.parent]
        first = len(low)
        post = np.eye(columns)[first : first + len(constant)]
        for z, b, a, below, above in zip(matrix, constant, post, *bounds[step.parent], strict=True):
            rows += [z, -z]
            limits += [above - b, b - below]
            low.append(0.0)
            high.append(max(above, 0.0))
            if below >= 0:
                rows += [a - z, z - a]
                limits += [b, -b]
            elif above > 0:
                share = above / (above - below)
                rows += [z - a, a - share * z]
                limits += [-b, share * (b - below)]
        variables.append(post)
        constants.append(np.zeros(len(constant)))
    result = linprog(
        cost @ variables[-1], rows or None, limits or None, bounds=np.stack([low, high], 1), method="highs",
    )  # fmt: skip
    if result.status != 0:
        raise RuntimeError(f"the triangle relaxation of a non-empty set: {result.message}")
    return float(result.fun + cost @ constants[-1]) + offset


def _relu(network: TinyNetwork, index: int) -> ReluStep:
    step = network.steps[index - 1]
    assert isinstance(step, ReluStep)
    return step


def random_tiny(generator: np.random.Generator) -> TinyNetwork:
    """2 or 3 inputs, 3 outputs, about ten ReLUs in two layers; half of them with skip connections."""

    def matrix(outs: int, ins: int) -> Array:
        # dyadic rationals: float32 holds them exactly, and zeros occur
        return np.round(generator.normal(size=(outs, ins)) * 16) / 16

    def vector(n: int) -> Array:
        return np.round(generator.normal(size=n) * 8) / 16

    n, h1, h2 = int(generator.integers(2, 4)), int(generator.integers(3, 6)), int(generator.integers(3, 6))
    kind = int(generator.integers(4))
    first = AffineStep(((0, matrix(h1, n)),), vector(h1))
    if kind == 0:  # one hidden layer
        return TinyNetwork(n, (first, ReluStep(1), AffineStep(((2, matrix(3, h1)),), vector(3))))
    second: list[tuple[int, Array]] = [(2, matrix(h2, h1))]
    out: list[tuple[int, Array]] = []
    if kind == 2:  # skip from the input into the second layer, and from the first hidden layer to the output
        second.append((0, matrix(h2, n)))
        out.append((2, matrix(3, h1)))
    if kind == 3:  # a residual sum: the pre-activation skips the nonlinearity
        out.append((1, matrix(3, h1)))
    steps: Sequence[Step] = (
        first, ReluStep(1), AffineStep(tuple(second), vector(h2)), ReluStep(3),
        AffineStep((*out, (4, matrix(3, h2))), vector(3)),
    )  # fmt: skip
    return TinyNetwork(n, tuple(steps))


def random_piecewise(generator: np.random.Generator) -> TinyNetwork:
    """2 or 3 inputs, 3 outputs, two layers of ReLU, leaky ReLU, hardtanh or maxima; half with skip connections."""

    def matrix(outs: int, ins: int) -> Array:
        return np.round(generator.normal(size=(outs, ins)) * 16) / 16

    def vector(n: int) -> Array:
        return np.round(generator.normal(size=n) * 8) / 16

    def nonlinear(parent: int, size: int) -> tuple[Step, int]:
        """A step on a value of that size, and the size of its own."""
        kind = int(generator.integers(5))
        if kind == 0:
            return ReluStep(parent), size
        if kind == 1:
            return leaky(parent, [0.25, -0.5, 1.5][int(generator.integers(3))]), size
        if kind == 2:
            return hardtanh(parent), size
        if kind == 3:
            return hardtanh(parent, -0.25, 0.5), size
        width = min(size, int(generator.integers(2, 4)))
        return MaxStep(parent, width), size // width

    n, h1, h2 = int(generator.integers(2, 4)), int(generator.integers(3, 6)), int(generator.integers(2, 5))
    first, s1 = nonlinear(1, h1)
    second, s2 = nonlinear(3, h2)
    into: list[tuple[int, Array]] = [(2, matrix(h2, s1))]
    out: list[tuple[int, Array]] = [(4, matrix(3, s2))]
    if generator.integers(2):
        into.append((0, matrix(h2, n)))
        source, size = [(1, h1), (2, s1)][int(generator.integers(2))]  # past the nonlinearity, or from it
        out.append((source, matrix(3, size)))
    steps: Sequence[Step] = (
        AffineStep(((0, matrix(h1, n)),), vector(h1)), first, AffineStep(tuple(into), vector(h2)), second,
        AffineStep(tuple(out), vector(3)),
    )  # fmt: skip
    return TinyNetwork(n, tuple(steps))
