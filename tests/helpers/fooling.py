"""Networks built to fool verifiers, with the truth about each in rational or in high-precision arithmetic.

A backdoored network has weights of such different magnitude that floating-point sums swallow what matters (Zombori,
Banhelyi, Csendes, Megyeri and Jelasity 2021, "Fooling a complete neural network verifier"). A planted counterexample is
a place that no attack meets (Zhou et al. 2024, SoundnessBench). Margins are zero, or so close to it that rounding
decides. Imports nothing of the product but input sets and specifications.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from helpers.oracle import AffineStep, MaxStep, PiecewiseStep, ReluStep, Step, TinyNetwork
from helpers.tiny_torch import TinyModule
from properties import Box, Specification

Array = NDArray[np.float64]
Vector = list[Fraction]

#: significant digits of the decimal arithmetic, far more than any sum of floats here can cancel
_DIGITS = 800


# -- rational arithmetic ----------------------------------------------------------------------------------------------


def fractions(values: Sequence[float] | Array) -> Vector:
    return [Fraction(float(v)) for v in values]


def affine(step: AffineStep, values: Sequence[Vector]) -> Vector:
    """The value of an affine step, from the values before it."""
    total = fractions(step.bias)
    for parent, matrix in step.terms:
        for j, row in enumerate(matrix):
            total[j] += sum((Fraction(float(w)) * v for w, v in zip(row, values[parent], strict=True) if w), Fraction())
    return total


def polyline(step: ReluStep | PiecewiseStep) -> tuple[Vector, Vector, Fraction]:
    """Kinks, slopes and the value at the first kink of a nonlinear step."""
    if isinstance(step, ReluStep):
        return [Fraction(0)], [Fraction(0), Fraction(1)], Fraction(0)
    return fractions(step.kinks), fractions(step.slopes), Fraction(step.value)


def on_polyline(step: ReluStep | PiecewiseStep, z: Fraction) -> Fraction:
    kinks, slopes, value = polyline(step)
    y = value + slopes[0] * (z - kinks[0])
    for kink, before, after in zip(kinks, slopes[:-1], slopes[1:], strict=True):
        y += (after - before) * max(z - kink, Fraction(0))
    return y


def exact_output(network: TinyNetwork, x: Sequence[float] | Array | Vector) -> Vector:
    """The network's output at x, without any rounding."""
    values: list[Vector] = [[Fraction(v) for v in x]]
    for step in network.steps:
        if isinstance(step, AffineStep):
            values.append(affine(step, values))
        elif isinstance(step, MaxStep):
            parent, count = values[step.parent], len(values[step.parent]) // step.width
            values.append([max(parent[k * step.width : (k + 1) * step.width]) for k in range(count)])
        else:
            values.append([on_polyline(step, z) for z in values[step.parent]])
    return values[-1]


def exact_minimum(network: TinyNetwork, lower: Array, upper: Array) -> list[Fraction]:
    """Minimum of every output over a box of one or two inputs, in rational arithmetic.

    The box is cut into polygons along the kinks, layer by layer. On each of them every value so far is affine, so that
    values at the corners are all that has to be known: a cut interpolates them along the edges that it crosses.
    """
    low, high = fractions(lower), fractions(upper)
    if network.inputs == 1:
        corners = [[low[0]], [high[0]]]
    else:
        corners = [[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]]
    polygons = [[[c] for c in corners]]  # a corner: its values so far
    for step in network.steps:
        if isinstance(step, MaxStep):
            raise NotImplementedError("maxima are not cut here")
        if not isinstance(step, AffineStep):
            for kink in polyline(step)[0]:
                for j in range(len(polygons[0][0][step.parent])):
                    polygons = [part for p in polygons for part in _cut(p, step.parent, j, kink)]
        for polygon in polygons:
            for corner in polygon:
                if isinstance(step, AffineStep):
                    corner.append(affine(step, corner))
                else:
                    corner.append([on_polyline(step, z) for z in corner[step.parent]])
    outputs = range(len(polygons[0][0][-1]))
    return [min(corner[-1][j] for polygon in polygons for corner in polygon) for j in outputs]


