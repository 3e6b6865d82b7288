"""Trees of cases that narrow what products read: held against exact values, and against records that are malformed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from test_checker import Arrays, checked, document, node, points, random_tree

from verifier.checker.check import check
from verifier.checker.document import Document
from verifier.checker.network import CanonicalNetwork


def square_case() -> tuple[CanonicalNetwork, Document]:
    """x x + 0.4 on [-1, 1], its factors two entries: planes show -0.6, and 0.4 - 1 / 3 where one of them is halved."""
    nodes = (
        node("input", (), 1),
        node("matrix", (0,), 2, {"weight": np.ones((2, 1))}),
        node("product", (1,), 1, {"left": np.array([0]), "right": np.array([1])}),
        node("matrix", (2,), 2, {"weight": np.array([[1.0], [0.0]]), "bias": np.array([0.4, 0.0])}),
    )
    arrays = {
        "free": np.array([0]), "factors": np.array([0, 1]), "roots": np.array([[0, 0]]),
        "neuron": np.array([0, -1, -1]), "at": np.zeros(3), "below": np.array([1, -1, -1]),
        "above": np.array([2, -1, -1]), "proof": np.array([-1, 0, 1]), "slope": np.array([[170], [85]], np.uint8),
        "weight": np.ones((2, 1), np.float32), "first": np.zeros(3, np.int64), "split": np.zeros(0, np.int64),
        "gamma": np.zeros(0, np.float32),
    }  # fmt: skip
    cases = {name: name for name in arrays if name not in ("free", "factors")}
    cases |= {"neurons": {"2": "free"}, "reads": {"2": "factors"}}
    network = CanonicalNetwork(nodes)
    return network, document(network, np.zeros(1), 1.0, arrays, proofs=[{"cases": cases}])


def test_a_tree_of_factors_proves_what_its_leaves_prove() -> None:
    network, good = square_case()
    assert 0.4 - 1 / 3 - 1e-9 < check(network, good).clauses[0] < 0.4 - 1 / 3 + 1e-9
    for change, expected in (
        ({"neuron": np.array([1, -1, -1])}, 0.4 - 1 / 3),  # the other factor, by the planes of the same t
        ({"slope": np.array([[85], [170]], np.uint8)}, 0.4 - 1.0),
        ({"at": np.full(3, 0.5)}, 0.4 - 2 / 3),
        ({"factors": np.array([1, 0])}, 0.4 - 1 / 3),
        ({"first": np.array([0, 1, 1]), "split": np.array([0]), "gamma": np.array([1 / 3])}, 0.4 - 2 / 3),
        ({"first": np.array([0, 1, 1]), "split": np.array([0]), "gamma": np.array([-1 / 3])}, 0.4 - 2 / 3),
    ):
        found = check(network, Document(good.head, {**good.arrays, **change}))
        assert found.clauses[0] <= expected + 1e-9, change


WRONG: list[tuple[str, Any]] = [
    ("factors", np.array([0, 2])),
    ("factors", np.array([0, -1])),
    ("factors", np.array([[0, 1]])),
    ("factors", np.array([1 << 40])),
    ("factors", np.zeros(0, np.int64)),
    ("neuron", np.array([2, -1, -1])),
    ("slope", np.zeros((2, 2), np.uint8)),
    ("slope", np.full((2, 1), np.nan)),
    ("free", np.array([1])),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_wrong_trees_of_factors_are_invalid(name: str, value: np.ndarray) -> None:
    network, good = square_case()
    found = check(network, Document(good.head, {**good.arrays, name: value}))
    assert not found.valid and found.reason


@pytest.mark.parametrize("reads", [None, {}, {"1": "factors"}, {"2": "nothing"}])
def test_products_say_what_they_read(reads: dict[str, str] | None) -> None:
    network, good = square_case()
    cases = {**good.head["parts"][0]["proofs"][0]["cases"], "reads": reads}
    if reads is None:
        del cases["reads"]
    found = check(network, document(network, np.zeros(1), 1.0, good.arrays, proofs=[{"cases": cases}]))
    assert not found.valid and "malformed" in found.reason


def gated(rng: np.random.Generator) -> CanonicalNetwork:
    """Products of linear entries, some of which share factors, a leaky ReLU of these, and products with that."""
    weight, mix = rng.normal(size=(5, 3)), rng.normal(size=(3, 4))
    places = {"left": np.array([0, 0, 1, 2]), "right": np.array([3, 4, 4, 3])}
    ends = {"left": np.array([0, 1, 3]), "right": np.array([3, 2, 6])}  # of the ReLUs and the first products
    copies = {"row": np.arange(7), "column": np.arange(7), "value": np.ones(7)}
    return CanonicalNetwork(
        (
            node("input", (), 3),
            node("matrix", (0,), 5, {"weight": weight, "bias": rng.normal(size=5) * 0.1}),
            node("product", (1,), 4, places),
            node("matrix", (2,), 3, {"weight": mix}),
            node("leaky", (3,), 3, slope=0.1),
            node("sparse", (4, 2), 7, copies),
            node("product", (5,), 3, ends),
        )
    )


def exact(network: CanonicalNetwork, x: list[Fraction]) -> list[Fraction]:
    z = [
        sum((Fraction(a) * v for a, v in zip(row, x, strict=True)), Fraction(b))
        for row, b in zip(network.nodes[1].arrays["weight"].tolist(), network.nodes[1].bias.tolist(), strict=True)
    ]
    first = _products(network, 2, z)
    mixed = [
        sum((Fraction(a) * v for a, v in zip(row, first, strict=True)), Fraction(0))
        for row in network.nodes[3].arrays["weight"].tolist()
    ]
    return _products(network, 6, [v if v > 0 else Fraction(0.1) * v for v in mixed] + first)


def _products(network: CanonicalNetwork, k: int, z: list[Fraction]) -> list[Fraction]:
    arrays = network.nodes[k].arrays
    return [z[a] * z[b] for a, b in zip(arrays["left"].tolist(), arrays["right"].tolist(), strict=True)]


@pytest.mark.parametrize("codes", [np.uint8, np.float16])
def test_random_trees_of_factors_are_sound(codes: type[np.generic]) -> None:
    rng = np.random.default_rng(12)
    network, x, eps = gated(rng), rng.normal(size=3), 0.4
    spec = {"kind": "rows", "rows": "spec", "offset": "offset", "clause": "clause"}
    arrays: Arrays = {"spec": rng.normal(size=(3, 3)), "offset": rng.normal(size=3), "clause": np.array([0, 1, 0])}
    tree = random_tree(rng, 5, 12, 2, 2)  # of 12 entries: 5 factors, 3 neurons, 4 factors
    leaves, free = len(tree["slope"]), 4 + 3 + 2
    tree["slope"] = rng.integers(0, 256, (leaves, free)).astype(np.uint8)
    if codes is not np.uint8:
        tree["slope"] = rng.random((leaves, free)).astype(codes)
        tree["upper"] = rng.random((leaves, free)).astype(codes)
    arrays |= {"f2": np.arange(4), "f4": np.arange(3), "f6": np.array([0, 2]), **tree}
    arrays |= {"r2": np.arange(5), "r6": np.array([0, 3, 3, 6])}
    cases: dict[str, Any] = {name: name for name in tree}
    cases |= {"neurons": {"2": "f2", "4": "f4", "6": "f6"}, "reads": {"2": "r2", "6": "r6"}}
    for semantics in ("real", "float32"):
        found = checked(network, x, eps, arrays, specification=spec, proofs=[{"cases": cases}], semantics=semantics)
        assert found.reason.endswith(")") and np.isfinite(found.clauses).all()
        for point in points(rng, x, eps, 30):
            y = exact(network, point)
            rows = [
                sum((Fraction(a) * v for a, v in zip(row, y, strict=True)), Fraction(o))
                for row, o in zip(arrays["spec"].tolist(), arrays["offset"].tolist(), strict=True)
            ]
            assert Fraction(found.clauses[0]) <= max(rows[0], rows[2]) and Fraction(found.clauses[1]) <= rows[1]
