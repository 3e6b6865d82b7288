"""The slopes that the checker's rules and certificates' own ones come to, number by number."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_checker import node

from verifier.checker import lines
from verifier.checker.network import CanonicalNode

RELU, LEAKY, STEEP = (node("leaky", (0,), 1, slope=a) for a in (0.0, 0.5, 1.5))
CLIP, ABS = node("clip", (0,), 1, low=-1.0, high=1.0), node("abs", (0,), 1)
SIGMOID, TANH = node("sigmoid", (0,), 1), node("tanh", (0,), 1)
#: an interval, the slope of the chord, and those of the lower and the upper line by the rule "adaptive"
ADAPTIVE = [
    (RELU, -1, 3, 0.75, 1, 0.75), (RELU, -3, 1, 0.25, 0, 0.25), (RELU, -2, 2, 0.5, 0, 0.5),
    (LEAKY, -1, 3, 0.875, 1, 0.875), (LEAKY, -3, 1, 0.625, 0.5, 0.625), (STEEP, -1, 3, 1.125, 1.125, 1),
    (STEEP, -3, 1, 1.375, 1.375, 1.5), (ABS, -1, 3, 0.5, 1, 0.5), (ABS, -3, 1, -0.5, -1, -0.5),
    (CLIP, -2, 0.5, 0.6, 1, 0.6), (CLIP, -3, 0.5, 3 / 7, 0, 3 / 7), (CLIP, -3, 1, 0.5, 0, 0.5),
    (CLIP, -0.5, 3, 3 / 7, 3 / 7, 0), (CLIP, -0.5, 2, 0.6, 0.6, 1), (CLIP, -1, 3, 0.5, 0.5, 0),
    (CLIP, -2, 2, 0.5, 2 / 3, 2 / 3), (CLIP, -8, 2, 0.2, 0, 2 / 9), (CLIP, -2, 8, 0.2, 2 / 9, 0),
    # where it is a line
    (RELU, 0, 2, 1, 1, 1), (RELU, -2, 0, 0, 0, 0), (RELU, 0, 0, 1, 1, 1), (LEAKY, -2, -1, 0.5, 0.5, 0.5),
    (STEEP, 1, 2, 1, 1, 1), (ABS, 0, 2, 1, 1, 1), (ABS, -2, 0, -1, -1, -1), (ABS, -2, -1, -1, -1, -1),
    (CLIP, -1, 1, 1, 1, 1), (CLIP, -1, 0, 1, 1, 1), (CLIP, 0, 1, 1, 1, 1), (CLIP, -2, -1, 0, 0, 0),
    (CLIP, 1, 2, 0, 0, 0),
]  # fmt: skip


def at(x: float) -> np.ndarray:
    return np.full((1, 1), float(x))


@pytest.mark.parametrize(("own", "low", "high", "chord", "below", "above"), ADAPTIVE)
def test_rules_take_these_slopes(
    own: CanonicalNode, low: float, high: float, chord: float, below: float, above: float
) -> None:
    for rule, expected in (("fixed", (chord, chord)), ("adaptive", (below, above)), ("interval", (0, 0))):
        found = [s.item() for s in lines.slopes(own, at(low), at(high), rule)]
        assert found == pytest.approx(expected, rel=1e-15, abs=0), rule
    bends = low < high and any(low < kink < high for kink in lines.kinks(own))
    assert lines.unstable(own, at(low), at(high)).item() == bends


@pytest.mark.parametrize("own", [SIGMOID, TANH])
def test_slopes_of_smooth_activations(own: CanonicalNode) -> None:
    """A chord over the concave stretch, the tangent in the middle of the convex one, one that touches it in between."""

    def act(z: float) -> float:
        return lines.value(own, at(z)).item()

    def slope(z: float) -> float:
        return lines.derivative(own, at(z)).item()

    for low, high in ((-3, -1), (-2, 0), (0, 2), (1, 3), (-0.5, 4), (-4, 0.5), (-2, 2), (-1, -1), (2, 2)):
        below, above = (s.item() for s in lines.slopes(own, at(low), at(high), "adaptive"))
        assert lines.unstable(own, at(low), at(high)).item() == (low < high)
        if low == high:
            assert below == above == slope(low)
            continue
        chord = (act(high) - act(low)) / (high - low)
        assert lines.slopes(own, at(low), at(high), "fixed")[0].item() == pytest.approx(chord, rel=1e-15)
        # the upper line of an interval is the lower one of its mirror image
        for s, first, last in ((below, low, high), (above, -high, -low)):
            if last <= 0:
                assert s == pytest.approx(slope(0.5 * (low + high)), rel=1e-14)
            elif slope(first) >= chord:
                assert s == pytest.approx(chord, rel=1e-15)
            else:  # the one line through the upper end that is below, and touches
                z = np.linspace(first, last, 4001)
                gaps = lines.value(own, z) - act(last) - s * (z - last)
                assert gaps.min() > -1e-5 and gaps[z < 0].min() < 1e-5


def test_slopes_are_numbers_at_most_as_steep_as_the_activation() -> None:
    """Also over intervals without ends, and where a certificate says otherwise: payments count on it."""
    for own, most in ((RELU, 1), (STEEP, 1.5), (node("leaky", (0,), 1, slope=-3.0), 3), (CLIP, 1), (ABS, 1),
                      (SIGMOID, 0.25), (TANH, 1)):  # fmt: skip
        assert lines.steepest(own) == most
        for rule in lines.RULES:
            for s in lines.slopes(own, at(-np.inf), at(np.inf), rule):
                assert abs(s.item()) <= most
        for code in (1e30, -1e30, 3.5, -3.5):
            a, _, b, _ = lines.own(own, at(-1), at(1.5), given(np.array([[[code]]])))
            assert a.item() == b.item() == np.sign(code) * most


def given(codes: np.ndarray, **upper: np.ndarray) -> dict[str, np.ndarray]:
    return {"neurons": np.array([0]), "slopes": codes, **upper}


@pytest.mark.parametrize("code", [0, 51, 255])
def test_bytes_are_positions_in_the_range_of_slopes(code: int) -> None:
    """On the side that an activation curves towards; the other one has the chord."""
    codes, part = np.array([[[code]]], np.uint8), code / 255
    for own, least, most in ((RELU, 0, 1), (LEAKY, 0.5, 1), (STEEP, 1, 1.5), (ABS, -1, 1), (CLIP, 0, 1),
                             (SIGMOID, 0, 0.25), (TANH, 0, 1)):  # fmt: skip
        low, high = at(-2), at(1.5)
        mine, chord = least + (most - least) * part, lines.slopes(own, low, high, "fixed")[0].item()
        below, _, above, _ = (t.item() for t in lines.own(own, low, high, given(codes)))
        expected = {"leaky": (chord, mine) if own is STEEP else (mine, chord), "abs": (mine, chord)}
        assert (below, above) == pytest.approx(expected.get(own.kind, (mine, mine)), rel=1e-15)
        both = lines.own(own, low, high, given(codes, upper=255 - codes))
        assert both[0].item() == pytest.approx(mine, rel=1e-15)
        assert both[2].item() == pytest.approx(least + most - mine, rel=1e-15)


def test_numbers_are_the_slopes_of_both_sides_where_it_bends() -> None:
    codes = np.array([[[0.75], [0.5]]], np.float32)
    for own in (RELU, STEEP, ABS, CLIP, TANH):
        below, _, above, _ = lines.own(own, at(-2), at(1.5), given(codes))
        assert np.array_equal(below, codes) and np.array_equal(above, codes)
        below, _, above, _ = lines.own(own, at(-2), at(1.5), given(codes, upper=codes - 0.25))
        assert np.array_equal(below, codes) and np.array_equal(above, codes - 0.25)
    below, _, above, _ = lines.own(RELU, at(1), at(2), given(codes))
    assert (below == 1).all() and (above == 1).all()
    others = lines.own(RELU, np.array([[-1.0, -1.0]]), np.array([[1.0, 3.0]]), given(codes))
    assert others[0][0].tolist() == [[0.75, 1.0], [0.5, 1.0]] and others[2][0].tolist() == [[0.75, 0.75], [0.5, 0.75]]


def test_slopes_that_are_no_numbers_or_do_not_fit_are_refused() -> None:
    fine, none = np.full((1, 2, 1), 0.5), np.array([[[0.5], [np.nan]]])
    wrong: list[dict[str, Any]] = [given(none), given(none, upper=fine), given(fine, upper=none), given(np.inf * fine)]
    for record in [*wrong, given(fine, upper=fine[:, :1]), given(fine[:, :1], upper=fine)]:
        with pytest.raises(ValueError, match="slopes"):
            lines.own(RELU, at(-1), at(1), record)


@pytest.mark.parametrize("own", [SIGMOID, TANH, RELU, STEEP, CLIP, ABS])
def test_a_line_of_any_slope_is_on_its_side(own: CanonicalNode) -> None:
    """Also of slopes that no tangent has, and that a rule would not take."""
    for low, high in ((-3, -1), (-2, 0), (0, 2), (-0.5, 4), (-4, 0.5), (-2, 2), (1, 1), (-30, 30)):
        z = np.append(np.linspace(low, high, 401), np.clip([-1.0, 0.0, 1.0], low, high))
        for s in (0, 0.1, 0.25, 0.2500001, 0.9, 1, 1.0001, 1.5, 7, -0.1, -1, -7, 1e-9, 1e-300):
            least, most = (t.item() for t in lines.intercepts(own, at(low), at(high), at(s)))
            act, room = lines.value(own, z) - s * z, 1e-12 * (1 + abs(s) * (abs(low) + abs(high)))
            assert least <= act.min() + room and act.max() - room <= most
            if s in (0, 0.1, 0.9, -7) and own in (RELU, STEEP, CLIP, ABS):
                assert least >= act.min() - room and act.max() + room >= most


@pytest.mark.parametrize("own", [SIGMOID, TANH])
@pytest.mark.parametrize("off", [-3.0, -0.5, 0.5, 3.0, np.nan])
def test_a_tangent_is_below_wherever_it_touches(
    own: CanonicalNode, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The point of contact comes from logarithms that nothing is assumed of."""
    wrong = SimpleNamespace(**{**vars(np), "log": lambda x: np.log(x) + off})
    monkeypatch.setattr(lines, "np", wrong)
    for low, high in ((-3, -1), (-2, 0), (-0.5, 4), (-6, 0.5), (-2, 2)):
        z = np.linspace(low, high, 401)
        for s in (0.02, 0.1, 0.2, 0.25):
            least, most = (t.item() for t in lines.intercepts(own, at(low), at(high), at(s)))
            act = lines.value(own, z) - s * z
            assert least <= act.min() + 1e-14 and act.max() - 1e-14 <= most
