"""Ranges of products in the checker, against rational numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from verifier.checker import products
from verifier.checker.network import CanonicalNode

NODE = CanonicalNode("product", (0,), 3, {"left": np.array([0, 1, 0]), "right": np.array([1, 2, 2])}, {})


def test_ends_are_rounded_outward_and_sizes_are_of_all_corners() -> None:
    generator = np.random.default_rng(0)
    ends = np.sort(generator.normal(size=(2, 200, 3)), 0)
    least, most, size = products.span(NODE, ends[0], ends[1])
    for b in range(200):
        for m, (i, j) in enumerate(((0, 1), (1, 2), (0, 2))):
            exact = [Fraction(x) * Fraction(y) for x in ends[:, b, i] for y in ends[:, b, j]]
            assert Fraction(least[b, m]) <= min(exact) and max(exact) <= Fraction(most[b, m])
            assert max(map(abs, exact)) <= Fraction(size[b, m])


def test_endless_factors_tell_nothing() -> None:
    low, high = np.array([[0.0, -np.inf, 1.0]]), np.array([[1.0, np.inf, 2.0]])
    least, most, size = products.span(NODE, low, high)
    assert least[0].tolist()[0] == -np.inf and most[0].tolist()[0] == np.inf and size[0, 0] == np.inf
    assert np.isfinite([least[0, 2], most[0, 2], size[0, 2]]).all()
