"""Bounds with roundings of each operation: below the exact ones always, and equal where nothing rounds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.checker.backward import NodeRanges
from verifier.checker.check import check
from verifier.checker.directed import row_bounds
from verifier.checker.document import Document, claim_digest
from verifier.checker.network import CanonicalNetwork, CanonicalNode

WIDE = st.floats(-1e3, 1e3) | st.sampled_from([0.0, -0.0, 5e-324, -1e-200, 1e-160, 1e120, -1e200, 2.0**-1022])
SHORT = st.integers(-64, 64).map(lambda k: k / 16)


def network(numbers: list[float], second: tuple[str, dict[str, float]]) -> CanonicalNetwork:
    """3 inputs, a matrix, an activation, a sparse matrix of its 3 values and the inputs: 2 outputs."""
    a = np.array(numbers)
    row, column = np.repeat([0, 1], 4), np.array([0, 1, 2, 4, 0, 2, 3, 5])
    return CanonicalNetwork((
        CanonicalNode("input", (), 3, {}, {}),
        CanonicalNode("matrix", (0,), 3, {"weight": a[:9].reshape(3, 3), "bias": a[9:12]}, {}),
        CanonicalNode(second[0], (1,), 3, {}, second[1]),
        CanonicalNode("sparse", (2, 0), 2, {"row": row, "column": column, "value": a[12:20]}, {}),
    ))  # fmt: skip


def interval(a: list[Fraction], low: list[Fraction], high: list[Fraction]) -> tuple[Fraction, Fraction]:
    ends = [(v * x, v * y) for v, x, y in zip(a, low, high, strict=True)]
    return sum(map(min, ends), Fraction(0)), sum(map(max, ends), Fraction(0))


def exact(net: CanonicalNetwork, low: np.ndarray, high: np.ndarray, row: np.ndarray, offset: float) -> Fraction:
    """The same intervals in fractions."""
    fractions = lambda a: [Fraction(float(v)) for v in a]  # noqa: E731
    low, high = fractions(low), fractions(high)
    first, act, last = net.nodes[1:]
    z = [interval(fractions(w), low, high) for w in first.arrays["weight"]]
    z = [(a + b, c + b) for (a, c), b in zip(z, fractions(first.arrays["bias"]), strict=True)]

    def value(v: Fraction) -> Fraction:
        return v if v > 0 else v * Fraction(act.options["slope"])

    if act.kind == "abs":
        h = [(Fraction(0) if a <= 0 <= c else min(abs(a), abs(c)), max(abs(a), abs(c))) for a, c in z]
    elif act.kind == "clip":
        ends = fractions([act.options["low"], act.options["high"]])
        h = [(min(max(a, ends[0]), ends[1]), min(max(c, ends[0]), ends[1])) for a, c in z]
    else:
        h = [(value(a), value(c)) for a, c in z]
    both = [[*(pair[k] for pair in h), *end] for k, end in ((0, low), (1, high))]
    y = []
    for j in (0, 1):
        a = [Fraction(0)] * 6
        for r, c, v in zip(*(last.arrays[k] for k in ("row", "column", "value")), strict=True):
            if r == j:
                a[c] = Fraction(float(v))
        y.append(interval(a, *both))
    return interval(fractions(row), *([pair[k] for pair in y] for k in (0, 1)))[0] + Fraction(offset)


def bound(net: CanonicalNetwork, low: np.ndarray, high: np.ndarray, row: np.ndarray, offset: float) -> float:
    with np.errstate(all="ignore"):
        ranges = NodeRanges(net, low[None], high[None], False)
        ranges.forward(1, len(net.nodes))
        return float(row_bounds(ranges, row[None], np.array([offset]))[0])


ACTIVATION = st.sampled_from([
    ("leaky", {"slope": 0.0}), ("leaky", {"slope": 0.125}), ("abs", {}), ("clip", {"low": -0.5, "high": 2.0}),
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(WIDE, min_size=29, max_size=29), ACTIVATION)
def test_bounds_are_below_the_exact_ones(numbers, activation):
    net = network(numbers[:20], activation)
    a, b = np.array(numbers[20:23]), np.array(numbers[23:26])
    low, high, row = np.minimum(a, b), np.maximum(a, b), np.array(numbers[26:28])
    found = bound(net, low, high, row, numbers[28])
    assert found == -np.inf or Fraction(found) <= exact(net, low, high, row, numbers[28])


@settings(max_examples=150, deadline=None)
@given(st.lists(SHORT, min_size=29, max_size=29), ACTIVATION)
def test_bounds_of_short_numbers_are_exact(numbers, activation):
    net = network(numbers[:20], activation)
    a, b = np.array(numbers[20:23]), np.array(numbers[23:26])
    low, high, row = np.minimum(a, b), np.maximum(a, b), np.array(numbers[26:28])
    assert Fraction(bound(net, low, high, row, numbers[28])) >= exact(net, low, high, row, numbers[28])


def test_products_that_fit_are_exact_and_others_are_below() -> None:
    """Factors of more bits than one half of Dekker's has, either way round; of products with 52 bits, and with more."""
    rng, net = np.random.default_rng(0), CanonicalNetwork((CanonicalNode("input", (), 1, {}, {}),))
    for bits in ((30, 22), (22, 30), (30, 30), (53, 53)):
        for _ in range(50):
            a, b = (float((int(rng.integers(2 ** (n - 1), 2**n)) | 1) * rng.choice([-1, 1])) for n in bits)
            found = Fraction(bound(net, np.array([a]), np.array([a]), np.array([b]), 0.0))
            product = Fraction(a) * Fraction(b)
            assert found == product if sum(bits) <= 52 else product - abs(product) / 2**51 <= found <= product


