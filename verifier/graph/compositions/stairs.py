"""Functions of one variable that jump, as sums of lines, kinks and steps: each of them has hulls of its own."""

from __future__ import annotations

from typing import Any

from verifier.graph.compositions.conditions import times_difference, truncated
from verifier.graph.compositions.functions import soft_shrink
from verifier.graph.emitter import Emitter, Var
from verifier.ops.clip import Clip
from verifier.ops.elementwise import Divide, Multiply, Shift
from verifier.ops.jumps import Floor, Round, Step
from verifier.ops.relu import ReLU


def threshold(w: Emitter, x: Var, limit: float, value: float) -> Var:
    """x where x > limit, a value elsewhere: value + ReLU(x - limit) + (limit - value) [x > limit]."""
    above = w.emit(Shift(-limit), x) if limit else x
    result = w.emit(ReLU(), above)
    if value != limit:
        result = w.sum(result, times_difference(w, w.emit(Step(), above), limit, value))
    return w.emit(Shift(value), result) if value else result


def shrink(w: Emitter, x: Var, limit: float, bias: float) -> Var:
    """x - bias above a limit, x + bias below minus the limit, 0 between: (hard where the bias is 0.)

    The soft shrinking by the limit, plus (limit - bias) ([x > limit] - [-x > limit]).
    """
    if limit < 0:
        raise w.unsupported(f"it shrinks by a limit of {limit}")
    result = soft_shrink(w, x, limit)
    if bias == limit:
        return result
    sides = [w.emit(Step(), w.emit(Shift(-limit), v)) for v in (x, w.emit(Multiply(-1.0), x))]
    return w.sum(result, times_difference(w, w.difference(*sides), limit, bias))


def fraction(w: Emitter, x: Var) -> Var:
    return w.difference(x, truncated(w, x))


def remainder(w: Emitter, x: Var, divisor: float, towards_zero: bool) -> Var:
    """x - divisor q, q being x / divisor rounded down, or towards zero."""
    if divisor == 0:
        raise w.unsupported("it divides by zero")
    quotient = w.emit(Divide(divisor), x)
    whole = truncated(w, quotient) if towards_zero else w.emit(Floor(), quotient)
    return w.difference(x, w.emit(Multiply(divisor), whole))


def quantised(w: Emitter, x: Var, low: float, high: float) -> Var:
    """The nearest whole number between two whole numbers: clipped first, which is the same, and never far away."""
    return w.emit(Round(), w.emit(Clip(low, high), x))


def fake_quantised(w: Emitter, x: Var, scale: Any, inverse: Any, zero: int, low: int, high: int) -> Var:
    """scale (clip(round(x inverse) + zero, low, high) - zero): what a network in few bits computes."""
    steps = quantised(w, w.with_constant(Multiply, x, inverse), float(low - zero), float(high - zero))
    return w.with_constant(Multiply, steps, scale)
