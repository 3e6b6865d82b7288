"""Cases of a VNN-LIB property as boxes and specifications in float64, rounded so that what is proved of them holds.

Boxes are rounded outward. A row c . v + d <= 0 becomes c' . v + d' with c' = s c exactly, s > 0, and d' <= s d: where
the rounded row is > 0, so is the exact one. Where a counterexample has the row < 0, strictly, the rounded row need only
be >= 0 (`Specification.touching`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from properties.box import Box
from properties.rounding import cast_up
from properties.specification import Specification
from properties.vnnlib import Property
from properties.vnnlib_boxes import BoxCases, rounded_down
from properties.vnnlib_cases import Case
from properties.vnnlib_formula import Row


@dataclass(frozen=True)
class CaseBatch:
    """Cases whose clauses have the same numbers of rows, as one batch of boxes with one specification.

    `spec.rows` [B, S, outputs], or [B, S, outputs + inputs] where some row of the property is about inputs
    (`with_inputs`): outputs first. `order[b][k]` is the clause of the case that the specification's clause k is.
    """

    numbers: tuple[int, ...]  #: of the cases in the property
    lower: Tensor  # [B, inputs] float64, rounded down
    upper: Tensor  # [B, inputs] float64, rounded up
    spec: Specification
    with_inputs: bool
    order: tuple[tuple[int, ...], ...]

    @property
    def batch(self) -> int:
        return len(self.numbers)

    def box(self, shape: Sequence[int]) -> Box:
        """The boxes for a network whose input has this shape."""
        return Box(self.lower.reshape(-1, *shape), self.upper.reshape(-1, *shape))


def batches(property_: Property, size: int = 256) -> list[CaseBatch]:
    """All cases, in batches of at most `size`.

    Raises:
        ValueError: a number is beyond float64, or a row's coefficients cannot be scaled to float64 numbers.
    """
    listed = property_.cases
    if isinstance(listed, BoxCases):
        return [
            _table_batch(property_, listed, rows, numbers[at : at + size])
            for rows, numbers in _alike(listed)
            for at in range(0, len(numbers), size)
        ]
    alike: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for number, case in enumerate(listed):
        order = tuple(sorted(range(len(case.clauses)), key=lambda k: len(case.clauses[k])))
        alike[tuple(max(1, len(case.clauses[k])) for k in order)].append((number, order))
    return [
        _batch(property_, structure, members[start : start + size])
        for structure, members in alike.items()
        for start in range(0, len(members), size)
    ]


def _alike(listed: BoxCases) -> list[tuple[tuple[int, ...], list[int]]]:
    """The cases of a table by the numbers of rows in their clauses, which are sorted."""
    lengths = [len(listed.rows) + len(s.rows) for s in listed.disjunction.skeletons]
    kinds = listed.disjunction.kind.tolist()
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, disjuncts in enumerate(listed.members):
        found[tuple(sorted(max(1, lengths[kinds[d]]) for d in disjuncts))].append(number)
    return list(found.items())


def _table_batch(
    property_: Property, listed: BoxCases, structure: tuple[int, ...], numbers: Sequence[int]
) -> CaseBatch:
    """As `_batch`: the rows of a skeleton are scaled once, since all numbers in them are constants."""
    m, with_inputs, found = property_.outputs, property_.with_inputs, listed.disjunction
    width = m + property_.inputs if with_inputs else m
    templates = [_Template.of((*listed.rows, *s.rows) or (_ALWAYS,), m, width) for s in found.skeletons]
    kinds, order, disjuncts = found.kind, list[tuple[int, ...]](), list[int]()
    for number in numbers:
        members = listed.members[number]
        ranked = sorted(range(len(members)), key=lambda k: len(templates[kinds[members[k]]].offset))
        order.append(tuple(ranked))
        disjuncts += [members[k] for k in ranked]
    rows = torch.cat([templates[kinds[d]].rows for d in disjuncts])
    offset = torch.cat([templates[kinds[d]].offset for d in disjuncts])
    touching = torch.cat([templates[kinds[d]].touching for d in disjuncts])
    at, places, factor = list[int](), list[int](), list[int]()
    start = 0
    for d in disjuncts:
        constants = found.skeletons[kinds[d]].constants
        for s, given in enumerate(constants, len(listed.rows)):
            if given is not None:
                at.append(start + s)
                places.append(int(found.first[d]) + given[0])
                factor.append(given[1])
        start += len(templates[kinds[d]].offset)
    # a row with a number in it has coefficients 1 and -1, so its scale is 1
    near, side = np.array(factor) * found.numbers[places], np.array(factor) * found.sign[places]
    offset[at] = torch.from_numpy(rounded_down(near, side) + 0.0)
    shape = len(numbers), sum(structure)
    touching = touching.reshape(shape)
    clause = torch.repeat_interleave(torch.arange(len(structure)), torch.tensor(structure))
    return CaseBatch(
        tuple(numbers),
        torch.from_numpy(listed.boxes.lower[numbers]),
        torch.from_numpy(listed.boxes.upper[numbers]),
        Specification(
            rows.reshape(*shape, width), offset.reshape(shape), clause, touching=touching if touching.any() else None
        ),
        with_inputs,
        tuple(order),
    )


@dataclass(frozen=True)
class _Template:
    """The rows of a clause in float64, as far as they are the same in all disjuncts of a skeleton."""

    rows: Tensor  # [S, width] float64
    offset: Tensor  # [S] float64
    touching: Tensor  # [S] bool

    @staticmethod
    def of(listed: Sequence[Row], outputs: int, width: int) -> _Template:
        rows, offset = torch.zeros(len(listed), width, dtype=torch.float64), list[float]()
        for s, row in enumerate(listed):
            of_outputs, of_inputs, constant = scaled(row)
            offset.append(constant)
            for j, value in of_outputs:
                rows[s, j] = value
            for i, value in of_inputs:
                rows[s, outputs + i] = value
        touching = torch.tensor([row.strict for row in listed])
        return _Template(rows, torch.tensor(offset, dtype=torch.float64), touching)


def _batch(
    property_: Property, structure: tuple[int, ...], members: Sequence[tuple[int, tuple[int, ...]]]
) -> CaseBatch:
    m, with_inputs = property_.outputs, property_.with_inputs
    width = m + property_.inputs if with_inputs else m
    rows = torch.zeros(len(members), sum(structure), width, dtype=torch.float64)
    offset = torch.zeros(rows.shape[:2], dtype=torch.float64)
    touching = torch.zeros(rows.shape[:2], dtype=torch.bool)
    for b, (number, order) in enumerate(members):
        listed = [row for k in order for row in property_.cases[number].clauses[k] or (_ALWAYS,)]
        for s, row in enumerate(listed):
            outputs, inputs, offset[b, s] = scaled(row)
            touching[b, s] = row.strict
            for j, value in outputs:
                rows[b, s, j] = value
            for i, value in inputs:
                rows[b, s, m + i] = value
    clause = torch.repeat_interleave(torch.arange(len(structure)), torch.tensor(structure))
    cases = [property_.cases[number] for number, _ in members]
    return CaseBatch(
        tuple(number for number, _ in members),
        torch.stack([lower_bounds(case) for case in cases]),
        torch.stack([upper_bounds(case) for case in cases]),
        Specification(rows, offset, clause, touching=touching if touching.any() else None),
        with_inputs,
        tuple(order for _, order in members),
    )


#: the row of a clause that has none: 0 <= 0, which holds everywhere
_ALWAYS = Row((), (), Fraction(0))


_BEYOND = "a bound or a constant is beyond the range of float64: not supported"


def lower_bounds(case: Case) -> Tensor:  # [inputs] float64
    """The largest float64 numbers that are not above the case's lower bounds."""
    return torch.tensor([down(value) for value in case.lower], dtype=torch.float64)


