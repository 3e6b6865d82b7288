"""The truth about tiny ReLU networks, by exhaustion. Imports nothing from the product: numpy and scipy alone.

A network is a list of steps in topological order; value 0 is the input, step i (from 1) makes value i from earlier
ones. The exact minimum of a linear functional over a box is found by enumerating the activation patterns that occur
in the box, depth first, one neuron at a time: a prefix of decided neurons is a polytope, the next neuron's
pre-activation is affine on it, and a linear program says whether both signs occur. At a leaf everything is affine.
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


Step = AffineStep | ReluStep


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
        matrix, bias = values[step.parent]
        j = len(partial)
        if j == len(bias):
            done = (np.array([row for row, _ in partial]).reshape(j, -1), np.array([b for _, b in partial]))
            stack.append(([*values, done], [], region))
            continue
        for active, part in _signs(matrix[j], float(bias[j]), region, lower, upper):
            entry = (matrix[j], float(bias[j])) if active else (np.zeros(network.inputs), 0.0)
            stack.append((values, [*partial, entry], part))
    return Minimum(best.value, best.point, count)


def _signs(row: Array, bias: float, region: _Region, lower: Array, upper: Array) -> list[tuple[bool, _Region]]:
    """The signs that row . x + bias takes in the region, with the part of the region where it does."""
    middle, radius = row @ (lower + upper) / 2 + bias, np.abs(row) @ (upper - lower) / 2
    if middle - radius >= 0:
        return [(True, region)]
    if middle + radius <= 0:
        return [(False, region)]
    here = float(row @ region.member) + bias
    found = []
    for active in (True, False):
        side = 1.0 if active else -1.0
        member = region.member
        if side * here <= 0:  # the member is on the other side: is anything on this one?
            least, member = _minimise(-side * row, region, lower, upper)
            if -least + side * bias <= _SLIVER:
                continue
        found.append((active, _Region([*region.rows, -side * row], [*region.limits, side * bias], member)))
    return found or [(here > 0, region)]


def _minimise(cost: Array, region: _Region, lower: Array, upper: Array) -> tuple[float, Array]:
    if not region.rows:
        point = np.where(cost > 0, lower, upper)
        return float(cost @ point), point
    bounds = np.stack([lower, upper], 1)
    result = linprog(cost, region.rows, region.limits, bounds=bounds, method="highs", options=_TIGHT)
    if result.status != 0:
        raise RuntimeError(f"linprog on a non-empty region: {result.message}")
    return float(result.fun), result.x


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