def _cut(polygon: list[list[Vector]], value: int, j: int, at: Fraction) -> list[list[list[Vector]]]:
    """The parts of a polygon (a segment, a point) on either side of entry j of that value being `at`."""
    sides = [corner[value][j] - at for corner in polygon]
    if min(sides) >= 0 or max(sides) <= 0:
        return [polygon]
    below: list[list[Vector]] = []
    above: list[list[Vector]] = []
    for k, (corner, side) in enumerate(zip(polygon, sides, strict=True)):
        follower, next_side = polygon[(k + 1) % len(polygon)], sides[(k + 1) % len(polygon)]
        for part, belongs in ((below, side <= 0), (above, side >= 0)):
            if belongs:
                part.append([list(v) for v in corner])
        if side * next_side < 0:
            t = side / (side - next_side)
            crossing = [
                [a + t * (b - a) for a, b in zip(*pair, strict=True)] for pair in zip(corner, follower, strict=True)
            ]
            below.append([list(v) for v in crossing])
            above.append(crossing)
    return [below, above]


# -- decimal arithmetic -----------------------------------------------------------------------------------------------


def exact_smooth(function: str, x: Fraction) -> Fraction:
    """tanh or sigmoid at x, to hundreds of digits."""
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = _DIGITS, 10**9, -(10**9)
        number = Decimal(x.numerator) / Decimal(x.denominator)
        if function == "tanh":
            e = (-2 * abs(number)).exp()
            value = (1 - e) / (1 + e) if number >= 0 else -(1 - e) / (1 + e)
        else:
            e = (-abs(number)).exp()
            value = 1 / (1 + e) if number >= 0 else e / (1 + e)
        return Fraction(value)


# -- cases ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fooling:
    """A network and boxes around places where it is easily misjudged. The property is that output 0 is above zero.

    `truth[b]` is positive where the property holds on box b, else a value <= 0 that some point of it has (of several
    outputs: the least).
    """

    name: str
    model: nn.Module
    lower: Tensor  # [B, n] float64
    upper: Tensor  # [B, n] float64
    offset: Tensor  # [B] float64, added to the output
    truth: tuple[Fraction, ...]
    sign: Tensor | None = None  # [B] float64, what the output is multiplied by; default one

    @property
    def inputs(self) -> Box:
        return Box(self.lower, self.upper)

    @property
    def spec(self) -> Specification:
        sign = torch.ones_like(self.offset) if self.sign is None else self.sign
        return Specification(sign.reshape(-1, 1, 1), self.offset.unsqueeze(1), torch.zeros(1, dtype=torch.int64))


Boxes = Sequence[tuple[Sequence[float], Sequence[float]]]


def piecewise(
    name: str,
    network: TinyNetwork,
    boxes: Boxes,
    offsets: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float64,
) -> Fooling:
    """A case whose truth is that of the network with its weights rounded to `dtype`, by exhaustion."""
    network = rounded(network, dtype)
    offset = [0.0] * len(boxes) if offsets is None else list(offsets)
    truth = []
    for (low, high), shift in zip(boxes, offset, strict=True):
        truth.append(exact_minimum(network, np.array(low), np.array(high))[0] + Fraction(shift))
    return Fooling(
        f"{name} {str(dtype)[6:]}", TinyModule(network).to(dtype).eval(), *_tensors(boxes),
        torch.tensor(offset, dtype=torch.float64), tuple(truth),
    )  # fmt: skip


def planted(name: str, network: TinyNetwork, boxes: Boxes, points: Sequence[Array], dtype: torch.dtype) -> Fooling:
    """A case with a known counterexample in each box; its value is the truth, wherever else there are others."""
    network = rounded(network, dtype)
    truth = tuple(exact_output(network, fractions(p))[0] for p in points)
    for (low, high), point, value in zip(boxes, points, truth, strict=True):
        assert (np.array(low) <= point).all() and (point <= np.array(high)).all() and value <= 0, "no counterexample"
    model = TinyModule(network).to(dtype).eval()
    return Fooling(
        f"{name} {str(dtype)[6:]}", model, *_tensors(boxes), torch.zeros(len(boxes), dtype=torch.float64), truth
    )


def _tensors(boxes: Boxes) -> tuple[Tensor, Tensor]:
    low, high = (torch.tensor([b[k] for b in boxes], dtype=torch.float64) for k in (0, 1))
    return low, high


