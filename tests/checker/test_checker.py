"""The checker of certificates against exact arithmetic: fractions, decimals, matrices built column by column."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.checker import check as check_module
from verifier.checker import lines, rounding
from verifier.checker.backward import NodeRanges
from verifier.checker.check import Check, check
from verifier.checker.document import Document, claim_digest, packed_network, read_network
from verifier.checker.network import ACTIVATIONS, CanonicalNetwork, CanonicalNode

Arrays = dict[str, np.ndarray]
KINDS: list[tuple[str, dict[str, float]]] = [
    ("leaky", {"slope": 0.0}),
    ("leaky", {"slope": 0.125}),
    ("leaky", {"slope": 0.1}),
    ("leaky", {"slope": 1.5}),
    ("leaky", {"slope": -0.3}),
    ("clip", {"low": -0.3, "high": 0.8}),
    ("abs", {}),
    ("sigmoid", {}),
    ("tanh", {}),
]


# exact values ---------------------------------------------------------------------------------------------------------


def exact_activation(node: CanonicalNode, z: Fraction) -> Fraction:
    """act(z), exactly; of smooth ones with 50 digits."""
    if node.kind == "leaky":
        return z if z > 0 else Fraction(node.options["slope"]) * z
    if node.kind == "clip":
        return min(max(z, Fraction(node.options["low"])), Fraction(node.options["high"]))
    if node.kind == "abs":
        return abs(z)
    with localcontext() as context:
        context.prec, context.Emin = 60, -(10**9)
        e = (-abs(Decimal(z.numerator) / Decimal(z.denominator)) * (2 if node.kind == "tanh" else 1)).exp()
        if node.kind == "sigmoid":
            return Fraction((e if z < 0 else 1) / (1 + e))
        return Fraction((1 - e) / (1 + e)) * (-1 if z < 0 else 1)


def matrix(node: CanonicalNode, width: int) -> np.ndarray:
    """A [size, width], from products with unit vectors."""
    return node.forward(np.eye(width)).T


def exact_values(network: CanonicalNetwork, x: list[Fraction]) -> list[list[Fraction]]:
    values = [x]
    for node in network.nodes[1:]:
        z = [v for p in node.parents for v in values[p]]
        if node.kind in ACTIVATIONS:
            values.append([exact_activation(node, v) for v in z])
            continue
        values.append(
            [
                sum((Fraction(a) * z[j] for j, a in enumerate(row) if a), Fraction(b))
                for row, b in zip(matrix(node, len(z)).tolist(), node.bias.tolist(), strict=True)
            ]
        )
    return values


# networks -------------------------------------------------------------------------------------------------------------


def node(kind: str, parents: tuple[int, ...], size: int, arrays: Arrays | None = None, **options: Any) -> CanonicalNode:
    return CanonicalNode(kind, parents, size, arrays or {}, options)


def dense(
    rng: np.random.Generator, sizes: list[int], kind: str, options: dict[str, float], scale: float = 1.4
) -> CanonicalNetwork:
    nodes = [node("input", (), sizes[0])]
    for a, b in pairwise(sizes):
        weight = rng.normal(size=(b, a)) / a**0.5 * scale
        nodes.append(node("matrix", (len(nodes) - 1,), b, {"weight": weight, "bias": rng.normal(size=b) * 0.1}))
        nodes.append(node(kind, (len(nodes) - 1,), b, **options))
    return CanonicalNetwork(tuple(nodes[:-1]))


CONV = {
    "groups": 2,
    "stride": [2, 1],
    "padding": [2, 0, 1, 2],
    "dilation": [1, 2],
    "input": [4, 5, 4],
    "output": [6, 3, 5],
}


def image(rng: np.random.Generator) -> CanonicalNetwork:
    """A residual network with every affine kind."""
    weight, bias = rng.normal(size=(6, 2, 3, 2)), rng.normal(size=6)
    back = {"weight": rng.normal(size=(6, 2, 3, 2)), "bias": rng.normal(size=4)}
    total = np.repeat(np.arange(80), 2), np.stack([np.arange(80), np.arange(80) + 80], 1).ravel()
    add = {"row": total[0], "column": total[1], "value": np.tile([1.0, -0.5], 80), "bias": rng.normal(size=80)}
    last = rng.normal(size=(2, 20)) / 5
    return CanonicalNetwork(
        (
            node("input", (), 80),
            node("conv", (0,), 90, {"weight": weight / 4, "bias": bias}, **CONV),
            node("leaky", (1,), 90, slope=0.0),
            node("conv_transpose", (2,), 80, {**back, "weight": back["weight"] / 4}, **CONV),
            node("sparse", (3, 0), 80, add),
            node("abs", (4,), 80),
            node("matrix", (5,), 8, {"weight": last, "bias": rng.normal(size=8)}, repeat=4),
        )
    )


# documents ------------------------------------------------------------------------------------------------------------


def document(
    network: CanonicalNetwork, x: np.ndarray, eps: float, arrays: Arrays | None = None, **head: Any
) -> Document:
    classes = network.nodes[-1].size
    part = {"set": {"kind": "linf", "eps": eps, "x": "x"}, "bounds": [{"rule": "adaptive", "nodes": "all"}]}
    part |= {"proofs": [{"rule": "adaptive", "rows": "rows"}]}
    part |= {k: head.pop(k) for k in ("bounds", "proofs", "set") if k in head}
    spec = {"kind": "robustness", "label": 0, "classes": classes}
    known = {
        "version": 1,
        "network": network.digest,
        "semantics": "real",
        "specification": spec,
        "parts": [part],
        **head,
    }
    numbers = {"x": x, "rows": np.arange(classes - 1), **(arrays or {})}
    return Document({**known, "claim": claim_digest(known, numbers)}, numbers)


def checked(network: CanonicalNetwork, x: np.ndarray, eps: float, arrays: Arrays | None = None, **head: Any) -> Check:
    return check(network, document(network, x, eps, arrays, **head))


def points(rng: np.random.Generator, x: np.ndarray, eps: float, count: int) -> list[list[Fraction]]:
    """Exact points of the ball: corners and others."""
    signs = np.sign(rng.normal(size=(count, len(x)))) * rng.choice([1.0, 1.0, 0.5], size=(count, 1))
    return [
        [Fraction(a) + Fraction(s) * Fraction(eps) for a, s in zip(x.tolist(), row, strict=True)]
        for row in signs.tolist()
    ]


def margins(network: CanonicalNetwork, x: list[Fraction]) -> list[Fraction]:
    y = exact_values(network, x)[-1]
    return [y[0] - v for v in y[1:]]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("semantics", ["real", "float32"])
def test_no_bound_is_above_an_exact_value(kind: str, options: dict[str, float], semantics: str) -> None:
    rng = np.random.default_rng(0)
    for size, eps in (([3, 6, 5, 3], 0.3), ([2, 4, 4, 4, 2], 1e-9), ([3, 5, 2], 3.0)):
        network, x = dense(rng, size, kind, options), rng.normal(size=size[0])
        exact = [min(m) for m in zip(*(margins(network, p) for p in points(rng, x, eps, 6)), strict=True)]
        for rule in ("interval", "fixed", "adaptive"):
            bounds = [] if rule == "interval" else [{"rule": rule, "nodes": "all"}]
            found = checked(
                network, x, eps, bounds=bounds, proofs=[{"rule": rule, "rows": "rows"}], semantics=semantics
            )
            assert all(Fraction(b) <= m for b, m in zip(found.lower.tolist(), exact, strict=True)), (rule, found)
            if eps < 1e-6:  # and near it, where the set is hardly more than a point
                roundoff = 1e-4 if semantics == "float32" else 1e-6
                assert all(b > m - roundoff for b, m in zip(found.lower.tolist(), exact, strict=True))


def test_intervals_hold_the_exact_values_of_every_node() -> None:
    rng = np.random.default_rng(1)
    for network in (image(rng), *(dense(rng, [3, 5, 5, 2], *kind) for kind in KINDS)):
        x, eps = rng.normal(size=network.nodes[0].size), 0.1
        ranges = NodeRanges(network, np.nextafter(x - eps, -np.inf)[None], np.nextafter(x + eps, np.inf)[None], False)
        ranges.tighten_all(network.pre_activations, "adaptive")
        for point in points(rng, x, eps, 2):
            for k, exact in enumerate(exact_values(network, point)):
                low, high = ranges.low[k][0].tolist(), ranges.high[k][0].tolist()
                assert all(Fraction(a) <= v <= Fraction(b) for a, v, b in zip(low, exact, high, strict=True)), k


# affine nodes ---------------------------------------------------------------------------------------------------------


def test_affine_nodes_have_one_matrix() -> None:
    rng = np.random.default_rng(2)
    network = image(rng)
    for k in (1, 3, 4, 6):
        own = network.nodes[k]
        width = sum(network.nodes[p].size for p in own.parents)
        a = matrix(own, width)
        assert np.array_equal(own.adjoint(np.eye(own.size), width), a)
        assert np.array_equal(matrix(own.magnitude, width), np.abs(a))
        terms = np.count_nonzero(a, axis=1).max(), np.count_nonzero(a, axis=0).max()
        assert terms[0] <= own.terms[0] and terms[1] <= own.terms[1]
        assert own.bias.shape == own.bias_size.shape == (own.size,)


def test_convolutions_are_those_of_torch() -> None:
    rng = np.random.default_rng(3)
    network, x = image(rng), rng.normal(size=(3, 80))
    (weight, bias), (top, bottom, left, right) = (
        (torch.tensor(network.nodes[1].arrays[k]) for k in ("weight", "bias")),
        CONV["padding"],
    )
    given = torch.nn.functional.pad(torch.tensor(x).view(3, 4, 5, 4), (left, right, top, bottom))
    wanted = (
        torch.nn.functional.conv2d(given, weight, bias, stride=(2, 1), dilation=(1, 2), groups=2).flatten(1).numpy()
    )
    assert np.allclose(network.nodes[1].forward(x) + network.nodes[1].bias, wanted, rtol=1e-13, atol=1e-13)


def test_a_copy_is_exact_in_float32_and_nothing_else() -> None:
    arrays = {
        "row": np.array([0, 1, 2, 2, 3]),
        "column": np.array([1, 0, 0, 1, 1]),
        "value": np.array([1.0, -1, 1, 1, 0.5]),
    }
    assert node("sparse", (0,), 5, arrays).copies.tolist() == [True, True, False, False, False]
    assert not node("sparse", (0,), 5, arrays, ulps=1).copies.any()
    assert not node("sparse", (0,), 5, {**arrays, "bias": np.ones(5)}).copies.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "relu"}, "unknown kind"),
        ({"size": 7}, "fit"),
        ({"parents": (3,)}, "come before"),
        ({"options": {"repeat": 2}}, "fit"),
        ({"options": {"slope": 2.0}}, "options"),
        ({"arrays": {}}, "arrays"),
        ({"arrays": {"weight": np.full((2, 3), np.nan)}}, "finite"),
        ({"arrays": {"weight": np.ones((2, 3), np.float32)}}, "float64"),
        ({"arrays": {"weight": np.ones((2, 4))}}, "fit"),
        ({"parents": (0, 0)}, "fit"),
        ({"kind": "input"}, "node 0"),
        ({"arrays": {"weight": np.ones((2, 3)), "bias_size": np.ones(2)}}, "arrays"),
    ],
)
def test_malformed_nodes_are_refused(change: dict[str, Any], message: str) -> None:
    good = node("matrix", (0,), 2, {"weight": np.ones((2, 3))})
    CanonicalNetwork((node("input", (), 3), good))
    with pytest.raises(ValueError, match=message):
        CanonicalNetwork((node("input", (), 3), dataclasses.replace(good, **change)))


def test_digests_name_the_function() -> None:
    rng = np.random.default_rng(4)
    network = image(rng)
    assert len({network.digest, dense(rng, [3, 2], "abs", {}).digest, image(rng).digest}) == 3
    changed = []
    for k, own in enumerate(network.nodes):
        for name, a in own.arrays.items():
            other = a.copy()
            other.flat[-1] += 1 if name == "bias" else 0
            other.flat[-1] = np.nextafter(other.flat[-1], 9) if name in ("weight", "value") else other.flat[-1]
            if not np.array_equal(other, a):
                arrays = {**own.arrays, name: other}
                nodes = (*network.nodes[:k], dataclasses.replace(own, arrays=arrays), *network.nodes[k + 1 :])
                changed.append(CanonicalNetwork(nodes).digest)
    assert len({*changed, network.digest}) == len(changed) + 1 >= 8
    zeros = [
        CanonicalNetwork((node("input", (), 1), node("matrix", (0,), 1, {"weight": np.array([[z]])})))
        for z in (0.0, -0.0)
    ]
    assert zeros[0].digest == zeros[1].digest


# smooth activations ---------------------------------------------------------------------------------------------------

numbers = st.one_of(
    st.floats(-40, 40), st.floats(-1e-3, 1e-3), st.floats(-2000, 2000), st.sampled_from([0.0, -0.0, 1e300, -1e300])
)


@settings(max_examples=150, deadline=None)
@given(x=numbers)
def test_smooth_values_are_within_their_proven_error(x: float) -> None:
    for kind, function in (("sigmoid", rounding.sigmoid), ("tanh", rounding.tanh)):
        exact = exact_activation(node(kind, (0,), 1), Fraction(max(min(x, 1e4), -1e4)))
        assert abs(Fraction(float(function(np.array([x]))[0])) - exact) <= Fraction(rounding.SMOOTH)
    with localcontext() as context:
        context.prec, context.Emin = 60, -(10**9)
        exact_decay = Fraction((-abs(Decimal(max(min(x, 1e4), -1e4)))).exp())
    assert abs(Fraction(float(rounding.decay(np.array([x]))[0])) - exact_decay) <= exact_decay / 2**46 + Fraction(
        1, 2**1060
    )


@settings(max_examples=200, deadline=None)
@given(a=numbers, b=numbers, s=st.floats(-1, 1), kind=st.sampled_from(["sigmoid", "tanh"]), t=st.floats(0, 1))
def test_intercepts_of_smooth_activations_hold(a: float, b: float, s: float, kind: str, t: float) -> None:
    own = node(kind, (0,), 1)
    (low, high), s = sorted(max(min(z, 1e4), -1e4) for z in (a, b)), s / 4 if kind == "sigmoid" else s
    least, most = (float(v[0]) for v in lines.intercepts(own, np.array([low]), np.array([high]), np.array([s])))
    room = (
        Fraction(rounding.SMOOTH)
        + (high - low) * Fraction(rounding.SMOOTH_SLOPE)
        + Fraction(1e-14) * (1 + Fraction(max(abs(low), abs(high))))
    )
    inner = [
        Fraction(low) + Fraction(t) * (Fraction(high) - Fraction(low)),
        Fraction(0),
        *(Fraction(z) for z in (-2.5, -1, 0.5, 3)),
    ]
    values = [
        exact_activation(own, z) - Fraction(s) * z for z in (Fraction(low), Fraction(high), *inner) if low <= z <= high
    ]
    assert Fraction(least) - room <= min(values)
    assert Fraction(most) + room >= max(values)
    z = np.linspace(low, high, 2001)  # nor do they lie far from the values
    act = (1 / (1 + np.exp(-z.clip(-700, 700))) if kind == "sigmoid" else np.tanh(z)) - s * z
    assert least >= act.min() - 1e-12 * (1 + abs(low) + abs(high)) - 0.3 * ((high - low) / 2000) ** 2
    assert most <= act.max() + 1e-12 * (1 + abs(low) + abs(high)) + 0.3 * ((high - low) / 2000) ** 2


@settings(max_examples=200, deadline=None)
@given(
    a=st.floats(-3, 3), b=st.floats(-3, 3), which=st.sampled_from(KINDS), rule=st.sampled_from(["fixed", "adaptive"])
)
def test_lines_of_rules_lie_on_their_sides_and_near(
    a: float, b: float, which: tuple[str, dict[str, float]], rule: str
) -> None:
    own, (low, high) = node(which[0], (0,), 1, **which[1]), (min(a, b), max(a, b))
    ends = np.array([[low]]), np.array([[high]])
    below, b_low, above, b_high = (v.item() for v in lines.through(own, *ends, *lines.slopes(own, *ends, rule)))
    z = np.append(np.linspace(low, high, 201), np.clip([-0.3, 0.0, 0.8], low, high))  # the kinks as well
    act = lines.value(own, z)
    assert (below * z + b_low <= act + 1e-12).all() and (above * z + b_high >= act - 1e-12).all()
    assert (act - below * z - b_low).min() < 1e-2 and (above * z + b_high - act).min() < 1e-2
    assert (above * z + b_high - below * z - b_low).max() <= 2 * lines.steepest(own) * (high - low) + 1e-12


# rounding -------------------------------------------------------------------------------------------------------------


def hidden_sum(big: float) -> CanonicalNetwork:
    """Outputs 0 and the last of 7 inputs, which large numbers that cancel hide in float64."""
    weight = np.zeros((5, 7))
    weight[:4, :6] = np.floor(np.random.default_rng(9).uniform(-big, big, (4, 6)))
    weight[4] = -weight.sum(0)
    weight[0, 6] = 1.0
    return CanonicalNetwork(
        (
            node("input", (), 7),
            node("matrix", (0,), 5, {"weight": weight}),
            node("leaky", (1,), 5, slope=1.0),
            node("matrix", (2,), 2, {"weight": np.array([[0.0] * 5, [1.0] * 5])}),
        )
    )


@pytest.mark.parametrize("big", [1e8, 1e12, 1e15])
def test_cancellation_that_float64_gets_wrong_is_not_claimed(big: float) -> None:
    rng, network = np.random.default_rng(5), hidden_sum(big)
    wrong = 0
    for _ in range(60):
        x = np.append(rng.uniform(0, 1, 6), big * 10.0 ** rng.uniform(-18, -15.5))
        exact = margins(network, [Fraction(v) for v in x.tolist()])[0]
        y = x
        for own in network.nodes[1:]:
            y = y if own.kind == "leaky" else own.forward(y[None])[0]
        wrong += bool(y[0] - y[1] > 0 > exact)
        for rule in ("fixed", "interval"):
            found = checked(network, x, 0.0, proofs=[{"rule": rule, "rows": "rows"}])
            assert Fraction(float(found.lower[0])) <= exact
            assert not found.valid or exact > 0
    assert wrong > 0  # float64 does get some of them wrong


def test_float32_semantics_covers_float32_evaluations_in_any_order() -> None:
    rng = np.random.default_rng(6)
    for kind, options in KINDS:
        network, x = dense(rng, [30, 20, 20, 2], kind, options, scale=4.0), rng.normal(size=30).astype(np.float32)
        single = [{k: a.astype(np.float32) for k, a in n.arrays.items()} for n in network.nodes]
        exact = [
            dataclasses.replace(n, arrays={k: a.astype(np.float64) for k, a in s.items()})
            for n, s in zip(network.nodes, single, strict=True)
        ]
        network = CanonicalNetwork(tuple(exact))
        found = checked(
            network, x.astype(np.float64), 0.0, semantics="float32", proofs=[{"rule": "interval", "rows": "rows"}]
        )
        least = np.inf
        for _ in range(20):
            y = x
            for n, arrays in zip(network.nodes[1:], single[1:], strict=True):
                if n.kind in ACTIVATIONS:
                    y = np.asarray(lines.value(n, y.astype(np.float64)), np.float32)
                else:
                    order = rng.permutation(len(y))
                    terms = (arrays["weight"] * y)[:, order]
                    y = arrays["bias"] + (
                        np.cumsum(terms, axis=1, dtype=np.float32)[:, -1] if rng.random() < 0.5 else terms.sum(1)
                    )
            least = min(least, float(y[0]) - float(y[1]))
        assert found.lower[0] <= least <= found.lower[0] + 0.05


def test_values_beyond_float32_prove_nothing_in_float32() -> None:
    network = CanonicalNetwork(
        (
            node("input", (), 1),
            node("matrix", (0,), 2, {"weight": np.array([[1e30], [0.0]])}),
            node("matrix", (1,), 2, {"weight": np.array([[1e10, 0.0], [0.0, 1.0]])}),
        )
    )
    assert checked(network, np.ones(1), 0.1).valid
    assert not checked(network, np.ones(1), 0.1, semantics="float32").valid
    zero = CanonicalNetwork(
        (*network.nodes, node("matrix", (2,), 2, {"weight": np.zeros((2, 2)), "bias": np.array([1.0, 0.0])}))
    )
    assert checked(zero, np.ones(1), 0.1).valid
    assert not checked(zero, np.ones(1), 0.1, semantics="float32").valid  # infinity times zero is no number


def test_overflow_and_underflow_prove_nothing_that_is_not_so() -> None:
    huge = CanonicalNetwork((node("input", (), 1), node("matrix", (0,), 2, {"weight": np.array([[1e308], [-1e308]])})))
    assert not checked(huge, np.array([10.0]), 0.0).valid
    small = CanonicalNetwork(
        (
            node("input", (), 1),
            node("matrix", (0,), 1, {"weight": np.array([[1e-200]])}),
            node("matrix", (1,), 2, {"weight": np.array([[1e-200], [0.0]])}),
        )
    )
    assert not checked(small, np.array([-1.0]), 0.0).valid


# slopes of a certificate's own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_any_slopes_are_sound(kind: str, options: dict[str, float]) -> None:
    rng = np.random.default_rng(7)
    network, x, eps = dense(rng, [3, 6, 5, 3], kind, options), rng.normal(size=3), 0.4
    exact = [min(m) for m in zip(*(margins(network, p) for p in points(rng, x, eps, 8)), strict=True)]
    for draw in (
        lambda *s: rng.integers(0, 256, s).astype(np.uint8),
        lambda *s: rng.normal(size=s).astype(np.float16),
        lambda *s: rng.normal(size=s) * 1e30,
        lambda *s: rng.uniform(0, 1, s).astype(np.float32),
    ):
        arrays = {
            "n2": np.arange(6),
            "n4": np.array([1, 3], np.int32),
            "s2": draw(2, 6),
            "s4": draw(2, 2),
            "u4": draw(2, 2),
            "neurons": np.array([0, 1, 4, 4]),
            "sides": np.array([0, 1, 0, 1], np.uint8),
            "step": draw(4, 6),
        }
        slopes = {"2": {"neurons": "n2", "slopes": "s2"}, "4": {"neurons": "n4", "slopes": "s4", "upper": "u4"}}
        step = {"node": 3, "neurons": "neurons", "sides": "sides", "slopes": {"2": {"neurons": "n2", "slopes": "step"}}}
        found = checked(network, x, eps, arrays, bounds=[step], proofs=[{"slopes": slopes, "rows": "rows"}])
        assert found.reason == "" or "not proved" in found.reason
        assert all(Fraction(b) <= m for b, m in zip(found.lower.tolist(), exact, strict=True))


def test_slopes_of_ones_own_are_those_of_the_rule_where_they_say_so() -> None:
    rng = np.random.default_rng(8)
    network, x = dense(rng, [4, 8, 8, 3], "leaky", {"slope": 0.0}), rng.normal(size=4)
    by_rule = checked(network, x, 0.1)
    ranges = NodeRanges(network, (x - 0.1)[None], (x + 0.1)[None], False)
    ranges.tighten_all(network.pre_activations, "adaptive")
    arrays: Arrays = {f"n{k}": np.arange(8) for k in (2, 4)}
    for k in (2, 4):
        chosen = np.where(ranges.high[k - 1] > -ranges.low[k - 1], 255, 0).astype(np.uint8)
        arrays[f"s{k}"] = np.repeat(chosen, 2, 0)
    slopes = {str(k): {"neurons": f"n{k}", "slopes": f"s{k}"} for k in (2, 4)}
    again = checked(network, x, 0.1, arrays, proofs=[{"slopes": slopes, "rows": "rows"}])
    assert np.allclose(again.lower, by_rule.lower, rtol=0, atol=1e-12)


# cases of neurons -----------------------------------------------------------------------------------------------------


def split_case() -> tuple[CanonicalNetwork, Document]:
    """relu(x) - x / 2 + 0.1 on [-1, 1]: 0.1 at least, which takes a split and multipliers to see."""
    network = CanonicalNetwork(
        (
            node("input", (), 1),
            node("matrix", (0,), 2, {"weight": np.array([[1.0], [1.0]])}),
            node("leaky", (1,), 2, slope=0.0),
            node(
                "sparse",
                (2, 0),
                2,
                {
                    "row": np.array([0, 0]),
                    "column": np.array([0, 2]),
                    "value": np.array([1.0, -0.5]),
                    "bias": np.array([0.1, 0]),
                },
            ),
        )
    )
    arrays = {
        "free": np.array([0]),
        "roots": np.array([[0, 0]]),
        "neuron": np.array([0, -1, -1]),
        "at": np.zeros(3),
        "below": np.array([1, -1, -1]),
        "above": np.array([2, -1, -1]),
        "proof": np.array([-1, 1, 0]),
        "slope": np.zeros((2, 1), np.uint8),
        "weight": np.ones((2, 1), np.float32),
        "first": np.array([0, 1, 2]),
        "split": np.zeros(2, np.int64),
        "gamma": np.array([-0.5, 0.5], np.float32),
    }
    cases = {name: name for name in arrays if name != "free"} | {"neurons": {"2": "free"}}
    return network, document(network, np.zeros(1), 1.0, arrays, proofs=[{"cases": cases}])


def test_a_tree_of_neurons_proves_what_its_leaves_prove() -> None:
    network, good = split_case()
    assert 0.1 - 1e-12 < check(network, good).clauses[0] <= 0.1
    for change, expected in (
        ({"gamma": np.zeros(2)}, -0.4),
        ({"gamma": np.array([0.5, -0.5])}, -1.4),
        ({"at": np.full(3, -0.5)}, -1.15),
    ):
        found = check(network, Document(good.head, {**good.arrays, **change}))
        assert abs(found.clauses[0] - expected) < 1e-9, change
    scaled = check(network, Document(good.head, {**good.arrays, "weight": np.full((2, 1), 7.0)}))
    assert abs(scaled.clauses[0] - 0.1) < 1e-9  # weights are shares


WRONG_TREES: list[tuple[str, Any]] = [
    ("proof", np.array([-1, 1, -1])),
    ("proof", np.array([-1, 1, 2])),
    ("below", np.array([2, -1, -1])),
    ("below", np.array([0, -1, -1])),
    ("above", np.array([3, -1, -1])),
    ("above", np.array([-1, -1, -1])),
    ("neuron", np.array([1, -1, -1])),
    ("neuron", np.array([-2, -1, -1])),
    ("at", np.array([np.nan, 0, 0])),
    ("at", np.zeros(2)),
    ("weight", np.array([[1.0], [-1.0]])),
    ("weight", np.array([[1.0], [0.0]])),
    ("weight", np.array([[1.0], [np.nan]])),
    ("weight", np.ones((1, 1))),
    ("weight", np.ones((2, 0))),
    ("gamma", np.array([np.nan, 0.5])),
    ("gamma", np.array([-0.5])),
    ("split", np.array([0, 1])),
    ("first", np.array([0, 2, 1])),
    ("first", np.array([1, 1, 2])),
    ("slope", np.full((2, 1), np.nan)),
    ("slope", np.zeros((2, 2), np.uint8)),
    ("roots", np.array([[0, 1]])),
    ("roots", np.array([[1, 0]])),
    ("roots", np.array([[0, 0], [0, 0]])),
    ("free", np.array([2])),
    ("neuron", np.array([0, 0, -1])),
    ("roots", np.zeros((0, 2), np.int64)),
    ("free", np.array([-1])),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TREES)
def test_wrong_trees_of_neurons_are_invalid(name: str, value: np.ndarray) -> None:
    network, good = split_case()
    found = check(network, Document(good.head, {**good.arrays, name: value}))
    assert not found.valid and found.reason


def random_tree(rng: np.random.Generator, depth: int, free: int, width: int, clauses: int) -> Arrays:
    """A full tree for every clause, of random splits and variables."""
    neuron, at, below, above, proof, roots = [], [], [], [], [], []

    def grow(left: int) -> int:
        own = len(neuron)
        for column, value in ((neuron, -1), (at, 0.0), (below, -1), (above, -1), (proof, -1)):
            column.append(value)
        if left == 0:
            proof[own] = sum(p >= 0 for p in proof)
        else:
            neuron[own], at[own] = int(rng.integers(free)), float(rng.choice([0.0, rng.normal()]))
            below[own], above[own] = grow(left - 1), grow(left - 1)
        return own

    roots = [[c, grow(depth)] for c in range(clauses)]
    leaves = clauses * 2**depth
    numbers = {
        k: np.array(v)
        for k, v in (
            ("neuron", neuron),
            ("at", at),
            ("below", below),
            ("above", above),
            ("proof", proof),
            ("roots", roots),
        )
    }
    return {
        **numbers,
        "slope": rng.integers(0, 256, (leaves, free)).astype(np.uint8),
        "weight": rng.random((leaves, width)).astype(np.float32),
        "first": np.arange(leaves + 1) * 2,
        "split": rng.integers(0, free, 2 * leaves),
        "gamma": rng.normal(size=2 * leaves),
    }


@pytest.mark.parametrize(("kind", "options"), [KINDS[0], KINDS[2], KINDS[5], KINDS[6], KINDS[8]])
def test_random_trees_of_neurons_are_sound(kind: str, options: dict[str, float]) -> None:
    rng = np.random.default_rng(10)
    network, x, eps = dense(rng, [3, 5, 4, 3], kind, options), rng.normal(size=3), 0.5
    spec = {"kind": "rows", "rows": "spec", "offset": "offset", "clause": "clause"}
    arrays: Arrays = {"spec": rng.normal(size=(3, 3)), "offset": rng.normal(size=3), "clause": np.array([0, 1, 0])}
    arrays |= {"f2": np.arange(5), "f4": np.array([0, 2, 3]), **random_tree(rng, 4, 8, 2, 2)}
    cases = {name: name for name in random_tree(rng, 0, 8, 2, 2)} | {"neurons": {"2": "f2", "4": "f4"}}
    balls: list[dict[str, Any]] = [
        {},
        {"set": {"kind": "l2", "eps": 3**0.5 * eps * 1.01, "x": "x"}},
    ]  # around the points
    bounds = [checked(network, x, eps, arrays, specification=spec, proofs=[{"cases": cases}], **b) for b in balls]
    assert all(b.reason.endswith(")") and np.isfinite(b.clauses).all() for b in bounds)
    rows, offset = arrays["spec"].tolist(), arrays["offset"].tolist()
    for point in points(rng, x, eps, 12):
        y = exact_values(network, point)[-1]
        values = [
            sum((Fraction(a) * v for a, v in zip(r, y, strict=True)), Fraction(o))
            for r, o in zip(rows, offset, strict=True)
        ]
        for found in bounds:
            assert Fraction(found.clauses[0]) <= max(values[0], values[2]) and Fraction(found.clauses[1]) <= values[1]


def test_neurons_are_bounded_by_cases() -> None:
    network, good = split_case()
    arrays = {**good.arrays, "neurons": np.array([0]), "sides": np.array([0])}
    step = {"node": 1, "neurons": "neurons", "sides": "sides", "cases": good.head["parts"][0]["proofs"][0]["cases"]}
    found = check(network, document(network, np.zeros(1), 1.0, arrays, bounds=[step]))
    assert not found.valid and "malformed" not in found.reason


# boxes ----------------------------------------------------------------------------------------------------------------


def boxes_case() -> tuple[CanonicalNetwork, Document]:
    """The same function by boxes: halves at 0, the upper one by the lines of the whole, and again at 1/4."""
    network, _ = split_case()
    arrays = {
        "side": np.array([0, -1, 0, -1, -1], np.int16),
        "at": np.array([0, 0, 0.25, 0, 0]),
        "below": np.array([1, -1, 3, -1, -1]),
        "above": np.array([2, -1, 4, -1, -1]),
        "fresh": np.array([1, 1, 1, 0, 1], bool),
        "node": np.array([1, 3, 4], np.int32),
        "clause": np.zeros(3, np.int32),
        "weights": np.ones((3, 1), np.float32),
        "own": np.array([-1, -1, 0]),
        "free": np.array([0]),
        "codes": np.zeros((1, 1), np.uint8),
    }
    boxes = {name: name for name in arrays if name not in ("free", "codes")} | {
        "slopes": {"2": {"neurons": "free", "slopes": "codes"}}
    }
    return network, document(network, np.zeros(1), 1.0, arrays, proofs=[{"boxes": boxes}])


def test_a_tree_of_boxes_proves_what_its_boxes_prove() -> None:
    network, good = boxes_case()
    assert 0.1 - 1e-12 < check(network, good).clauses[0] <= 0.1
    one = {
        "node": np.array([0], np.int32),
        "clause": np.zeros(1, np.int32),
        "weights": np.ones((1, 1)),
        "own": np.array([0]),
    }
    assert abs(check(network, Document(good.head, {**good.arrays, **one})).clauses[0] + 0.4) < 1e-9
    both = {
        "node": np.zeros(2, np.int32),
        "clause": np.zeros(2, np.int32),
        "weights": np.ones((2, 1)),
        "own": np.array([0, 1]),
    }
    both["codes"] = np.array([[0.0], [0.5]])
    assert abs(check(network, Document(good.head, {**good.arrays, **both})).clauses[0] - 0.1) < 1e-9
    outside = {"at": np.array([2.0, 0, 3, 0, 0])}  # the upper halves are empty: they count as their edges
    assert check(network, Document(good.head, {**good.arrays, **outside})).clauses[0] <= 0.1


WRONG_BOXES: list[tuple[str, Any]] = [
    ("side", np.array([1, -1, 0, -1, -1])),
    ("side", np.array([-1, -1, -1, -1, -1])),
    ("at", np.array([np.inf, 0, 0.25, 0, 0])),
    ("below", np.array([0, -1, 3, -1, -1])),
    ("below", np.array([2, -1, 3, -1, -1])),
    ("below", np.array([5, -1, 3, -1, -1])),
    ("above", np.array([2, -1, 3, -1, -1])),
    ("above", np.array([2, -1, 1, -1, -1])),
    ("node", np.array([1, 3, 5])),
    ("node", np.array([1, 3, -1])),
    ("node", np.array([1, 3, 3])),
    ("clause", np.array([0, 0, 1])),
    ("weights", -np.ones((3, 1))),
    ("weights", np.zeros((3, 1))),
    ("weights", np.ones((2, 1))),
    ("own", np.array([-1, -1, 1])),
    ("fresh", np.ones(4, bool)),
    ("codes", np.full((1, 1), np.nan)),
    ("free", np.array([2])),
    ("own", np.array([-1, -1])),
]


@pytest.mark.parametrize(("name", "value"), WRONG_BOXES)
def test_wrong_trees_of_boxes_are_invalid(name: str, value: np.ndarray) -> None:
    network, good = boxes_case()
    found = check(network, Document(good.head, {**good.arrays, name: value}))
    assert not found.valid and found.reason


def test_boxes_are_for_boxes() -> None:
    network, good = boxes_case()
    ball = document(
        network,
        np.zeros(1),
        1.0,
        good.arrays,
        set={"kind": "l2", "eps": 1.0, "x": "x"},
        proofs=good.head["parts"][0]["proofs"],
    )
    assert "boxes" in check(network, ball).reason


@pytest.mark.parametrize(("kind", "options"), [KINDS[0], KINDS[5], KINDS[8]])
def test_random_trees_of_boxes_are_sound(kind: str, options: dict[str, float]) -> None:
    rng = np.random.default_rng(11)
    network, x, eps = dense(rng, [2, 5, 4, 3], kind, options), rng.normal(size=2), 0.5
    tree = random_tree(rng, 5, 2, 1, 1)
    leaves, total = np.flatnonzero(tree["neuron"] == -1), len(tree["neuron"])
    leaf = np.tile(leaves, 2)
    arrays = {
        "side": tree["neuron"],
        "at": x[tree["neuron"]] + rng.uniform(-0.6, 0.6, total),
        "below": tree["below"],
        "above": tree["above"],
        "fresh": rng.random(total) < 0.6,
        "node": leaf,
        "clause": np.repeat([0, 1], len(leaves)),
        "weights": np.ones((len(leaf), 1)),
        "own": np.where(rng.random(len(leaf)) < 0.5, -1, 0),
        "free": np.arange(5),
        "codes": rng.random((1, 5)),
    }
    boxes = {name: name for name in arrays if name not in ("free", "codes")} | {
        "slopes": {"2": {"neurons": "free", "slopes": "codes"}}
    }
    found = checked(network, x, eps, arrays, bounds=[], proofs=[{"boxes": boxes}])
    assert np.isfinite(found.clauses).all(), found.reason
    exact = [min(m) for m in zip(*(margins(network, p) for p in points(rng, x, eps, 40)), strict=True)]
    assert all(Fraction(b) <= m for b, m in zip(found.clauses.tolist(), exact, strict=True))
    if kind != "tanh":  # and cases help
        assert (found.clauses > checked(network, x, eps).lower).any()


# documents that are not what they should be ---------------------------------------------------------------------------


def plain() -> tuple[CanonicalNetwork, Document]:
    network = dense(np.random.default_rng(12), [3, 6, 3], "leaky", {"slope": 0.0})
    network = CanonicalNetwork(
        (
            *network.nodes,
            node(
                "sparse",
                (3,),
                3,
                {"row": np.arange(3), "column": np.arange(3), "value": np.ones(3), "bias": np.array([50.0, 0, 0])},
            ),
        )
    )
    arrays = {
        "n": np.arange(6),
        "s": np.full((2, 6), 0.5),
        "step": np.full((2, 6), 0.5),
        "k": np.array([0, 1]),
        "sides": np.array([0, 1]),
    }
    proofs = [{"slopes": {"2": {"neurons": "n", "slopes": "s"}}, "rows": "rows"}]
    step = {"node": 1, "neurons": "k", "sides": "sides", "slopes": {}}
    return network, document(network, np.ones(3), 0.1, arrays, bounds=[step], proofs=proofs)


def claimed(head: dict[str, Any], arrays: Arrays) -> Document:
    return Document({**head, "claim": claim_digest(head, arrays)}, arrays)


def test_documents_with_numbers_that_are_none_or_shapes_that_do_not_fit_are_invalid() -> None:
    network, good = plain()
    assert check(network, good).valid
    for name in ("s", "x"):
        for value in (np.nan, np.inf, -np.inf):
            other = good.arrays[name].copy()
            other.flat[0] = value
            assert not check(network, claimed(good.head, {**good.arrays, name: other})).valid, (name, value)
    for name in good.arrays:
        for change in (lambda a: a[:-1], lambda a: a[None], lambda a: a.astype(str), lambda a: a[:0]):
            if name != "step" and not (name == "x" and change(np.ones(3)).size == 3):  # sets take any shape
                found = check(network, claimed_or_not(good, name, change))
                assert not found.valid and found.reason, name
        missing = {k: a for k, a in good.arrays.items() if k != name}
        assert name == "step" or not check(network, Document(good.head, missing)).valid


def claimed_or_not(good: Document, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Document:
    arrays = {**good.arrays, name: change(good.arrays[name])}
    try:
        return claimed(good.head, arrays)
    except (ValueError, KeyError):  # an array of a type that has no digest
        return Document(good.head, arrays)


def test_heads_that_say_something_else_are_invalid() -> None:
    network, good = plain()
    changes: list[dict[str, Any]] = [
        {"version": 2},
        {"version": "1"},
        {"network": "0" * 64},
        {"semantics": "double"},
        {"semantics": "float32", "claim": good.head["claim"]},
        {"parts": []},
        {"parts": None},
        {"parts": [{}]},
        {"specification": {"kind": "robustness", "label": 3, "classes": 3}},
        {"specification": {"kind": "robustness", "label": 1.0, "classes": 3}},
        {"specification": {"kind": "robustness", "label": -1, "classes": 3}},
        {"specification": {"kind": "robustness", "label": 0, "classes": 2}},
        {"specification": {"kind": "all"}},
        {"specification": None},
        {"specification": {"kind": "robustness", "label": 1, "classes": 3}},
    ]
    for change in changes:
        head = {**good.head, **change}
        with contextlib.suppress(ValueError):
            head = {**head, "claim": change.get("claim") or claim_digest(head, good.arrays)}
        assert not check(network, Document(head, good.arrays)).valid, change
    assert not check(network, Document({}, {})).valid
    assert not check(network, Document([], {})).valid  # type: ignore[arg-type]
    for eps, valid in ((0.1, True), (0.2, False)):  # a claim that was changed, though it still holds
        part = {**good.head["parts"][0], "set": {"kind": "linf", "eps": eps, "x": "x"}}
        assert check(network, Document({**good.head, "parts": [part]}, good.arrays)).valid is valid


def test_malformed_steps_and_proofs_are_invalid() -> None:
    network, good = plain()
    part = good.head["parts"][0]
    bounds: list[Any] = [
        {"rule": "best", "nodes": "all"},
        {"rule": "adaptive", "nodes": [2]},
        {"rule": "adaptive", "nodes": [7]},
        {"rule": "adaptive"},
        {"node": 2, "neurons": "k", "sides": "sides", "slopes": {}},
        {"node": 1, "neurons": "s", "sides": "sides", "slopes": {}},
        {"node": 1, "neurons": "k", "sides": "rows2", "slopes": {}},
        {"node": 1, "neurons": "k", "sides": "sides"},
        3,
        None,
        {"node": 1, "neurons": "k", "sides": "sides", "slopes": {"1": {"neurons": "n", "slopes": "step"}}},
        {"node": 1, "neurons": "k", "sides": "sides", "slopes": {"two": {"neurons": "n", "slopes": "step"}}},
        {"node": 1, "neurons": "k", "sides": "sides", "slopes": {"-2": {"neurons": "n", "slopes": "step"}}},
    ]
    for step in bounds:
        found = check(
            network,
            Document({**good.head, "parts": [{**part, "bounds": [step]}]}, {**good.arrays, "rows2": np.array([0, 2])}),
        )
        assert not found.valid and "malformed" in found.reason, step
    proofs: list[Any] = [
        {"rows": "rows"},
        {"rule": "best", "rows": "rows"},
        {"rule": "fixed", "rows": "s"},
        {"rule": "fixed", "rows": "many"},
        {},
        1,
    ]
    for proof in proofs:
        found = check(
            network,
            Document({**good.head, "parts": [{**part, "proofs": [proof]}]}, {**good.arrays, "many": np.array([0, 2])}),
        )
        assert not found.valid and "malformed" in found.reason, proof
    assert (
        "not proved" in check(network, Document({**good.head, "parts": [{**part, "proofs": []}]}, good.arrays)).reason
    )


def test_a_clause_is_proved_above_zero_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network, good = plain()
    for bounds, valid in (([5e-324], True), ([0.0], False), ([-0.0], False), ([np.nan], False), ([1.0, -1e-9], False)):
        monkeypatch.setattr(check_module, "_checked", lambda *_, b=bounds: (np.array(b), np.array(b), []))
        found = check(network, good)
        assert found.valid == valid == (found.reason == "") and 0 <= found.seconds < 60
    for count in (1, 3, 4, 9):
        monkeypatch.setattr(check_module, "_checked", lambda *_, n=count: (np.zeros(n), np.zeros(n), []))
        reason = check(network, good).reason
        assert reason.count("lower bound") == min(count, 3) and reason.endswith("...") == (count > 3)
    for error in (TimeoutError("so"), ValueError("so"), KeyError("so")):
        monkeypatch.setattr(check_module, "_checked", mock.Mock(side_effect=error))
        found = check(network, good)
        assert not found.valid and "so" in found.reason and 0 <= found.seconds < 60


def test_a_union_needs_every_part() -> None:
    network, good = plain()
    part = good.head["parts"][0]
    far = {**part, "set": {"kind": "linf", "eps": 100.0, "x": "x"}}
    for parts, valid in (([part, part], True), ([part, far], False), ([far, part], False)):
        found = check(network, claimed({**good.head, "parts": parts}, good.arrays))
        assert (found.valid, found.parts) == (valid, 2)


# files ----------------------------------------------------------------------------------------------------------------


def test_documents_survive_their_file(tmp_path: Path) -> None:
    network, good = plain()
    (tmp_path / "a.cert").write_bytes(good.packed())
    again = Document.read(tmp_path / "a.cert")
    assert again.head == good.head and again.arrays.keys() == good.arrays.keys()
    assert all(np.array_equal(a, again.arrays[k]) and a.dtype == again.arrays[k].dtype for k, a in good.arrays.items())
    assert check(network, again).valid
    (tmp_path / "b.cert").write_bytes(again.packed())
    assert (tmp_path / "a.cert").read_bytes() == (tmp_path / "b.cert").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.cert", "b.cert"]


def test_claims_do_not_depend_on_names_of_arrays() -> None:
    _, good = plain()
    renamed = {**good.head, "parts": [{**good.head["parts"][0], "set": {"kind": "linf", "eps": 0.1, "x": "other"}}]}
    arrays = {**good.arrays, "other": good.arrays["x"]}
    assert claim_digest(renamed, arrays) == claim_digest(good.head, good.arrays)
    assert claim_digest(renamed, {**arrays, "other": arrays["x"] + 1}) != claim_digest(good.head, good.arrays)


def test_networks_survive_their_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(13)
    for network in (image(rng), dense(rng, [3, 2], "tanh", {})):
        (tmp_path / "n").write_bytes(packed_network(network))
        assert read_network(tmp_path / "n").digest == network.digest
    single = node("matrix", (0,), 64, {"weight": rng.normal(size=(64, 64)).astype(np.float32).astype(np.float64)})
    size = (tmp_path / "n").write_bytes(packed_network(CanonicalNetwork((node("input", (), 64), single))))
    assert size < 64 * 64 * 5
    content = gzip.decompress((tmp_path / "n").read_bytes())
    (tmp_path / "n").write_bytes(gzip.compress(content[:-1] + bytes([content[-1] ^ 1])))
    with pytest.raises(ValueError, match="another network"):
        read_network(tmp_path / "n")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    _, good = plain()
    path = tmp_path / "a.cert"
    path.write_bytes(good.packed())
    packed = path.read_bytes()
    content = gzip.decompress(packed)
    length = int.from_bytes(content[:8], "little")

    def header(text: bytes) -> bytes:
        return gzip.compress(len(text).to_bytes(8, "little") + text + content[8 + length :])

    text = content[8 : 8 + length]
    wrong = [
        b"",
        b"no gzip",
        packed[:-9],
        packed[: len(packed) // 2],
        gzip.compress(b""),
        gzip.compress(b"\xff" * 8),
        gzip.compress(content[:40]),
        gzip.compress(content[:-1]),
        gzip.compress(content + b"1"),
        header(b"[" * 10000),
        header(b'{"a":' * 10000),
        header(b"\xff\xfe"),
        header(b"{}"),
        header(text.replace(b"[0,", b"[1,", 1)),
        header(text.replace(b'"F64"', b'"F63"', 1)),
        header(text.replace(b'"shape":[2,6]', b'"shape":[6]')),
        header(text.replace(b"certificate", b"certificatx", 1)),
        header(text.replace(b"0.1", b"NaN", 1)),
        header(text.replace(b'"shape":[2,6]', b'"shape":[-2,-6]')),
    ]
    for content_ in wrong:
        path.write_bytes(content_)
        with pytest.raises(ValueError, match=r"a\.cert"):
            Document.read(path)
    with pytest.raises(ValueError, match=r"missing\.cert"):
        Document.read(tmp_path / "missing.cert")
    path.write_bytes(good.packed())
    with pytest.raises(ValueError, match="larger"):
        Document.read(path, limit=100)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_never_makes_another_claim_valid(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    network, good = plain()
    path = tmp_path_factory.mktemp("bits") / "a.cert"
    path.write_bytes(good.packed())
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(gzip.compress(bytes(content)))
    try:
        read = Document.read(path)
    except ValueError:
        return
    found = check(network, read)
    assert not found.valid or claim_digest(read.head, read.arrays) == good.head["claim"]
