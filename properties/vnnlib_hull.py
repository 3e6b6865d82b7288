"""The set of inputs that a property is about for a network that computes in float32.

An interval between decimals may hold no float32 number: 0.1 <= X_0 <= 0.1 has none, so that no input of such a network
obeys it. There the set is the interval's float32 hull, from the largest float32 number that is not above it to the
smallest that is not below it, for both answers: proofs are of all that lies between, and witnesses may be its ends.
Intervals that hold a float32 number stay as they are. Whoever reads a property's boxes for such a network reads those
of `float32_hull`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import torch

from properties.rounding import cast_up
from properties.vnnlib import Property
from properties.vnnlib_boxes import BoxCases, Boxes
from properties.vnnlib_cases import Case
from properties.vnnlib_floats import float32_inside


def float32_hull(property_: Property) -> Property:
    """The property with boxes for a network that computes in float32; the same object where no input needs one.

    Cases and clauses keep their numbers. Constraints of several inputs, or of inputs and outputs, are as they were and
    hold of the inputs that a witness has. A hull has both of its ends, whether the interval's own were excluded or not.

    Raises:
        ValueError: a bound is beyond float64.
    """
    if isinstance(property_.cases, BoxCases) and _roomy(property_.cases.boxes):
        return property_
    made = tuple(_held(case) for case in property_.cases)
    same = all(new is old for new, old in zip(made, property_.cases, strict=True))
    return property_ if same else replace(property_, cases=made)


def _roomy(boxes: Boxes) -> bool:
    """Whether every interval of every box surely holds a float32 number: one strictly between its rounded ends."""
    lower, upper = torch.from_numpy(boxes.lower), torch.from_numpy(boxes.upper)
    above = cast_up(torch.nextafter(lower, torch.full_like(lower, torch.inf)), torch.float32)
    return bool((above.double() < upper).all())


def widened_inputs(property_: Property, hull: Property) -> int:
    """Number of inputs that are wider in the hull, in some case."""
    if hull is property_:
        return 0
    wider = set[int]()
    for old, new in zip(property_.cases, hull.cases, strict=True):
        if old is not new:
            wider |= {i for i, pair in enumerate(zip(old.lower, new.lower, strict=True)) if pair[0] != pair[1]}
            wider |= {i for i, pair in enumerate(zip(old.upper, new.upper, strict=True)) if pair[0] != pair[1]}
    return len(wider)


def distance(case: Case, x: Sequence[float]) -> float:
    """The largest distance of an entry of x from its interval in the case."""
    exact = zip(case.lower, map(Fraction, x), case.upper, strict=True)
    return float(max((max(low - v, v - high, Fraction(0)) for low, v, high in exact), default=0))


def _held(case: Case) -> Case:
    """The case, or one with hulls in place of intervals without float32 numbers."""
    least, greatest = float32_inside(case)
    # between the two there is no float32 number, and the interval is between them
    empty = ((least > greatest) & least.isfinite() & greatest.isfinite()).nonzero().squeeze(1)
    if len(empty) == 0:
        return case
    lower, upper, numbers = list(case.lower), list(case.upper), set(empty.tolist())
    for i, low, high in zip(empty.tolist(), greatest[empty].tolist(), least[empty].tolist(), strict=True):
        lower[i], upper[i] = Fraction(low), Fraction(high)
    strict = tuple(row for row in case.strict if row.inputs[0][0] not in numbers)
    return replace(case, lower=tuple(lower), upper=tuple(upper), strict=strict)