def rounded(network: TinyNetwork, dtype: torch.dtype) -> TinyNetwork:
    """The same with its parameters rounded to `dtype`: the network that a module of that precision is."""

    def cast(values: Array) -> Array:
        return torch.from_numpy(np.asarray(values, dtype=np.float64)).to(dtype).double().numpy()

    steps: list[Step] = []
    for step in network.steps:
        if isinstance(step, AffineStep):
            step = AffineStep(tuple((p, cast(m)) for p, m in step.terms), cast(step.bias))
        steps.append(step)
    return TinyNetwork(network.inputs, tuple(steps))


def chain(inputs: int, *layers: tuple[Sequence[Sequence[float]], Sequence[float]]) -> TinyNetwork:
    """Affine layers (weight, bias) with a ReLU between any two."""
    steps: list[Step] = []
    for weight, bias in layers:
        if steps:
            steps.append(ReluStep(len(steps)))
        steps.append(AffineStep(((len(steps), np.array(weight, dtype=np.float64)),), np.array(bias, dtype=np.float64)))
    return TinyNetwork(inputs, tuple(steps))


# -- backdoors --------------------------------------------------------------------------------------------------------

UNIT: Boxes = [([0.0], [1.0]), ([0.25], [0.5]), ([0.75], [1.0]), ([0.0], [0.0])]


def absorbed(big: float, sign: float, dtype: torch.dtype) -> Fooling:
    """0.5 - sign relu((x + big) - big), and with sign < 0 what floats take for a counterexample: x swallowed by big."""
    offset = 0.5 if sign > 0 else -1e-3
    network = chain(1, ([[1.0]], [big]), ([[1.0]], [-big]), ([[-sign]], [offset]))
    boxes = UNIT if sign > 0 else [([0.25], [1.0]), ([0.5], [0.75])]
    return piecewise(f"absorbed {big:g} {sign:+g}", network, boxes, dtype=dtype)


def absorbed_in_one_sum(big: float, sign: float, dtype: torch.dtype) -> Fooling:
    """One neuron that adds big a - big b + x, with a = b made by different neurons."""
    first = ([[1.0], [1.0], [1.0], [-1.0]], [2.0, 2.0, 0.0, 0.0])
    second = ([[big, -big, 1.0, -1.0], [0.0, 0.0, 1.0, 0.0]], [0.0, 0.0])
    network = chain(1, first, second, ([[-sign, 0.25]], [0.375 if sign > 0 else 0.0]))
    return piecewise(
        f"one sum {big:g} {sign:+g}", network, [([0.0], [1.0]), ([0.125], [0.25]), ([0.5], [1.0])], dtype=dtype
    )


def zombori(big: float, tiny: float, dtype: torch.dtype) -> Fooling:
    """The paper's switch: relu(tiny x0 - big relu(-x1 + 1/2)) opens for x1 >= 1/2, scaled up again behind many layers.

    Two inputs; the margin is 1 - 2 min(1, x0) where the switch is open, and 1 elsewhere.
    """
    switch = ([[1.0, 0.0], [0.0, -1.0]], [0.0, 0.5])
    layers = [switch, ([[tiny, -big]], [0.0])]
    layers += [([[2.0]], [0.0])] * 2
    layers.append(([[-2.0 / (4 * tiny)]], [1.0]))
    network = chain(2, *layers)
    boxes: Boxes = [
        ([0.0, 0.0], [1.0, 1.0]),
        ([0.0, 0.0], [1.0, 0.25]),
        ([0.75, 0.5], [1.0, 0.5]),
        ([0.0, 0.0], [0.25, 1.0]),
    ]
    return piecewise(f"switch {big:g} {tiny:g}", network, boxes, dtype=dtype)


def ladder_of_scales(big: float, dtype: torch.dtype) -> Fooling:
    """x carried through sums with big, big^(1/2), ... one after the other, taken back in the opposite order."""
    scales = [big, big**0.5, big**0.25]
    layers: list[tuple[list[list[float]], list[float]]] = [([[1.0]], [s]) for s in scales]
    layers += [([[1.0]], [-s]) for s in reversed(scales)]
    network = chain(1, *layers, ([[-1.0]], [0.5]))
    return piecewise(f"ladder {big:g}", network, UNIT, dtype=dtype)


