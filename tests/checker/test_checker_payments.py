"""What walks and mixtures pay beyond their nodes' roundoff: for sums, and for what underflows. Against fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from test_checker import node

from verifier.checker import lines, subdomains
from verifier.checker.backward import NodeRanges
from verifier.checker.network import CanonicalNetwork, CanonicalNode
from verifier.checker.rounding import DOUBLE, SINGLE, SMOOTH, SMOOTH_SLOPE, TINY_SINGLE


def times(parent: int, *weights: float, bias: float = 0.0) -> CanonicalNode:
    return node("matrix", (parent,), 1, {"weight": np.array([weights]), "bias": np.array([bias])})


def bound(n: int, unit: float = DOUBLE) -> Fraction:
    return n * Fraction(unit) / (1 - n * Fraction(unit))


READERS, LEAST = 201, Fraction(2) ** -1014  #: readers of the input below, and what underflows in 2^60 products
LONG = np.random.default_rng(5).uniform(-2, 1, (2, 150))
#: nodes that read the input of 150 numbers, each of which is a long sum in one direction or none
PAYING = {
    "long": node("matrix", (0,), 2, {"weight": LONG, "bias": np.array([-3.0, 1.0])}),
    "blocks": node("matrix", (0,), 300, {"weight": np.ones((2, 1)), "bias": -np.ones(300)}, repeat=150),
    "often": node("sparse", (0,) * 200, 2, {"row": np.arange(2), "column": np.arange(2), "value": np.array([-2.0, 3])}),
    "rounded": node("matrix", (0,), 2, {"weight": LONG, "bias": np.ones(2), "bias_size": 9 * np.ones(2)}, ulps=99),
    "copies": node("sparse", (0,), 2, {"row": np.array([0, 1]), "column": np.array([0, 5]), "value": -np.ones(2)}),
    "abs": node("abs", (0,), 150), "steep": node("leaky", (0,), 150, slope=-7.3), "tanh": node("tanh", (0,), 150),
    "clip": node("clip", (0,), 150, low=-9.0, high=0.5), "leaky": node("leaky", (0,), 150, slope=0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PAYING))
@pytest.mark.parametrize("float32", [False, True])
def test_the_slack_of_a_node_is_above_every_rounding_that_a_row_meets_there(name: str, float32: bool) -> None:
    """Of the sum that makes its value, of those that a coefficient of its parents goes through, of its constants."""
    own = PAYING[name]
    network = CanonicalNetwork((node("input", (), 150), own, PAYING["often"]))
    for low, high in ((-3.0, 0.5), (-0.25, 2.0)):
        ranges, m = (
            NodeRanges(network, np.full((1, 150), low), np.full((1, 150), high), float32),
            Fraction(max(-low, high)),
        )
        ranges.forward(1, 2)
        roundoff = [Fraction(v) for v in np.broadcast_to(ranges.roundoff[1][0], (own.size,)).tolist()]
        needed = of_affine(own, m, float32) if own.arrays else of_activation(own, m, high - low, ranges)
        assert all(a >= b for a, b in zip(roundoff, needed, strict=True))


def of_affine(own: CanonicalNode, m: Fraction, float32: bool) -> list[Fraction]:
    forward, adjoint = own.terms
    if own.kind == "sparse":  # one entry in every row
        rows = [abs(Fraction(v)) for v in own.arrays["value"].tolist()]
    else:
        rows = [sum(map(abs, map(Fraction, row))) for row in own.arrays["weight"].tolist()]
        rows *= own.size // len(rows)
    sizes = [a * m + Fraction(b) for a, b in zip(rows, own.bias_size.tolist(), strict=True)]
    share = bound(max(forward + 1, adjoint + READERS, own.size)) + bound(own.ulps)
    if float32 and not own.copies.any():
        return [(share + bound(forward + 2 + own.ulps, SINGLE)) * s + forward * Fraction(TINY_SINGLE) for s in sizes]
    return [share * s + LEAST for s in sizes]


def of_activation(own: CanonicalNode, m: Fraction, width: float, ranges: NodeRanges) -> list[Fraction]:
    act = max(abs(Fraction(v)) for ends in (ranges.low[1], ranges.high[1]) for v in ends[0].tolist())
    steep, float32 = Fraction(lines.steepest(own)), ranges.float32
    needed = bound(max(own.size, READERS) + 1) * (act + steep * m) + LEAST
    if own.kind == "tanh":
        needed += Fraction(SMOOTH + SMOOTH_SLOPE * width) + (Fraction(8 * SINGLE + TINY_SINGLE) if float32 else 0)
    elif own.kind == "clip" and float32:  # its limits are rounded
        needed += 9 * Fraction(SINGLE) + Fraction(TINY_SINGLE)
    elif own is PAYING["steep"]:  # its slope is rounded, and its product
        needed += bound(2, SINGLE if float32 else DOUBLE) * steep * m
    return [needed] * own.size


def interval(own: CanonicalNode, low: float, high: float, float32: bool) -> tuple[float, float, float]:
    """Low and high ends of a node over an interval of its parent, and its roundoff."""
    ranges = NodeRanges(CanonicalNetwork((node("input", (), 1), own)), np.array([[low]]), np.array([[high]]), float32)
    with np.errstate(all="ignore"):
        ranges.forward(1, 2)
    return ranges.low[1].item(), ranges.high[1].item(), ranges.roundoff[1].max().item()


def test_intervals_that_overflow_are_unknown() -> None:
    for low, high in ((10.0, 10.0), (-10.0, 10.0), (-10.0, -10.0)):
        assert interval(times(0, 1e308), low, high, False)[:2] == (-np.inf, np.inf)
    for float32 in (False, True):  # in float32 what is beyond its range is
        unknown = [interval(own, low, high, float32)[2] == np.inf for own, low, high in (
            (times(0, 1e10), 0.0, 1e30), (node("leaky", (0,), 1, slope=1e30), -1e30, 0.5),
            (node("leaky", (0,), 1, slope=-1e30), -1e30, -0.5), (node("leaky", (0,), 1, slope=-1e30), -0.5, 1e10),
            (node("clip", (0,), 1, low=-1e39, high=1.0), -1e39, 0.0))]  # fmt: skip
        assert unknown == [float32, float32, float32, False, float32]


def test_one_value_beyond_float32_is_unknown_beside_others() -> None:
    ranges = NodeRanges(
        CanonicalNetwork((node("input", (), 2), node("abs", (0,), 2))), *2 * [np.array([[1e39, 1.0]])], True
    )
    ranges.forward(1, 2)
    assert ranges.low[1][0, 0] == -np.inf and ranges.high[1][0, 0] == np.inf and ranges.low[1][0, 1] > 0.9


def test_steep_products_are_enclosed() -> None:
    """Of those whose last place is largest, beside what they are."""
    z = -(1 + 0.05 * np.random.default_rng(6).random((1, 2000))) / 7.3
    for slope in (7.3, -7.3):
        ranges = NodeRanges(
            CanonicalNetwork((node("input", (), 2000), node("leaky", (0,), 2000, slope=slope))), z, z, False
        )
        ranges.forward(1, 2)
        exact = [Fraction(slope) * Fraction(v) for v in z[0].tolist()]
        low, high = ranges.low[1][0].tolist(), ranges.high[1][0].tolist()
        assert all(Fraction(a) <= e <= Fraction(b) for a, e, b in zip(low, exact, high, strict=True))


def test_activations_that_only_choose_are_exact() -> None:
    for float32 in (False, True):
        assert interval(node("leaky", (0,), 1, slope=0.0), -0.5, 0.7, float32)[:2] == (0.0, 0.7)
        assert interval(node("abs", (0,), 1), -0.7, -0.5, float32)[:2] == (0.5, 0.7)
        assert interval(node("leaky", (0,), 1, slope=1.0), -0.5, 0.7, float32)[:2] == (-0.5, 0.7)
    assert interval(node("clip", (0,), 1, low=0.1, high=0.6), -0.5, 0.7, False)[:2] == (0.1, 0.6)


def test_what_underflows_in_a_node_is_paid_for() -> None:
    for float32, flushed in ((False, 0.0), (True, 1e-39)):
        for own in (times(0, 0.0), node("abs", (0,), 1), node("leaky", (0,), 1, slope=0.0)):
            assert interval(own, 0.0, 0.0, float32)[2] >= LEAST
        for slope in (0.1, 0.3, 0.7, -0.6):
            for z in (-7e-323, -1.3e-310, -1e-39 / abs(slope)):
                least, most, _ = interval(node("leaky", (0,), 1, slope=slope), z, z, float32)
                assert Fraction(least) <= Fraction(slope) * Fraction(z) <= Fraction(most)
                assert flushed == 0 or least <= 0 <= most


@pytest.mark.parametrize("limits", [(0.1, 0.7), (1e-40, 2e-40), (-0.7, -0.1), (-2e-40, -1e-40)])
def test_limits_are_rounded_in_float32_or_flushed_to_zero(limits: tuple[float, float]) -> None:
    least, most, roundoff = interval(node("clip", (0,), 1, low=limits[0], high=limits[1]), -1.0, 1.0, True)
    for limit in limits:
        for single in (float(np.float32(limit)), 0.0 if abs(limit) < 1e-38 else limit):
            assert least <= single <= most and roundoff >= abs(single - limit)


def test_sizes_are_those_of_the_larger_ends() -> None:
    ranges = NodeRanges(
        CanonicalNetwork((node("input", (), 3),)), np.array([[-3.0, 1, -1]]), np.array([[-2.0, 2, 5]]), False
    )
    assert ranges.size(0).tolist() == [[3, 2, 5]]


def test_what_is_known_of_a_node_is_kept() -> None:
    network = CanonicalNetwork((node("input", (), 1), times(0, 1.0), times(1, 1.0)))
    ranges = NodeRanges(network, -np.ones((1, 1)), np.ones((1, 1)), False)
    ranges.learn(1, np.full((1, 1), -0.5), np.full((1, 1), 0.25))
    for _ in range(2):
        ranges.forward(1, 3)
        assert ranges.low[1].item() == -0.5 and ranges.high[1].item() == 0.25
        assert -0.51 < ranges.low[2].item() <= -0.5 and 0.25 <= ranges.high[2].item() < 0.26
        ranges.learn(1, np.full((1, 1), -7.0), np.full((1, 1), 7.0))


def test_mass_is_one_more_than_all_sizes_up_to_a_node() -> None:
    """It pays for underflow: also once intervals are learned of, and after steps in order."""
    sizes = [1.0, -1e3, 1e6, 1e9]
    nodes = [node("input", (), 1), *(times(k, w) for k, w in enumerate(sizes[1:])), node("abs", (3,), 1)]
    ranges = NodeRanges(CanonicalNetwork(tuple(nodes)), np.array([[-1.0], [2.0]]), np.array([[1.0], [5.0]]), False)

    def is_mass(upto: int) -> bool:
        exact = np.cumsum([1 + ranges.size(0)[:, 0], *(ranges.size(k)[:, 0] for k in range(1, upto))], axis=0)
        return all((m >= (1 - 2.0**-40) * e).all() for m, e in zip(ranges.mass, exact, strict=False))

    assert is_mass(1)
    ranges.forward(1, 3)
    assert is_mass(3)
    ranges.learn(1, np.full((2, 1), -1e4), np.full((2, 1), 1e4))
    assert is_mass(2)
    ranges.tighten_all([3], "adaptive")
    assert is_mass(5)
    ranges.learn(3, ranges.low[3], ranges.high[3])
    assert is_mass(4)


@pytest.mark.parametrize("depth", [0, 1])
def test_what_underflows_on_a_walk_is_paid_for_by_the_size_of_what_it_is_applied_to(depth: int) -> None:
    """Weights that are subnormal, of inputs or neurons that are enormous."""
    rng = np.random.default_rng(0)
    for scale in (1e-312, 1e-316, 1e-320):
        weights, x = rng.normal(size=3) * scale, rng.normal(size=3) * (1e290 if depth == 0 else 1.0)
        large = node("matrix", (0,), 3, {"weight": 1e290 * np.eye(3)})
        nodes = [node("input", (), 3), *([large] * depth), times(depth, *weights)]
        ranges = NodeRanges(CanonicalNetwork(tuple(nodes)), x[None], x[None], False)
        ranges.forward(1, len(nodes))
        rows = np.array([[0.7], [-1.3], [1e-3]])
        found = ranges.walk(len(nodes) - 1, rows[None], ranges.lines("fixed"))[0].tolist()
        y = [Fraction(v) * (Fraction(1e290) if depth else 1) for v in x.tolist()]
        exact = sum(Fraction(w) * v for w, v in zip(weights.tolist(), y, strict=True))
        assert all(Fraction(b) <= Fraction(r) * exact for b, r in zip(found, rows[:, 0].tolist(), strict=True))


def test_what_is_added_to_a_walk_is_paid_for() -> None:
    """Multipliers that cancel what was carried leave nothing but constants, whose sum rounds."""
    network = CanonicalNetwork((node("input", (), 1), times(0, 1.0, bias=0.1), times(1, 1.0), times(2, 1.0, bias=0.3)))
    ranges = NodeRanges(network, np.ones((1, 1)), np.ones((1, 1)), False)
    ranges.forward(1, 4)
    rng, one = np.random.default_rng(1), np.ones((1, 1, 1))
    for constant in (rng.normal(size=40) * 10.0 ** rng.integers(-3, 9, 40)).tolist():
        found = ranges.walk(3, one, ranges.lines("fixed"), extra={2: (-one, np.full((1, 1), constant))})
        assert Fraction(found.item()) <= Fraction(0.3) + Fraction(constant)
        found = ranges.walk(3, one, ranges.lines("fixed"), extra={1: (0 * one, np.full((1, 1), constant))})
        assert Fraction(found.item()) <= 1 + Fraction(0.1) + Fraction(0.3) + Fraction(constant)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_terms_that_are_lost_in_a_long_sum_are_paid_for(sign: float) -> None:
    """Beside one of 2^53 and more, a hundred that are each less than half a unit of it."""
    large, one = 2.0**53 + 2.0**20, np.ones((1, 1, 1))
    biases = np.append(np.full(99, -0.9), large) * sign
    deep = CanonicalNetwork((node("input", (), 1), *(times(k, 1.0, bias=b) for k, b in enumerate(biases.tolist()))))
    plain = CanonicalNetwork((node("input", (), 1), *(times(k, 1.0) for k in range(100))))
    added = {k + 1: (0 * one, np.full((1, 1), b)) for k, b in enumerate(biases.tolist())}
    exact = sum(map(Fraction, biases.tolist()))
    for network, extra, rows in ((deep, None, (1.0, -1.0)), (plain, added, (1.0,))):
        ranges = NodeRanges(network, np.zeros((1, 1)), np.zeros((1, 1)), False)
        ranges.forward(1, 101)
        for row in rows:
            found = ranges.walk(100, row * one, ranges.lines("fixed"), extra=extra)
            assert Fraction(found.item()) <= exact * Fraction(row)


def test_walks_that_overflow_prove_nothing() -> None:
    network = CanonicalNetwork((node("input", (), 2), node("matrix", (0,), 1, {"weight": np.array([[1e200, 1e200]])})))
    for low, high in (([1.0, 1.0], [2.0, 2.0]), ([-2.0, -1.0], [3.0, 4.0])):
        ranges = NodeRanges(network, np.array([low]), np.array([high]), False)
        ranges.forward(1, 2)
        with np.errstate(all="ignore"):
            found = ranges.walk(1, np.array([[[1e200], [-1e200], [np.nan], [np.inf]]]), ranges.lines("fixed"))
        assert (found == -np.inf).all()


def test_a_set_is_bounded_by_itself_and_boxes_in_it_by_themselves() -> None:
    network, one = CanonicalNetwork((node("input", (), 2),)), np.ones((1, 2))

    def minimum(c: np.ndarray) -> np.ndarray:  # over the ball of radius 1
        return -np.sqrt((c**2).sum(2)) * (1 + 1e-12)

    ranges = NodeRanges(network, -one, one, False, minimum)
    assert abs(ranges.walk(0, one[None], ranges.lines("fixed")).item() + np.sqrt(2)) < 1e-9
    within = ranges.walk(0, one[None], ranges.lines("fixed"), within=(-0.25 * one, 0.5 * one)).item()
    assert abs(within + 0.5) < 1e-9


def test_every_neuron_that_bends_is_bounded_in_every_box() -> None:
    """By its own row, of boxes with ever other numbers of such neurons, and whichever of several activations bends."""
    rng = np.random.default_rng(4)
    first = node("matrix", (0,), 6, {"weight": rng.normal(size=(6, 2)), "bias": rng.normal(size=6)})
    second = node("matrix", (2,), 7, {"weight": rng.normal(size=(7, 6)), "bias": rng.normal(size=7) * 0.1})
    clips = (
        node("clip", (p,), n, low=a, high=b) for p, n, a, b in ((3, 7, -0.5, 2.5), (3, 7, 1.0, 1.5), (1, 6, 0.3, 2.0))
    )
    last = node("matrix", (3,), 1, {"weight": np.ones((1, 7))})
    network = CanonicalNetwork((node("input", (), 2), first, node("abs", (1,), 6), second, *clips, last))
    x, eps = rng.normal(size=(4, 2)), np.array([[1e-9], [0.6], [0.2], [1.0]])
    ranges, one = (NodeRanges(network, x - eps, x + eps, False) for _ in range(2))
    for own in (ranges, one):
        own.forward(1, 8)
    ranges.tighten(3, "adaptive")
    found = one.walk(3, np.repeat(np.concatenate([np.eye(7), -np.eye(7)])[None], 4, 0), one.lines("adaptive"))
    low, high = np.fmax(one.low[3], found[:, :7]), np.fmin(one.high[3], -found[:, 7:])
    bends = np.logical_or.reduce([(one.low[3] < k) & (one.high[3] > k) for k in (-0.5, 1.0, 1.5, 2.5)])
    assert len(set(bends.sum(1).tolist())) >= 3 and not bends[0].any() and (low > one.low[3] + 0.01)[bends].any()
    assert np.allclose(ranges.low[3], np.where(bends, low, one.low[3]), rtol=0, atol=1e-12)
    assert np.allclose(ranges.high[3], np.where(bends, high, one.high[3]), rtol=0, atol=1e-12)


def normalised(weights: np.ndarray) -> list[Fraction]:
    return [Fraction(w) for w in (weights / weights.sum(1, keepdims=True))[0].tolist()]


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e-300, 1e-318, 0.0])
@pytest.mark.parametrize("offsets", [0.0, 1.0, 1e-318])
def test_a_mixture_is_below_the_rows_that_it_is_made_of(scale: float, offsets: float) -> None:
    """Wherever what rows are applied to is as large as it may be, in the direction in which roundings are largest."""
    rng = np.random.default_rng(2)
    for reach, (count, width) in product((1.0, 1e12), ((5, 3), (1, 1))):
        for _ in range(10):
            rows, offset = rng.normal(size=(count, width)) * scale, rng.normal(size=count) * offsets
            weights, size = rng.random((1, 7)), rng.random((1, width)) * reach
            row, constant = subdomains.mixed(rows, offset, weights, size)
            share = normalised(weights[:, :count])
            exact = [sum(s * Fraction(v) for s, v in zip(share, column, strict=True)) for column in rows.T.tolist()]
            off = [Fraction(v) - e for v, e in zip(row[0].tolist(), exact, strict=True)]
            most = sum(abs(e) * Fraction(m) for e, m in zip(off, size[0].tolist(), strict=True))
            mean = sum(s * Fraction(v) for s, v in zip(share, offset.tolist(), strict=True))
            assert Fraction(constant[0].item()) + most <= mean


def test_the_largest_is_at_least_a_mean_whose_weights_hardly_sum_to_one() -> None:
    rng = np.random.default_rng(3)
    for count in (1, 2, 9, 400):
        for value in (1.0, -1.0, 0.3, -1e-318, 1e100):
            weights = rng.random((1, count))
            mean = sum(normalised(weights)) * Fraction(value)
            above = np.nextafter(float(mean), np.inf)
            assert Fraction(subdomains.largest(np.array([above]), count)[0].item()) <= Fraction(value)


def test_weights_of_rows_are_numbers_from_0_on_that_do_not_vanish() -> None:
    rows, offset, size = np.ones((2, 1)), np.zeros(2), np.ones((1, 1))
    for good in ([[1.0, 0.0]], [[0.5, 2.0, -7.0]], [[0.0, 1e-300]]):
        subdomains.mixed(rows, offset, np.array(good), size)
    for wrong in ([[1.0]], [[1.0, -1e-9]], [[0.0, 0.0]], [[1.0, np.nan]], [[np.inf, 1.0]], [[1.0, 1.0], [1.0, -1.0]]):
        with pytest.raises(ValueError, match="weights"):
            subdomains.mixed(rows, offset, np.array(wrong), size)
