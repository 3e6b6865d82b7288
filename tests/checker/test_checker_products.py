"""Ranges and planes of products in the checker, against rational numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

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


def boxes(count: int) -> tuple[np.ndarray, np.ndarray]:  # [count, 3] each
    ends = np.sort(np.random.default_rng(1).normal(size=(2, count, 3)), 0)
    return ends[0], ends[1]


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0, "each"])
def test_planes_hold_at_every_corner_and_meet_one(t: float | str) -> None:
    low, high = boxes(50)
    share = np.random.default_rng(2).uniform(size=(50, 2, 3)) if isinstance(t, str) else t
    below, c, above, d = products.planes(NODE, low, high, share)
    whole = [np.broadcast_to(v, (50, 2, *v.shape[2:])) for v in (below, c, above, d)]
    for b, r, m in np.ndindex(50, 2, 3):
        x, y = ([Fraction(v[b, NODE.arrays[side][m]]) for v in (low, high)] for side in ("left", "right"))
        at = float(share[b, r, m]) if isinstance(share, np.ndarray) else share
        lower, upper = ([Fraction(whole[k][b, r, f, m]) for f in (0, 1)] for k in (0, 2))
        size = 16 * Fraction(2) ** -53 * max(abs(p * q) for p in x for q in y)
        # the planes of the rule: means of McCormick's two on each side, exactly but for roundings
        wanted = y[0] + Fraction(at) * (y[1] - y[0]), x[0] + Fraction(at) * (x[1] - x[0])
        other = y[1] + Fraction(at) * (y[0] - y[1]), x[0] + Fraction(at) * (x[1] - x[0])
        for found, exact in ((lower, wanted), (upper, other)):
            assert all(abs(f - e) <= Fraction(2) ** -50 * (abs(e) + 4) for f, e in zip(found, exact, strict=True))
        gaps = [p * q - lower[0] * p - lower[1] * q - Fraction(whole[1][b, r, m]) for p in x for q in y]
        assert -size <= min(gaps) <= size
        gaps = [upper[0] * p + upper[1] * q + Fraction(whole[3][b, r, m]) - p * q for p in x for q in y]
        assert -size <= min(gaps) <= size


def test_parameters_beyond_their_range_are_taken_into_it_and_endless_boxes_have_no_plane() -> None:
    low, high = boxes(1)
    wide = np.array([[[2.0, -1.0, np.nan]]])
    for found, wanted in zip(
        products.planes(NODE, low, high, wide),
        products.planes(NODE, low, high, np.array([[[1.0, 0.0, 0.0]]])),
        strict=True,
    ):
        assert np.array_equal(found, wanted)
    below, c, above, d = products.planes(NODE, np.full((1, 3), -np.inf), np.full((1, 3), np.inf), 0.5)
    assert not below.any() and not above.any() and (c == -np.inf).all() and (d == np.inf).all()


def test_no_slope_is_beyond_the_other_factors_ends_by_rounding() -> None:
    ends = np.sort(np.random.default_rng(4).normal(size=(2, 500, 3)) * [1.0, 1e3, 1e-3], 0)
    assert (ends[0] + (ends[1] - ends[0]) > ends[1]).any()  # some ends would be passed
    below, _, above, _ = products.planes(NODE, ends[0], ends[1], 1.0)
    low, high = (products.factors(NODE, e)[:, None, ::-1] for e in ends)
    for slopes in (below, above):
        assert ((low <= slopes) & (slopes <= high)).all()


def test_codes_of_parameters() -> None:
    low, high = boxes(2)
    given = np.array([[[0, 255]], [[51, 102]]], np.uint8)
    full = np.full((2, 1, 3), 0.5)
    full[:, :, [2, 0]] = given / 255.0
    for codes in (given, given / 255.0):
        found = products.own(NODE, low, high, {"neurons": np.array([2, 0]), "slopes": codes})
        for a, b in zip(found, products.planes(NODE, low, high, full), strict=True):
            assert np.array_equal(a, b)
    bad = np.full((2, 1, 2), 0.5)
    bad[1, 0, 1] = np.nan
    for record in ({"slopes": bad}, {"slopes": np.full((2, 1, 2), 0.5), "upper": np.full((2, 1, 2), 0.5)}):
        with pytest.raises(ValueError, match="positions of planes"):
            products.own(NODE, low, high, {"neurons": np.array([2, 0]), **record})


def test_coefficients_of_factors_add_up_where_they_are() -> None:
    draw = np.random.default_rng(3)
    nu, z = draw.integers(-9, 9, (2, 4, 2, 3)).astype(float), draw.integers(-9, 9, (2, 3)).astype(float)
    direct = np.einsum("brfm,bfm->br", nu, products.factors(NODE, z))
    assert np.array_equal(np.einsum("brn,bn->br", products.pulled(NODE, nu, 3), z), direct)


def test_entries_that_vary_and_are_multiplied_with_some_that_do() -> None:
    low, high = np.zeros((8, 3)), np.array([[k >> i & 1 for i in range(3)] for k in range(8)], float)
    for wide, found in zip(high > 0, products.unstable(NODE, low, high), strict=True):
        pairs = zip(NODE.arrays["left"], NODE.arrays["right"], strict=True)
        wanted = {int(e) for pair in pairs if wide[list(pair)].all() for e in pair}
        assert set(np.flatnonzero(found).tolist()) == wanted
