"""Lines of smooth functions, polylines and jumps: on their side, near, and infinite where a function is not defined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_checker_enclosures import CASES, EXACT, arb, positive

from verifier.checker import functions, lines
from verifier.checker.backward import NodeRanges
from verifier.checker.network import CanonicalNetwork, CanonicalNode

BENT = {"x": [-1.0, 0.3, 2.0], "y": [0.0, 2.0, -1.0], "left": -0.5, "right": 3.0}
PIECES: list[tuple[str, dict[str, Any]]] = [
    ("floor", {}), ("round", {}), ("sign", {}), ("step", {"closed": 0.0}), ("step", {"closed": 1.0}),
    ("polyline", BENT),
]  # fmt: skip
UNDEFINED = [
    ("log", 0.0, 1.0, {}), ("log", -1.0, 1.0, {}), ("sqrt", -1e-300, 1.0, {}), ("rsqrt", 0.0, 1.0, {}),
    ("reciprocal", -1.0, 1.0, {}), ("reciprocal", 0.0, 1.0, {}), ("reciprocal", -1.0, 0.0, {}), ("tan", 1.5, 1.6, {}),
    ("tan", 0.0, 4.0, {}), ("power", -1.0, 1.0, {"exponent": 0.5}), ("power", 0.0, 1.0, {"exponent": -1.5}),
    ("power", -1.0, 1.0, {"exponent": -2.0}), ("exp", 0.0, 1000.0, {}), ("exp", -np.inf, 0.0, {}),
    ("floor", 0.0, np.inf, {}), ("gelu", np.nan, 1.0, {}),
]  # fmt: skip


def intervals(kind: str, o: dict[str, Any], count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(kind))
    c = rng.normal(size=count) * 10.0 ** rng.uniform(-3, 1, size=count)
    low, high = c, c + 10.0 ** rng.uniform(-5, 1, size=count)
    if positive(kind, o) or kind == "reciprocal":
        low, high = np.abs(c) + 1e-3, np.abs(c) + 1e-3 + high - low
        low[:5] = 0.0 if kind == "sqrt" else low[:5]
    if kind == "reciprocal":
        low[::2], high[::2] = -high[::2], -low[::2]
    if kind == "tan":
        both = np.sort(rng.uniform(-1.5, 1.5, size=(2, count)), 0) + np.rint(rng.uniform(-5, 5, size=count)) * np.pi
        low, high = both
    return low, high


@pytest.mark.parametrize(("kind", "o"), CASES, ids=[f"{k}{list(o.values())}" for k, o in CASES])
def test_lines_are_on_their_side_and_near(kind: str, o: dict[str, Any]) -> None:
    """Compared with exact values, and with values in between where what is lost is about sampling alone."""
    low, high = intervals(kind, o, 40)
    least, most = functions.slope_range(kind, low, high, o)
    slopes = np.stack([least + (most - least) * t for t in (0.0, 0.1, 0.5, 0.9, 1.0, -0.5)] + [0 * least])
    below, above = functions.intercepts(kind, low, high, slopes, o)
    part = np.linspace(0, 1, 41)[:, None]
    z = np.clip(low + part * (high - low), low, high)
    exact = [[EXACT[kind](arb(t), o) for t in row] for row in z.tolist()]
    for i, values in enumerate(exact):
        for j, v in enumerate(values):
            for s, b, c in zip(slopes[:, j].tolist(), below[:, j].tolist(), above[:, j].tolist(), strict=True):
                assert arb(b) <= v - arb(s) * arb(z[i, j]) <= arb(c), (low[j], high[j], s, b, c)
    z = np.clip(low + np.linspace(0, 1, 4001)[:, None, None] * (high - low), low, high)
    gaps = functions.value(kind, z, o) - slopes * z
    spread = gaps.max(0) - gaps.min(0)
    room = 1e-3 * spread + 1e-7 * (np.abs(gaps).max(0) + np.abs(slopes) * np.abs(z).max(0) + 1)
    assert (gaps.min(0) - below <= room).all() and (above - gaps.max(0) <= room).all()


@pytest.mark.parametrize(("kind", "o"), PIECES)
def test_pieces_are_on_their_side_and_near(kind: str, o: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    low = np.concatenate([rng.normal(size=300) * 3, np.rint(rng.normal(size=300) * 6) / 2])
    high = low + np.concatenate([10.0 ** rng.uniform(-2, 1, 300), np.rint(rng.uniform(0, 9, 300)) / 2])
    halves = np.clip(np.arange(-60, 61)[:, None] / 2, low, high)
    z = np.concatenate([low + np.linspace(0, 1, 2001)[:, None] * (high - low), halves])
    z = np.clip(np.concatenate([z, np.nextafter(halves, np.inf), np.nextafter(halves, -np.inf)]), low, high)
    least, most = functions.slope_range(kind, low, high, o)
    for t in (-0.5, 0.0, 0.02, 0.5, 1.0):
        s = least + t * (most - least)
        below, above = functions.intercepts(kind, low, high, s, o)
        gaps, room = functions.value(kind, z, o) - s * z, 1e-12 * (1 + np.abs(s * z).max(0))
        assert (below <= gaps.min(0) + room).all() and (above >= gaps.max(0) - room).all()
        loss = 1e-2 if kind == "polyline" else 1e-9  # whose bends are sampled
        assert (gaps.min(0) - below <= loss).all() and (above - gaps.max(0) <= loss).all()


@pytest.mark.parametrize(("kind", "low", "high", "o"), UNDEFINED)
@pytest.mark.parametrize("float32", [False, True])
def test_where_a_function_is_not_defined_nothing_is_proved(
    kind: str, low: float, high: float, o: dict[str, Any], float32: bool
) -> None:
    ends = np.array([[low, 1.0]]), np.array([[high, 2.0]])
    s = np.zeros((1, 2))
    below, above = functions.intercepts(kind, *ends, s, o)
    assert below[0, 0] == -np.inf and above[0, 0] == np.inf
    network = CanonicalNetwork((CanonicalNode("input", (), 2, {}, {}), CanonicalNode(kind, (0,), 2, {}, o)))
    with np.errstate(all="ignore"):
        ranges = NodeRanges(network, *ends, float32)
        ranges.forward(1, 2)
        for rule in lines.RULES:
            for nu in (1.0, -1.0):
                found = ranges.walk(1, np.array([[[nu, 0.0]]]), ranges.lines(rule))
                assert not found.max() > -np.inf


@pytest.mark.parametrize(("kind", "o"), [*CASES, *PIECES], ids=[f"{k}{list(o)}" for k, o in [*CASES, *PIECES]])
@pytest.mark.parametrize("float32", [False, True])
def test_walks_by_every_rule_are_below_all_values(kind: str, o: dict[str, Any], float32: bool) -> None:
    rng = np.random.default_rng(5)
    low, high = intervals(kind, o, 30)
    node = CanonicalNode(kind, (0,), 30, {}, o)
    network = CanonicalNetwork((CanonicalNode("input", (), 30, {}, {}), node))
    dtype = np.float32 if float32 else np.float64
    z = np.clip((low + rng.uniform(size=(300, 30)) * (high - low)).astype(dtype).astype(float), low, high)
    nu = rng.normal(size=(1, 4, 30))
    values = functions.value(kind, z, o) @ nu[0].T
    with np.errstate(all="ignore"):
        ranges = NodeRanges(network, low[None], high[None], float32)
        ranges.forward(1, 2)
        for rule in lines.RULES:
            found = ranges.walk(1, nu, ranges.lines(rule))[0]
            assert np.isfinite(found).all() and (found <= values.min(0) + 1e-9 * np.abs(values).max()).all()


def test_a_narrower_interval_has_no_larger_range_of_slopes() -> None:
    """What a walk pays for slopes over parts of an interval is that of the whole."""
    for kind, o in [*CASES, *PIECES]:
        low, high = intervals(kind, o, 200)
        part = np.sort(np.random.default_rng(0).uniform(size=(2, 200)), 0)
        whole = lines.steepest(CanonicalNode(kind, (0,), 200, {}, o), low, high)
        mine = lines.steepest(CanonicalNode(kind, (0,), 200, {}, o), *(low + part * (high - low)))
        assert (mine <= whole * (1 + 1e-9) + 1e-9).all(), kind


def test_malformed_options_are_refused() -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("celu", {"alpha": 0.0}), ("step", {"closed": 0.5}), ("power", {}), ("exp", {"alpha": 1.0}),
        *(("polyline", {**BENT, **change}) for change in (
            {"x": [1.0, 0.0, 2.0]}, {"x": [0.0, 0.0, 1.0]}, {"y": [0.0]}, {"x": [], "y": []}, {"left": np.inf},
            {"x": [0, 1, 2]}, {"y": 0.0}, {"right": 1})),
    ]  # fmt: skip
    for kind, o in wrong:
        assert CanonicalNode(kind, (0,), 1, {}, o).check([1]), (kind, o)