def upper_bounds(case: Case) -> Tensor:  # [inputs] float64
    """The smallest float64 numbers that are not below the case's upper bounds."""
    return torch.tensor([-down(-value) for value in case.upper], dtype=torch.float64)


def down(value: Fraction) -> float:
    """The largest float64 number that is not above the value. Raises ValueError where there is none that is finite."""
    try:
        near = float(value)  # correctly rounded
    except OverflowError:
        near = math.inf
    if near == 0 and value < 0:
        return -math.ulp(0.0)
    if not math.isfinite(near):
        raise ValueError(_BEYOND)
    above, below = near.as_integer_ratio()
    if above * value.denominator > value.numerator * below:
        near = math.nextafter(near, -math.inf)
    if not math.isfinite(near):
        raise ValueError(_BEYOND)
    return near


Entries = list[tuple[int, float]]


def scaled(row: Row) -> tuple[Entries, Entries, float]:
    """A row in float64: coefficients of outputs and of inputs, all times one s > 0 exactly, and a constant <= s d.

    Raises:
        ValueError: no s of the kind that is tried (1, and what clears the denominators) does it.
    """
    coefficients = [c for _, c in (*row.outputs, *row.inputs)]
    for factor in _factors(coefficients):
        floats = [_exactly(c * factor) for c in coefficients]
        if all(value is not None for value in floats):
            exact = [value for value in floats if value is not None]
            m = len(row.outputs)
            outputs = [(j, v) for (j, _), v in zip(row.outputs, exact[:m], strict=True)]
            inputs = [(i, v) for (i, _), v in zip(row.inputs, exact[m:], strict=True)]
            return outputs, inputs, down(row.constant * factor)
    first = row.outputs[0][0] if row.outputs else row.inputs[0][0]
    raise ValueError(
        f"the coefficients of a constraint on {'output' if row.outputs else 'input'} {first} are not float64 "
        "numbers, nor can they be scaled to some exactly: not supported; write them with fewer digits"
    )