# -- planted counterexamples ------------------------------------------------------------------------------------------


def spike(width: int, residual: bool, depth: float, dtype: torch.dtype) -> Fooling:
    """A margin of 1/4 everywhere but on a pyramid of radius 2^-width, where it falls to `depth`; two inputs.

    Residual: the pyramid is added to the input's own path, which carries it to the output.
    """
    k, p = 2.0**width, np.array([0.3125, -0.40625])
    parts = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    away = AffineStep(((0, parts),), -parts @ p)
    top = AffineStep(((2, -k * np.ones((1, 4))),), np.ones(1))
    fall = depth - 0.25
    if not residual:
        steps: tuple[Step, ...] = (
            away,
            ReluStep(1),
            top,
            ReluStep(3),
            AffineStep(((4, np.array([[fall]])),), np.array([0.25])),
        )
    else:  # 1/4 + (x0 - x0) + fall * spike, with x0 once direct and once through the blocks
        steps = (
            away, ReluStep(1), top, ReluStep(3),
            AffineStep(((0, np.array([[1.0, 0.0]])), (4, np.array([[fall]]))), np.zeros(1)),
            AffineStep(((5, np.array([[1.0]])), (0, np.array([[-1.0, 0.0]]))), np.array([0.25])),
        )  # fmt: skip
    boxes: Boxes = [
        ([-1.0, -1.0], [1.0, 1.0]),
        (list(p), [1.0, 1.0]),
        (list(p - 2.0**-30), list(p + 2.0**-30)),
        (list(p), list(p)),
    ]
    name = f"spike 2^-{width} {'residual' if residual else 'plain'} to {depth:g}"
    return piecewise(name, TinyNetwork(2, steps), boxes, dtype=dtype)


def trained(seed: int, residual: bool, dtype: torch.dtype) -> Fooling:
    """Trained to two ends: a margin above zero at random points of the box, below zero at a planted one."""
    torch.manual_seed(seed)
    inputs, hidden = 5, 12
    point = (torch.rand(inputs, dtype=torch.float64) * 32).round() / 32 - 0.5
    first, second, out = (nn.Linear(a, b).double() for a, b in ((inputs, hidden), (hidden, hidden), (hidden, 1)))

    def forward(x: Tensor) -> Tensor:
        h = torch.relu(first(x))
        g = torch.relu(second(h) + h) if residual else torch.relu(second(h))
        return out(g).squeeze(1)

    optimiser = torch.optim.Adam([*first.parameters(), *second.parameters(), *out.parameters()], lr=2e-2)
    for _ in range(120):
        x = torch.rand(64, inputs, dtype=torch.float64) - 0.5
        value, at = forward(torch.cat([x, point[None]])).split([64, 1])
        loss = torch.relu(0.05 - value).mean() + torch.relu(at + 0.05).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():  # the value at the planted point is what is wanted, whatever training reached
        for layer in (first, second, out):
            for parameter in layer.parameters():
                parameter.copy_((parameter * 2**12).round() / 2**12)
        out.bias -= forward(point[None]) + 2.0**-10
        weights = [(layer.weight.numpy().copy(), layer.bias.numpy().copy()) for layer in (first, second, out)]
    (a, p), (b, q), (c, r) = weights
    skip = ((2, np.eye(hidden)),) if residual else ()
    network = TinyNetwork(
        inputs,
        (
            AffineStep(((0, a),), p), ReluStep(1), AffineStep(((2, b), *skip), q), ReluStep(3),
            AffineStep(((4, c),), r),
        ),
    )  # fmt: skip
    at = point.numpy()
    boxes: Boxes = [([-0.5] * inputs, [0.5] * inputs), (list(at - 2.0**-6), list(at + 2.0**-6)), (list(at), list(at))]
    return planted(f"trained {'residual' if residual else 'plain'} {seed}", network, boxes, [at] * 3, dtype)


# -- margins near zero ------------------------------------------------------------------------------------------------

GAPS = (0.0, 1e-12, -1e-12, 1e-9, -1e-9, 1e-6, -1e-6)


