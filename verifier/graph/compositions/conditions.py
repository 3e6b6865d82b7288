"""Conditions on values of the network, as numbers 0 and 1: comparisons, what logic makes of them, choices by them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from properties.rounding import two_sum
from verifier.graph.emitter import Emitter, Var
from verifier.ops.absolute import Abs
from verifier.ops.clip import Clip
from verifier.ops.elementwise import Multiply, Shift
from verifier.ops.jumps import Floor, Sign, Step
from verifier.ops.relu import ReLU


def compared(w: Emitter, kind: str, a: Any, b: Any) -> Var:
    """1 where a > b ("gt"), a >= b ("ge"), a < b, a <= b, a = b or a != b ("lt", "le", "eq", "ne"), 0 elsewhere.

    Floating-point numbers are compared by the sign of their difference, which no rounding changes.
    """
    a, b = (v.to(w.dtype) if isinstance(v, Tensor) and not v.is_floating_point() else v for v in (a, b))
    if kind in ("eq", "ne"):
        differ = w.emit(Abs(), w.emit(Sign(), w.difference(a, b)))
        return differ if kind == "ne" else negated(w, differ)
    if kind in ("lt", "le"):
        a, b = b, a
    return w.emit(Step(kind in ("ge", "le")), w.difference(a, b))


def negated(w: Emitter, condition: Var) -> Var:
    return w.emit(Shift(1.0), w.emit(Multiply(-1.0), condition))


def combined(w: Emitter, kind: str, a: Any, b: Any) -> Var:
    """ "and", "or" or "xor" of two conditions, one of which may be constant.

    Of zeros and ones, a and b is ReLU(a + b - 1), a or b is min(a + b, 1), and either of them alone is |a - b|.
    """
    a, b = (v if isinstance(v, Var) else torch.as_tensor(v).to(torch.bool).to(w.dtype) for v in (a, b))
    if kind == "xor":
        return w.emit(Abs(), w.difference(a, b))
    if isinstance(a, Var) and isinstance(b, Var):
        total = w.sum(a, b)
        if kind == "and":
            return w.emit(ReLU(), w.emit(Shift(-1.0), total))
        return w.emit(Clip(None, 1.0), total)
    if kind == "and":
        return w.product(a, b)
    a, b = (a, b) if isinstance(a, Var) else (b, a)
    return w.sum(w.with_constant(Multiply, a, 1 - b), b)


def chosen_by(w: Emitter, condition: Var, x: Any, y: Any) -> Var:
    """x where the condition holds, y elsewhere: y + condition (x - y); affine where x - y is constant."""
    if not isinstance(x, Var) and not isinstance(y, Var):
        x, y = (torch.as_tensor(v, dtype=w.dtype) for v in (x, y))
        return w.sum(times_difference(w, condition, x, y), y)
    if isinstance(x, Var) and not isinstance(y, Var) and not torch.as_tensor(y).any():
        return w.product(condition, x)
    if isinstance(y, Var) and not isinstance(x, Var) and not torch.as_tensor(x).any():
        return w.product(negated(w, condition), y)
    return w.sum(w.product(condition, w.difference(x, y)), y)


def times_difference(w: Emitter, v: Var, x: Tensor | float, y: Tensor | float) -> Var:
    """v (x - y) of constants x and y, as v x - v y where their difference would be rounded."""
    pair = [torch.as_tensor(c, dtype=None if isinstance(c, Tensor) else torch.float64) for c in (x, y)]
    difference = pair[0] - pair[1]
    total, lost = two_sum(pair[0].double(), -pair[1].double())
    if bool(((lost == 0) & (difference.double() == total)).all()):
        return w.scaled(v, difference if isinstance(x, Tensor) else float(difference))
    return w.difference(w.scaled(v, x), w.scaled(v, y))


def truncated(w: Emitter, x: Var) -> Var:
    """The nearest whole number towards zero: ReLU(floor(x)) - ReLU(floor(-x)).

    Neither floor is read where it is -1, so that nothing jumps at zero.
    """
    up, down = (w.emit(ReLU(), w.emit(Floor(), v)) for v in (x, w.emit(Multiply(-1.0), x)))
    return w.difference(up, down)


def heaviside(w: Emitter, x: Var, at_zero: Any) -> Var:
    """0 below zero, 1 above, a constant at zero."""
    value = torch.as_tensor(at_zero)
    if not value.any():
        return w.emit(Step(), x)
    if bool((value == 1).all()):
        return w.emit(Step(True), x)
    at_least, above = w.emit(Step(True), x), w.emit(Step(), x)
    return w.sum(w.product(at_least, at_zero), times_difference(w, above, torch.ones_like(value), value))