def _factors(coefficients: Sequence[Fraction]) -> list[Fraction]:
    one = Fraction(1)
    if all(_exactly(c) is not None for c in coefficients):
        return [one]
    clearing = Fraction(math.lcm(*(c.denominator for c in coefficients)))
    common = math.gcd(*(int(c * clearing) for c in coefficients))
    scale = clearing / common
    largest = max(abs(c * scale) for c in coefficients)
    return [scale / (1 << max(0, int(largest).bit_length() - 1))]  # a power of two: the row stays of size one


def _exactly(value: Fraction) -> float | None:
    """The float64 number that a value is; None where it is none."""
    try:
        near = float(value)
    except OverflowError:
        return None
    return near if near.as_integer_ratio() == (value.numerator, value.denominator) else None


def float32_inside(case: Case) -> tuple[Tensor, Tensor]:
    """Per input the least and the greatest float32 number in the case's box, each [inputs] float32.

    Least above greatest where the box holds no float32 number. Strict bounds are kept too.
    """
    open_low = {i for row in case.strict for i, c in row.inputs if c < 0}
    open_high = {i for row in case.strict for i, c in row.inputs if c > 0}
    least = _float32_above(lower_bounds(case), case.lower, open_low)
    greatest = -_float32_above(-upper_bounds(case), [-value for value in case.upper], open_high)
    return least, greatest


def float32_boxes(property_: Property, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`float32_inside` of some cases, each [B, inputs] float32."""
    listed = property_.cases
    if isinstance(listed, BoxCases):
        boxes = listed.boxes[np.array(numbers)]
        return _stepped(boxes.lower, boxes.lower_exact), -_stepped(-boxes.upper, boxes.upper_exact)
    inside = [float32_inside(listed[number]) for number in numbers]
    return torch.stack([low for low, _ in inside]), torch.stack([high for _, high in inside])


def _stepped(lower: np.ndarray, exact: np.ndarray) -> Tensor:  # [B, inputs] both -> float32
    """The least float32 numbers that are not below bounds which are rounded down to float64 unless exact."""
    floats = torch.from_numpy(lower)
    near = cast_up(floats, torch.float32)
    below = (near.double() == floats) & ~torch.from_numpy(exact)
    return torch.where(below, torch.nextafter(near, torch.full_like(near, torch.inf)), near)


def _float32_above(floats: Tensor, exact: Sequence[Fraction], strict: set[int]) -> Tensor:  # [n] float64 -> float32
    """The least float32 numbers that are not below the exact values, or above them where strict.

    Args:
        floats: the exact values rounded down to float64: between the two there is no float32 number.
    """
    near, values = cast_up(floats, torch.float32), floats.tolist()
    at = [
        i
        for i in (near.double() == floats).nonzero().squeeze(1).tolist()
        if i in strict or values[i].as_integer_ratio() != exact[i].as_integer_ratio()
    ]
    near[at] = torch.nextafter(near[at], torch.full_like(near[at], torch.inf))
    return near