def random_network(generator: np.random.Generator, inputs: int, residual: bool) -> TinyNetwork:
    """Two hidden layers and one output, weights multiples of 1/8; residual: the input is read by the output as well."""

    def matrix(outs: int, ins: int) -> Array:
        return np.round(generator.normal(size=(outs, ins)) * 8) / 8

    first = AffineStep(((0, matrix(4, inputs)),), matrix(4, 1)[:, 0])
    second = AffineStep(((2, matrix(3, 4)),), matrix(3, 1)[:, 0])
    skip = ((0, matrix(1, inputs)),) if residual else ()
    out = AffineStep(((4, matrix(1, 3)), *skip), np.zeros(1))
    return TinyNetwork(inputs, (first, ReluStep(1), second, ReluStep(3), out))


def near_zero(seed: int, dtype: torch.dtype, gaps: Sequence[float] = GAPS) -> Fooling:
    """A random network with dyadic weights, shifted until its exact minimum over the box is the gap."""
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 3))
    network = random_network(generator, n, residual=seed % 2 == 1)
    center = np.round(generator.normal(size=n) * 16) / 16
    low, high = list(center - 0.5), list(center + 0.5)
    least = exact_minimum(network, np.array(low), np.array(high))[0]
    return piecewise(f"near zero {seed}", network, [(low, high)] * len(gaps), [float(-least) + g for g in gaps], dtype)


def kinks(dtype: torch.dtype) -> Fooling:
    """Minima exactly at kinks, at zero, at -0.0; |x| + relu(x - 1) minus its minimum."""
    network = chain(1, ([[1.0], [-1.0], [1.0]], [0.0, 0.0, -1.0]), ([[1.0, 1.0, 1.0]], [0.0]))
    boxes: Boxes = [([-1.0], [1.0]), ([-0.0], [0.0]), ([0.0], [1.0]), ([-1.0], [-0.0]), ([1.0], [2.0]), ([1.0], [1.0])]
    offsets = [0.0, 0.0, -0.0, -0.0, -1.0, -1.0]
    tiny = [(b, o + g) for g in (0.0, 1e-9, -1e-9) for b, o in zip(boxes, offsets, strict=True)]
    return piecewise("kinks", network, [b for b, _ in tiny], [o for _, o in tiny], dtype)


# -- scales -----------------------------------------------------------------------------------------------------------


def scaled(seed: int, power: int, dtype: torch.dtype) -> Fooling:
    """A random network whose rows are scaled by 10^power and back in the next layer, its minimum brought near zero."""
    generator = np.random.default_rng(seed)
    up = 10.0 ** (power * np.array([1.0, -1.0, 0.5, 0.0]))
    first, second = generator.normal(size=(4, 1)), generator.normal(size=(3, 4))
    third = generator.normal(size=(1, 3))
    steps = (
        AffineStep(((0, up[:, None] * first),), up * generator.normal(size=4)), ReluStep(1),
        AffineStep(((2, second / up),), generator.normal(size=3)), ReluStep(3), AffineStep(((4, third),), np.zeros(1)),
    )  # fmt: skip
    network = rounded(TinyNetwork(1, steps), dtype)
    boxes: Boxes = [([-1.0], [1.0]), ([0.25], [0.2500001]), ([0.25], [0.25])]
    cases, offsets = [], []
    for low, high in boxes:
        least = exact_minimum(network, np.array(low), np.array(high))[0]
        for gap in (0.0, 1e-9, -1e-9, 1e-3):
            cases.append((low, high))
            offsets.append(float(-least) + gap)
    return piecewise(f"scaled 1e{power} {seed}", network, cases, offsets, dtype)


def denormal(dtype: torch.dtype) -> Fooling:
    """Weights and margins among the denormals of the precision, and their products with what is ordinary."""
    tiny = 1e-40 if dtype is torch.float32 else 1e-310
    network = chain(1, ([[tiny], [-tiny], [1.0]], [0.0, tiny, 0.0]), ([[1.0, -1.0, tiny]], [-tiny]))
    boxes: Boxes = [([-1.0], [1.0]), ([0.0], [tiny]), ([1.0], [2.0]), ([3.0], [4.0]), ([tiny], [tiny])]
    return piecewise("denormal", network, boxes, dtype=dtype)


