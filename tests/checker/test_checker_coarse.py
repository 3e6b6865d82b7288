"""The checker in arithmetic of 20 bits that rounds against it: whatever a rounding does must have been paid for."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any
from unittest import mock

import numpy as np
import pytest
from helpers.coarse import MODES, UNIT, arithmetic, coarse, rounded
from test_checker import KINDS, dense, exact_activation, exact_values, node
from test_checker_sets import CASES, coefficients, dot, members

from properties import InputSet
from verifier.checker import backward, check, lines, network, search, sets, subdomains
from verifier.checker.backward import NodeRanges
from verifier.checker.network import CanonicalNetwork, CanonicalNode

CORE = (network, lines, backward, subdomains, check)
N = 150


def matrix(parent: int, weight: Any, bias: Any = None) -> CanonicalNode:
    arrays = {"weight": np.asarray(weight, float), **({} if bias is None else {"bias": np.asarray(bias, float)})}
    return node("matrix", (parent,), len(weight), arrays)


ONES, DRAW = np.ones((1, N)), np.random.default_rng(3).uniform(0.5, 1, N)
#: a sum of these rounds by a whole unit at every step, even if it is a little smaller
EDGE = np.where(np.arange(N) == 0, 1 + 2.0**-8, 2.0**-40)


def chain(*nodes: CanonicalNode) -> tuple[CanonicalNode, ...]:
    return nodes


def plus(parent: int, bias: np.ndarray) -> CanonicalNode:
    index = np.arange(len(bias))
    arrays = {"row": index, "column": index, "value": np.ones(len(bias)), "bias": bias}
    return node("sparse", (parent,), len(bias), arrays)


#: the one input many times: once as it is, and hardly anything of the others, without a long sum
TOGETHER = node("sparse", (0,) * 400, 20, {"row": np.arange(400) // 20, "column": np.arange(400),
                                           "value": np.where(np.arange(400) == 0, 1.0, 2.0**-40)})  # fmt: skip

#: nodes of networks of one long sum, or of one rounding that little else pays for, each with a point
LONG: dict[str, tuple[tuple[CanonicalNode, ...], np.ndarray]] = {
    "bias": (chain(matrix(0, np.zeros((N, 1)), DRAW)), np.zeros(1)),
    "forward": (chain(matrix(0, [DRAW])), DRAW),
    "adjoint": (chain(matrix(0, DRAW[:, None])), np.ones(1)),
    "input": (chain(matrix(0, np.diag(DRAW))), DRAW),
    "sparse": (
        chain(node("sparse", (0,), 1, {"row": np.zeros(N, int), "column": np.arange(N), "value": DRAW})), DRAW,
    ),
    "columns": (
        chain(node("sparse", (0,), N, {"row": np.arange(N), "column": np.zeros(N, int), "value": DRAW})), np.ones(1),
    ),
    "deep": (chain(*(matrix(k, [[1.0]], [DRAW[k]]) for k in range(30))), np.zeros(1)),
    "activations": (chain(matrix(0, np.zeros((N, 1)), DRAW), node("leaky", (1,), N, slope=0.1)), np.zeros(1)),
    "clips": (chain(matrix(0, np.zeros((N, 1)), DRAW), node("clip", (1,), N, low=900.0625, high=901.0)), np.zeros(1)),
    "steep": (chain(matrix(0, np.ones((N, 1))), node("leaky", (1,), N, slope=70.3)), -np.ones(1)),
    "smooth": (chain(matrix(0, np.zeros((9, 1)), DRAW[:9]), node("sigmoid", (1,), 9)), np.zeros(1)),
    "readers": (chain(*(matrix(0, [[DRAW[k]]]) for k in range(100)), node("sparse", tuple(range(1, 101)), 1, {
        "row": np.zeros(100, int), "column": np.arange(100), "value": DRAW[:100]})), np.ones(1)),
    "edge of sums": (chain(matrix(0, ONES)), EDGE),
    "edge of biases": (chain(plus(0, EDGE)), np.zeros(N)),
    "edge of constants": (chain(node("abs", (0,), N)), EDGE),
    "edge of coefficients": (chain(TOGETHER), np.ones(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LONG))
@pytest.mark.parametrize("mode", ("up", "down", "mixed"))
def test_long_sums_are_paid_for(name: str, mode: str) -> None:
    """Intervals of the nodes hold their exact values, and bounds of rows, and of differences, are below them."""
    nodes, x = LONG[name]
    own = CanonicalNetwork((node("input", (), x.size), *nodes))
    exact = exact_values(own, [Fraction(v) for v in x.tolist()])
    with arithmetic(mode, *CORE), np.errstate(all="ignore"):
        ranges = NodeRanges(own, coarse(x)[None], coarse(x)[None], False)
        ranges.forward(1, len(own.nodes))
        n, last = own.nodes[-1].size, len(own.nodes) - 1
        rows = np.concatenate([np.ones((1, n)), -np.ones((1, n)), alternating(n), -alternating(n)])
        for rule in ("fixed", "interval"):
            found = np.asarray(ranges.walk(last, coarse(rows)[None], ranges.lines(rule))[0])
            for row, bound in zip(rows.tolist(), found.tolist(), strict=True):
                assert Fraction(bound) <= sum(Fraction(a) * v for a, v in zip(row, exact[-1], strict=True)), rule
    for k, values in enumerate(exact):
        low, high = np.asarray(ranges.low[k])[0].tolist(), np.asarray(ranges.high[k])[0].tolist()
        assert all(Fraction(a) <= v <= Fraction(b) for a, v, b in zip(low, values, high, strict=True)), k


def alternating(n: int) -> np.ndarray:
    return ((-1.0) ** np.arange(n))[None]


#: kinks have few bits: those of float64 are floating-point numbers of the checker's own arithmetic
FEW = [(kind, {k: float(rounded(v)) for k, v in options.items()}) for kind, options in KINDS]


@pytest.mark.parametrize(("kind", "options"), [FEW[k] for k in (2, 4, 5, 7)])
@pytest.mark.parametrize("mode", ("up", "down", "mixed"))
def test_bounds_hold_in_coarse_arithmetic(kind: str, options: dict[str, float], mode: str) -> None:
    rng = np.random.default_rng(0)
    for sizes, eps in (([2, 4, 3, 2], 0.0), ([2, 5, 4, 2], 2.0**-18), ([2, 4, 4, 2], 0.3)):
        own, x = dense(rng, sizes, kind, options), rounded(rng.normal(size=2))
        low, high = coarse(x - eps), coarse(x + eps)
        corners = [np.where(s, np.asarray(low), np.asarray(high)) for s in ([0, 0], [0, 1], [1, 0], [1, 1])]
        exact = [exact_values(own, [Fraction(v) for v in point.tolist()]) for point in corners]
        with arithmetic(mode, *CORE), np.errstate(all="ignore"):
            for rule in ("fixed", "adaptive"):
                ranges = NodeRanges(own, low[None], high[None], False)
                ranges.tighten_all(own.pre_activations, rule)
                for k in range(len(own.nodes)):
                    ends = np.asarray(ranges.low[k])[0].tolist(), np.asarray(ranges.high[k])[0].tolist()
                    for values in exact:
                        assert all(
                            Fraction(a) <= v[0] <= Fraction(b) for a, b, *v in zip(*ends, values[k], strict=True)
                        )
                rows = np.array([[1.0, -1.0], [-1.0, 1.0], [0.3, 0.3]])
                found = np.asarray(ranges.walk(len(own.nodes) - 1, coarse(rows)[None], ranges.lines(rule))[0]).tolist()
                for row, bound in zip(rows.tolist(), found, strict=True):
                    for values in exact:
                        assert Fraction(bound) <= sum(Fraction(a) * v for a, v in zip(row, values[-1], strict=True))


@pytest.mark.parametrize("name", [*sorted(LONG), *(f"dense {k}" for k in range(len(KINDS)))])
def test_float32_semantics_covers_evaluations_that_round_one_way(name: str) -> None:
    """With float32's roundoff as that of 20 bits: rows and intervals hold of evaluations in arithmetic of 20 bits."""
    rng = np.random.default_rng(1)
    if name in LONG:
        nodes, x = LONG[name]
    else:
        nodes, x = dense(rng, [3, 5, 4, 2], *KINDS[int(name[6:])]).nodes[1:], rng.normal(size=3)
    x, own = rounded(x), CanonicalNetwork((node("input", (), x.size), *nodes))
    with mock.patch.object(backward, "SINGLE", UNIT), np.errstate(all="ignore"):
        ranges = NodeRanges(own, x[None], x[None], True)
        ranges.forward(1, len(own.nodes))
        n = own.nodes[-1].size
        rows = np.concatenate([np.ones((1, n)), -np.ones((1, n)), alternating(n), -alternating(n)])
        lower = ranges.walk(len(own.nodes) - 1, rows[None], ranges.lines("fixed"))[0].tolist()
    for mode in MODES:
        with arithmetic(mode, network, lines):
            values = evaluated(own, x)
        for k, value in enumerate(values):
            assert (ranges.low[k][0] <= value).all() and (value <= ranges.high[k][0]).all(), k
        for row, bound in zip(rows.tolist(), lower, strict=True):
            exact = sum(Fraction(a) * Fraction(v) for a, v in zip(row, values[-1].tolist(), strict=True))
            assert Fraction(bound) <= exact