def test_a_product_too_small_for_its_error_keeps_its_sign() -> None:
    net = CanonicalNetwork((CanonicalNode("input", (), 1, {}, {}),))
    for sign in (1.0, -1.0):
        x = np.array([sign * 1e-130])
        assert -1e-249 < bound(net, x, x, np.array([-sign * 1e-130]), 0.0) < 0
        assert bound(net, x, x, np.array([sign * 1e-130]), 0.0) == 0


def test_sums_that_overflow_or_vanish_prove_nothing() -> None:
    net, x = CanonicalNetwork((CanonicalNode("input", (), 2, {}, {}),)), np.full(2, 1e300)
    assert bound(net, x, x, np.array([1e300, -1e300]), 0.0) <= 0
    assert bound(net, 0 * x, 0 * x, np.zeros(2), -1e-300) < 0


@pytest.mark.parametrize("apart", [-70, -54, -53, -10, -2, -1, 0, 1, 2, 10, 52, 53, 54, 70])
def test_sums_are_below_the_exact_ones_and_equal_where_those_fit(apart: int) -> None:
    """Of two numbers whose last bits are so far from each other: the first one's below, or above."""
    rng, net = np.random.default_rng(0), CanonicalNetwork((CanonicalNode("input", (), 1, {}, {}),))
    a, b = ((rng.integers(2**52, 2**53, 300) | 1).astype(float) * rng.choice([-1.0, 1.0], 300) for _ in range(2))
    b = np.ldexp(b, apart)
    found = row_bounds(NodeRanges(net, np.ones((1, 1)), np.ones((1, 1)), False), a[:, None], b)
    for x, y, low in zip(a, b, found, strict=True):
        true = Fraction(x) + Fraction(y)
        rounded = Fraction(float(true))
        assert Fraction(low) == true if rounded == true else true - abs(true) / 2**51 <= Fraction(low) < true


@pytest.mark.parametrize("nothing", [np.nan, -np.inf])
def test_what_is_no_number_proves_nothing(nothing: float) -> None:
    net, one = CanonicalNetwork((CanonicalNode("input", (), 2, {}, {}),)), np.ones(2)
    lost = np.array([nothing, 1.0])
    assert bound(net, one, one, one, nothing) == -np.inf
    assert bound(net, one, one, lost, 0.0) == -np.inf
    assert bound(net, lost, one, one, 0.0) == -np.inf
    assert bound(net, one, -lost, -one, 0.0) == -np.inf