def huge_inputs(dtype: torch.dtype) -> Fooling:
    """Inputs of 1e30 that a ReLU network takes back to ordinary numbers."""
    network = chain(1, ([[1.0], [1.0]], [0.0, -1.0]), ([[1.0, -1.0]], [-0.5]))
    boxes: Boxes = [([-1e30], [1e30]), ([1e30], [1e30]), ([0.0], [1e30]), ([1e16], [1e16]), ([2.0], [1e18])]
    return piecewise("huge inputs", network, boxes, dtype=dtype)


def huge_products(dtype: torch.dtype) -> Fooling:
    """The same with weights of 1e20: float32 overflows, and what cancels is infinite."""
    network = chain(1, ([[1e20], [1e20]], [0.0, 0.0]), ([[1.0, -1.0]], [-1.0]))
    boxes: Boxes = [([-1e30], [1e30]), ([1e30], [1e30]), ([0.0], [1e30]), ([1e16], [1e16]), ([0.0], [1.0])]
    return piecewise("huge products", network, boxes, dtype=dtype)


def narrow(dtype: torch.dtype) -> Fooling:
    """Boxes of 1e-7 and of a few floats at different places, with the least margin next to zero."""
    network = rounded(chain(1, ([[3.0], [-7.0]], [0.1, 0.3]), ([[1.0, 1.0]], [0.0])), dtype)
    boxes: list[tuple[list[float], list[float]]] = []
    for at in (0.1, 1.0 / 3, 1000.1):
        for wide in (1e-7, 1e-16 * at):
            boxes.append(([at], [at + wide]))
    cases, offsets = [], []
    for low, high in boxes:
        least = exact_minimum(network, np.array(low), np.array(high))[0]
        for gap in (0.0, 1e-12, -1e-12):
            cases.append((low, high))
            offsets.append(float(-least) + gap)
    return piecewise("narrow", network, cases, offsets, dtype)


# -- smooth activations -----------------------------------------------------------------------------------------------


class Smooth(nn.Module):
    """sum_k v_k f(a_k x + b_k) of one input."""

    def __init__(self, function: str, a: Sequence[float], b: Sequence[float], v: Sequence[float]) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(1, len(a)).double(), nn.Linear(len(a), 1).double()
        self.function = torch.tanh if function == "tanh" else torch.sigmoid
        with torch.no_grad():
            self.inner.weight.copy_(torch.tensor(a).double().unsqueeze(1))
            self.inner.bias.copy_(torch.tensor(b).double())
            self.outer.weight.copy_(torch.tensor(v).double().unsqueeze(0))
            self.outer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.function(self.inner(x)))


def saturated(function: str, dtype: torch.dtype) -> Fooling:
    """f(a x + b) alone, at both saturated ends and in the middle, its least value brought next to zero.

    f is monotone, so that the truth is the value at an end of the box.
    """
    a, b = 2.0, 0.25
    places = [
        (-1.0, 1.0),
        (7.0, 9.0),
        (18.0, 19.0),
        (20.0, 400.0),
        (-9.0, -7.0),
        (-400.0, -360.0),
        (0.5, 0.5 + 2.0**-23),
    ]
    cases, offsets, truth = [], [], []
    for sign in (1.0, -1.0):
        for low, high in places:
            end = low if sign > 0 else high
            least = Fraction(sign) * exact_smooth(function, Fraction(a) * Fraction(end) + Fraction(b))
            for gap in (0.0, -1e-16, 1e-9):
                offset = float(-least) + gap
                cases.append((sign, low, high))
                offsets.append(offset)
                truth.append(least + Fraction(offset))
    return Fooling(
        f"saturated {function} {str(dtype)[6:]}", Smooth(function, [a], [b], [1.0]).to(dtype).eval(),
        torch.tensor([[low] for _, low, _ in cases], dtype=torch.float64),
        torch.tensor([[high] for _, _, high in cases], dtype=torch.float64),
        torch.tensor(offsets, dtype=torch.float64), tuple(truth),
        torch.tensor([sign for sign, _, _ in cases], dtype=torch.float64),
    )  # fmt: skip