def evaluated(own: CanonicalNetwork, x: np.ndarray) -> list[np.ndarray]:
    """Every node's value in coarse arithmetic, its parameters rounded where an operator's are."""
    values = [coarse(x)]
    for one in own.nodes[1:]:
        z = np.concatenate([values[p] for p in one.parents])
        if one.arrays:
            bias = "bias" in one.arrays
            values.append((one.forward(z[None]) + (one.bias if bias else 0.0))[0])
        elif lines.smooth(one):
            exact = [exact_activation(one, Fraction(v)) for v in z.tolist()]
            values.append(coarse(rounded(np.array([float(v) for v in exact]))))
        else:
            few = {k: float(rounded(v)) for k, v in one.options.items()}
            values.append(coarse(lines.value(node(one.kind, (0,), one.size, **few), z)))
    return [np.asarray(v) for v in values]


@pytest.mark.parametrize("inputs", CASES)
@pytest.mark.parametrize("mode", ("down", "mixed"))
def test_support_functions_hold_in_coarse_arithmetic(
    inputs: InputSet, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, points = inputs.record(), members(inputs)
    c = rounded(coefficients(points.shape[1], 3))
    for name in ("l2_part", "l1_part", "row_multipliers", "price_of_cost", "prices_of_room"):
        monkeypatch.setattr(search, name, in_float64(getattr(search, name)))
    with arithmetic(mode, sets), np.errstate(all="ignore"):
        bounds = np.asarray(sets.support(record.kind, record.options, record.arrays, coarse(c))).tolist()
        low, high = (np.asarray(t) for t in sets.box(record.kind, record.options, record.arrays))
    for row, bound in zip(c, bounds, strict=True):
        assert dot(row, points[np.argmax(points @ row)]) <= Fraction(bound)
    assert (low <= points).all() and (points <= high).all()


def test_norms_of_many_numbers_are_paid_for() -> None:
    """Squares that are lost beside the first one, each."""
    c = rounded(np.sqrt(np.where(np.arange(N) == 0, 1.0, 0.9 * UNIT)))
    with arithmetic("down", sets):
        bound = np.asarray(sets.support("l2", {"eps": 1.0}, {"x": np.zeros(N)}, coarse(c[None])))[0].item()
    assert Fraction(bound) ** 2 >= sum(Fraction(v) ** 2 for v in c.tolist())


def in_float64(found: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A search that is as good as ever; what it finds has few bits."""

    def plain(value: Any) -> Any:
        if isinstance(value, list) and len(value) and isinstance(value[0], np.ndarray):
            return [np.asarray(v) for v in value]
        return np.asarray(value) if isinstance(value, np.ndarray) else value

    return lambda *given: coarse(rounded(found(*map(plain, given))))


@pytest.mark.parametrize("mode", MODES)
def test_roundings_are_of_the_size_of_the_larger_end(mode: str) -> None:
    """On [0, 1] and [-1, 0] a sum of many products is paid for by what it is where it is large."""
    many = np.random.default_rng(5).uniform(0.5, 1, 800)
    own = CanonicalNetwork((node("input", (), 1), matrix(0, many[:, None]), matrix(1, [many])))
    total = sum(Fraction(v) ** 2 for v in many.tolist())
    for low, high in ((0.0, 1.0), (-1.0, 0.0)):
        with arithmetic(mode, *CORE), np.errstate(all="ignore"):
            ranges = NodeRanges(own, coarse([[low]]), coarse([[high]]), False)
            ranges.forward(1, 3)
            rows = coarse([[[1.0], [-1.0]]])
            least, most = np.asarray(ranges.walk(2, rows, ranges.lines("fixed")))[0].tolist()
        assert Fraction(least) <= Fraction(low) * total and Fraction(most) <= -Fraction(high) * total


@pytest.mark.parametrize("mode", MODES)
def test_mixtures_of_rows_are_paid_for(mode: str) -> None:
    """No mixture is above the largest of its rows, wherever the output is: rows and offsets that nearly cancel."""
    rng = np.random.default_rng(4)
    for width, rows_size, offset_size in ((1, 1.0, 0.0), (1, 0.0, 1.0), (6, 1.0, 1.0), (6, 1e3, 1.0), (2, 1.0, 1e3)):
        for _ in range(4):
            half, shift = rng.normal(size=(4, width)) * rows_size, rng.normal(size=4) * offset_size
            rows, offset = rounded(np.concatenate([half, -half])), rounded(np.concatenate([shift, -shift]))
            weights = rounded(np.tile(rng.random(4), (1, 2)))
            size = rounded(rng.random((1, width)))
            with arithmetic(mode, subdomains), np.errstate(all="ignore"):
                row, constant = subdomains.mixed(coarse(rows), coarse(offset), coarse(weights), coarse(size))
            for signs in (1.0, -1.0, np.sign(np.asarray(row)[0])):
                y = [Fraction(v) for v in (signs * size[0]).tolist()]
                value = sum((Fraction(a) * v for a, v in zip(np.asarray(row)[0].tolist(), y, strict=True)), Fraction(0))
                bound = coarse([float(value + Fraction(float(constant[0])))])
                with arithmetic(mode, subdomains):
                    bound = float(subdomains.largest(subdomains.down(bound), 8)[0])
                exact = [
                    sum((Fraction(a) * v for a, v in zip(r, y, strict=True)), Fraction(o))
                    for r, o in zip(rows.tolist(), offset.tolist(), strict=True)
                ]
                share = [Fraction(w) for w in weights[0].tolist()]
                mean = sum((w * v for w, v in zip(share, exact, strict=True)), Fraction(0)) / sum(share)
                assert Fraction(bound) <= max(exact) and Fraction(bound) <= mean + abs(mean) / 10**4 + Fraction(
                    1, 10**9
                )


def test_mixtures_of_many_rows_are_paid_for() -> None:
    """Offsets, and weights, each of which is lost beside the first: by their mean, and by weights that sum to more."""
    with arithmetic("up", subdomains):
        _, constant = subdomains.mixed(
            coarse(np.zeros((N, 1))), coarse(N * EDGE), coarse(np.ones((1, N))), coarse([[0.0]])
        )
        share = coarse(np.ones(1)) / coarse(np.ones((1, N))).sum(1)
    assert Fraction(constant[0].item()) <= Fraction(share.item()) * sum(map(Fraction, (N * EDGE).tolist()))
    weights = rounded(np.where(np.arange(N) == 0, 1.0, 0.9 * UNIT))[None]
    with arithmetic("down", subdomains):
        shares = coarse(weights) / coarse(weights).sum(1, keepdims=True)
        mean = sum(map(Fraction, np.asarray(shares)[0].tolist()))
        least = subdomains.largest(coarse([float(mean)]), N)
    assert mean > 1 and Fraction(least[0].item()) <= 1


def test_parameters_that_were_rounded_are_paid_for() -> None:
    """Weights and biases may be off by gamma_ulps: what is proved holds at both ends."""
    off = Fraction(1000, 2**53) / (1 - Fraction(1000, 2**53))
    for size, bias in ((2.0, -1.0), (-3.0, 0.5)):
        arrays = {"weight": np.array([[size]]), "bias": np.array([bias]), "bias_size": np.array([7.0])}
        own = CanonicalNetwork((node("input", (), 1), node("matrix", (0,), 1, arrays, ulps=1000)))
        ranges = NodeRanges(own, np.ones((1, 1)), np.ones((1, 1)), False)
        ranges.forward(1, 2)
        room = off * (abs(Fraction(size)) + 7)
        least, most = Fraction(size) + Fraction(bias) - room, Fraction(size) + Fraction(bias) + room
        assert Fraction(ranges.low[1].item()) <= least and most <= Fraction(ranges.high[1].item())
        below, above = ranges.walk(1, np.array([[[1.0], [-1.0]]]), ranges.lines("fixed"))[0].tolist()
        assert Fraction(below) <= least and Fraction(above) <= -most