@pytest.mark.parametrize("slope", [-1.0, -0.25])
def test_what_falls_and_rises_is_not_bounded_by_its_values_at_the_ends(slope: float) -> None:
    """Over [-1, 1] it is 0 in between."""
    falls = CanonicalNetwork(
        (CanonicalNode("input", (), 1, {}, {}), CanonicalNode("leaky", (0,), 1, {}, {"slope": slope}))
    )
    for row, least in ((1.0, 0.0), (-1.0, -1.0)):
        assert bound(falls, -np.ones(1), np.ones(1), np.array([row]), 0.0) <= least


@pytest.mark.parametrize("unknown", ["weight", "bias", "both", None])
def test_parameters_that_are_not_known_exactly_touch_nothing(unknown: str | None) -> None:
    """x - 1/2 over [1/2, 1] is 0 at its least, with a weight and a bias that are these numbers and no others."""
    arrays, options = {"weight": np.ones((1, 1)), "bias": -0.5 * np.ones(1)}, {}
    if unknown in ("bias", "both"):
        arrays["bias_size"] = np.ones(1)
    if unknown in ("weight", "both"):
        options["ulps"] = 1
    net = CanonicalNetwork((CanonicalNode("input", (), 1, {}, {}), CanonicalNode("matrix", (0,), 1, arrays, options)))
    least = bound(net, 0.5 * np.ones(1), np.ones(1), np.ones(1), 0.0)
    assert least == 0.0 if unknown is None else least < 0.0


def document(net: CanonicalNetwork, rows: np.ndarray, touching: np.ndarray | None, rule: str = "interval") -> Document:
    arrays = {
        "rows": rows,
        "offset": np.zeros(len(rows)),
        "clause": np.arange(len(rows)),
        "chosen": np.arange(len(rows)),
    }
    arrays |= {"lower": -np.ones(1), "upper": np.ones(1)}
    spec = {"kind": "rows", "rows": "rows", "offset": "offset", "clause": "clause"}
    if touching is not None:
        arrays["touching"] = touching
        spec["touching"] = "touching"
    part = {"set": {"kind": "box", "lower": "lower", "upper": "upper"}, "bounds": []}
    part["proofs"] = [{"rule": rule, "rows": "chosen"}]
    head = {"version": 1, "network": net.digest, "semantics": "real", "about": {}, "specification": spec}
    head["parts"] = [part]
    head["claim"] = claim_digest(head, arrays)
    return Document(head, arrays)


RELU = CanonicalNetwork((
    CanonicalNode("input", (), 1, {}, {}),
    CanonicalNode("matrix", (0,), 2, {"weight": np.array([[1.0], [1.0]]), "bias": np.array([0.0, 0.5])}, {}),
    CanonicalNode("leaky", (1,), 2, {}, {"slope": 0.0}),
))  # fmt: skip


def test_a_row_that_is_touched_is_proved_where_the_claim_says_so():
    row = np.array([[1.0, 0.0]])
    assert check(RELU, document(RELU, row, np.array([True]))).valid
    for touching in (None, np.array([False])):
        assert not check(RELU, document(RELU, row, touching)).valid
    assert not check(RELU, document(RELU, np.array([[1.0, -1e-9]]), np.array([True]))).valid
    assert not check(RELU, document(RELU, row, np.array([True]), "adaptive")).valid


def test_the_claim_covers_which_rows_hold_at_zero():
    made = document(RELU, np.array([[1.0, 0.0]]), np.array([False]))
    forged = Document(made.head, made.arrays | {"touching": np.array([True])})
    assert "claim was changed" in check(RELU, forged).reason


@pytest.mark.parametrize("touching", [np.array([1]), np.array([True, False]), np.array(True)])
def test_malformed_touching_is_refused(touching):
    found = check(RELU, document(RELU, np.array([[1.0, 0.0]]), touching))
    assert not found.valid and "truth value for each row" in found.reason


def test_rational_arithmetic_agrees():
    pytest.importorskip("flint")
    from verifier.checker.exact.check import check_exactly

    row = np.array([[1.0, 0.0]])
    assert check_exactly(RELU, document(RELU, row, np.array([True]))).valid
    assert not check_exactly(RELU, document(RELU, row, np.array([False]))).valid
    assert not check_exactly(RELU, document(RELU, np.array([[1.0, -1e-9]]), np.array([True]))).valid