def differences(function: str, gap: float, dtype: torch.dtype) -> Fooling:
    """f(x + gap) - f(x), which is positive everywhere and falls away from the middle: the least is at an end."""
    places = [(-1.0, 1.0), (3.0, 4.0), (-30.0, -29.0), (15.0, 20.0), (0.0, 0.0)]
    truth, offsets = [], []
    for ends in places:
        values = [
            exact_smooth(function, Fraction(x) + Fraction(gap)) - exact_smooth(function, Fraction(x)) for x in ends
        ]
        offsets.append(-float(min(values)))
        truth.append(min(values) + Fraction(offsets[-1]))
    low, high = _tensors([([a], [b]) for a, b in places])
    model = Smooth(function, [1.0, 1.0], [gap, 0.0], [1.0, -1.0]).to(dtype).eval()
    name = f"differences {function} {gap:g} {str(dtype)[6:]}"
    twice = [torch.cat([t, t]) for t in (low, high)]
    offset = torch.tensor([*offsets, *([0.0] * len(places))], dtype=torch.float64)
    plain = tuple(t - Fraction(o) for t, o in zip(truth, offsets, strict=True))
    return Fooling(name, model, *twice, offset, (*truth, *plain))


# -- sums that round one way ------------------------------------------------------------------------------------------


class Biased(nn.Module):
    """sum_i ((x_i + c) - a) - b with a + b = c exactly: the sum of the x_i, past sums that float32 rounds one way.

    Equal numbers that are added one after the other lose the same last bits each time.
    """

    def __init__(self, width: int, c: float, a: float) -> None:
        super().__init__()
        for name, value in (("c", c), ("a", a), ("b", c - a)):
            self.register_buffer(name, torch.full((width,), value))
        self.out = nn.Linear(width, 1, bias=False)
        nn.init.ones_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(((x + self.c) - self.a) - self.b)


def biased(power: int, bits: int) -> Fooling:
    """The margin at zero is -2^-14 per entry; float32 dot products of 2^18 biases are off by eight times that."""
    width, c = 2**power, 1 + 3 * 2.0**-bits
    x, gap = torch.zeros(1, width, dtype=torch.float64), 2.0**-14 * width
    model = Biased(width, c, 1.0).eval()
    return Fooling(
        f"biased 2^{power} {bits}", model, x, x, torch.tensor([-gap], dtype=torch.float64), (Fraction(-gap),)
    )


# -- all of them ------------------------------------------------------------------------------------------------------

#: name -> the case in a precision
CASES: dict[str, Callable[[torch.dtype], Fooling]] = {
    **{f"absorbed {b:g} {s:+g}": partial(absorbed, b, s) for b in (1e4, 1e9, 1e17, 1e20) for s in (1.0, -1.0)},
    **{f"one sum {b:g} {s:+g}": partial(absorbed_in_one_sum, b, s) for b in (1e7, 1e16, 1e25) for s in (1.0, -1.0)},
    **{f"switch {b:g} {t:g}": partial(zombori, b, t) for b, t in ((1e8, 1e-3), (1e17, 2.0**-20), (1e12, 1e-12))},
    **{f"ladder {b:g}": partial(ladder_of_scales, b) for b in (1e8, 1e16, 1e24)},
    **{
        f"spike 2^-{w} {'residual' if r else 'plain'} to {d:g}": partial(spike, w, r, d)
        for w, d in ((4, -(2.0**-6)), (20, -(2.0**-6)), (40, -(2.0**-10)), (12, 0.0), (6, 2.0**-30))
        for r in (False, True)
    },
    **{f"trained {'residual' if r else 'plain'}": partial(trained, 3, r) for r in (False, True)},
    **{f"near zero {seed}": partial(near_zero, seed) for seed in range(4)},
    "kinks": kinks,
    **{f"scaled 1e{p} {seed}": partial(scaled, seed, p) for p, seed in ((8, 0), (20, 1), (-20, 2), (4, 3))},
    "denormal": denormal,
    "huge inputs": huge_inputs,
    "huge products": huge_products,
    "narrow": narrow,
    **{f"saturated {f}": partial(saturated, f) for f in ("tanh", "sigmoid")},
    **{f"differences {f} {g:g}": partial(differences, f, g) for f in ("tanh", "sigmoid") for g in (2.0**-20, 2.0**-6)},
}
