"""Disjunctions of boxes as a table: what large files are made of, in numbers of memory and not in objects.

A box's bounds are float64, rounded outward, beside which of them are exact. The exact decimals of a case are read from
the text where they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import overload

import numpy as np

from properties.vnnlib_cases import Case, Sides
from properties.vnnlib_formula import Multiplied, Row, Variable
from properties.vnnlib_skeleton import Skeleton, cut, exactly, skeleton
from properties.vnnlib_text import PropertyText, number

#: disjuncts from which a table is worth its while
FEWEST = 64
#: bounds of all boxes, of which each takes nine bytes
MAX_BOUNDS = 1 << 27
#: a file whose disjuncts are written in more ways is read one by one
_MAX_SKELETONS = 2_000
#: numbers that are worked on at a time
_CHUNK = 1 << 18
#: common bounds from which the exact reader says what is beyond float64
_LARGE = 10**300
#: one disjunct: comparisons without comments
_DISJUNCT = re.compile(r"\s*+(\((?:and(?:\s*+\([^();]*+\))++\s*+|[^();]*+)\))")
_BEGIN, _END = re.compile(r"\(assert\s*+\(or(?=[\s(])"), re.compile(r"\s*+\)\s*+\)")


@dataclass(frozen=True)
class Boxes:
    """Bounds of boxes, from outside: which of them are the decimals themselves is known. All [B, inputs]."""

    lower: np.ndarray  # float64, rounded down
    upper: np.ndarray  # float64, rounded up
    lower_exact: np.ndarray  # bool
    upper_exact: np.ndarray  # bool

    def __getitem__(self, at: np.ndarray) -> Boxes:
        return Boxes(self.lower[at], self.upper[at], self.lower_exact[at], self.upper_exact[at])


@dataclass
class Disjunction:
    """The disjuncts of one assertion: where each is in the text, its skeleton, and its numbers in float64."""

    source: PropertyText
    begin: np.ndarray  # [D] int64
    end: np.ndarray  # [D] int64
    skeletons: Sequence[Skeleton]
    kind: np.ndarray  # [D] int32: which skeleton
    numbers: np.ndarray  # [all numbers] float64: the nearest of each
    sign: np.ndarray  # [all numbers] int8: 1 where that is above the decimal, -1 where it is below
    first: np.ndarray  # [D] int64: of a disjunct's numbers
    again: np.ndarray  # [D] bool: its box is written as that of the disjunct before it

    def __len__(self) -> int:
        return len(self.begin)

    def texts(self, d: int) -> list[str]:
        """The numbers of a disjunct as they are written."""
        return cut(self.source.text[self.begin[d] : self.end[d]])[1]

    def sides(self, d: int, common: Sides) -> Sides:
        """The box of a disjunct within the common bounds, exactly."""
        made, numbers, kind = common.copy(), self.texts(d), self.skeletons[self.kind[d]]
        for i, place in kind.lower:
            made.above(i, exactly(numbers[place]))
        for i, place in kind.upper:
            made.below(i, exactly(numbers[place]))
        return made


def disjunction(
    source: PropertyText, at: int, variable: Variable, multiplied: Multiplied
) -> tuple[Disjunction, int] | None:
    """The assertion at `at` where it is a disjunction of many boxes, and the position after it; None where not.

    Raises:
        ValueError: a disjunct is no formula; with its place in the file.
    """
    begun = _BEGIN.match(source.text, at)
    if begun is None:
        return None
    reader = _Disjuncts(source, variable, multiplied)
    at = begun.end()
    while (found := _DISJUNCT.match(source.text, at)) is not None:
        if not reader.take(found.start(1), found.end(1)):
            return None
        at = found.end()
    ended = _END.match(source.text, at)
    if ended is None or len(reader.begin) < FEWEST or not any(s.lower or s.upper for s in reader.skeletons):
        return None
    made = reader.made()
    return None if made is None else (made, ended.end())


class _Disjuncts:
    """Collects disjuncts; their numbers are turned into floats a chunk at a time."""

    def __init__(self, source: PropertyText, variable: Variable, multiplied: Multiplied) -> None:
        self.source, self.variable, self.multiplied = source, variable, multiplied
        self.known: dict[tuple[str, ...], int] = {}
        self.skeletons = list[Skeleton]()
        self.begin, self.end, self.kind, self.counts = list[int](), list[int](), list[int](), list[int]()
        self.texts, self.floats, self.signs = list[str](), list[np.ndarray](), list[np.ndarray]()
        self.box, self.again = list[object](), bytearray()  #: as the last one's is written

    def take(self, begin: int, end: int) -> bool:
        """Whether the disjunct is of the kind that is read here."""
        between, numbers = cut(self.source.text[begin:end])
        kind = self.known.get(between)
        if kind is None:
            made = skeleton(self.source, begin, self.variable, self.multiplied)
            if made is None or made.places != len(numbers) or len(self.skeletons) == _MAX_SKELETONS:
                return False
            kind = self.known[between] = len(self.skeletons)
            self.skeletons.append(made)
        self._check(numbers, begin)
        box: list[object] = [self.skeletons[kind].sides, *map(numbers.__getitem__, self.skeletons[kind].bounds)]
        self.again.append(box == self.box)
        self.box = box
        self.begin.append(begin)
        self.end.append(end)
        self.kind.append(kind)
        self.counts.append(len(numbers))
        self.texts += numbers
        if len(self.texts) >= _CHUNK:
            self._chunk()
        return True

    def _check(self, numbers: Sequence[str], begin: int) -> None:
        """Raises ValueError where a number is too long, or its exponent."""
        try:
            for text in numbers:
                if len(text) > 30 or "e" in text or "E" in text:
                    number(text)
        except ValueError:
            skeleton(self.source, begin, self.variable, self.multiplied)  # says where it is
            raise

    def _chunk(self) -> None:
        floats, signs = nearest(self.texts)
        self.floats.append(floats)
        self.signs.append(signs)
        self.texts.clear()

    def made(self) -> Disjunction | None:
        """None where a number is beyond float64."""
        self._chunk()
        numbers, sign = np.concatenate(self.floats), np.concatenate(self.signs)
        if not np.isfinite(np.nextafter(np.abs(numbers), np.inf)).all():
            return None
        first = np.cumsum([0, *self.counts[:-1]], dtype=np.int64)
        begin, end = np.array(self.begin, np.int64), np.array(self.end, np.int64)
        return Disjunction(
            self.source,
            begin,
            end,
            self.skeletons,
            np.array(self.kind, np.int32),
            numbers,
            sign,
            first,
            np.frombuffer(self.again, bool),
        )


def nearest(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The float64 numbers nearest to decimals, and where they lie: 1 above, 0 at, -1 below the decimal."""
    floats = [float(text) for text in texts]
    signs = [_sign(text, near) for text, near in zip(texts, floats, strict=True)]
    return np.array(floats, np.float64) + 0.0, np.array(signs, np.int8)  # + 0.0: no -0.0


def _sign(text: str, near: float) -> int:
    exact, value = Decimal(text), Decimal(near)  # neither is rounded, and they are compared exactly
    return (value > exact) - (value < exact)


def rounded_down(near: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """The largest float64 numbers that are not above decimals, of what `nearest` says of them."""
    return np.where(sign > 0, np.nextafter(near, -np.inf), near)


class BoxCases(Sequence[Case]):
    """The cases of a disjunction of boxes, made one by one where they are asked for.

    Args:
        rows: that hold in every case. boxes: of the cases. members: for each case its disjuncts, of which each is a
            clause.
    """

    def __init__(
        self, found: Disjunction, common: Sides, rows: tuple[Row, ...], boxes: Boxes, members: Sequence[Sequence[int]]
    ) -> None:
        self.disjunction, self.common, self.rows = found, common, rows
        self.boxes, self.members = boxes, members

    def __len__(self) -> int:
        return len(self.members)

    @overload
    def __getitem__(self, k: int) -> Case: ...
    @overload
    def __getitem__(self, k: slice) -> tuple[Case, ...]: ...
    def __getitem__(self, k: int | slice) -> Case | tuple[Case, ...]:
        if isinstance(k, slice):
            return tuple(self[i] for i in range(*k.indices(len(self))))
        found, members = self.disjunction, self.members[k]
        sides = found.sides(members[0], self.common)
        inputs = range(self.boxes.lower.shape[1])
        clauses = [(*self.rows, *found.skeletons[found.kind[d]].filled(found.texts(d))) for d in members]
        lower, upper = (tuple(side[i][0] for i in inputs) for side in (sides.lower, sides.upper))
        return Case(lower, upper, tuple(clauses), sides.strict())

    def __iter__(self) -> Iterator[Case]:
        return (self[k] for k in range(len(self)))

    def near(self, x: Sequence[Fraction]) -> list[int]:
        """The cases whose boxes, rounded outward, hold a point of float64 numbers: all that have it, at least."""
        at = np.array([float(v) for v in x])
        inside = np.all((self.boxes.lower <= at) & (at <= self.boxes.upper), axis=1)
        return [int(k) for k in np.flatnonzero(inside)]

    @property
    def with_inputs(self) -> bool:
        """Whether some row is about inputs."""
        return any(row.inputs for s in self.disjunction.skeletons for row in (*self.rows, *s.rows))


def box_cases(found: Disjunction, common: Sides, rows: tuple[Row, ...], names: Sequence[str]) -> BoxCases | None:
    """The cases of inputs within `common`, rows and a disjunction; None where they have to be made one by one.

    Raises:
        ValueError: an input has no bound on some side, or there are more bounds than are supported.
    """
    said = [*common.lower.values(), *common.upper.values()]
    if any(strict or abs(value) > _LARGE for value, strict in said) or any(
        set(map(_kind, rows)) & set(map(_kind, s.rows)) for s in found.skeletons
    ):
        return None
    if len(found) * len(names) > MAX_BOUNDS:
        raise ValueError(
            f"{found.source.name}: written as cases, the property has more than {MAX_BOUNDS} bounds: not supported"
        )
    own = (~found.again).nonzero()[0]
    boxes = _bounds(found, own, common, len(names))
    for low, what in ((True, "lower"), (False, "upper")):
        missing = np.isinf(boxes.lower if low else boxes.upper).any(0).nonzero()[0]
        if len(missing):
            raise ValueError(
                f"{found.source.name}: input {names[missing[0]]} has no {what} bound: every input needs both"
            )
    kept, members = _members(found, own, common, boxes)
    return BoxCases(found, common, rows, boxes[kept], members)


def _kind(row: Row) -> tuple[object, ...]:
    return row.outputs, row.inputs, row.strict


def _bounds(found: Disjunction, own: np.ndarray, common: Sides, inputs: int) -> Boxes:
    """The bounds of the disjuncts `own` [B] int64; infinite where there is none."""
    shape = len(own), inputs
    lower, upper = np.full(shape, -np.inf), np.full(shape, np.inf)
    lower_exact, upper_exact = np.ones(shape, bool), np.ones(shape, bool)
    for i, (value, _) in common.lower.items():
        lower[:, i], lower_exact[:, i] = _rounded(value)
    for i, (value, _) in common.upper.items():
        above, upper_exact[:, i] = _rounded(-value)
        upper[:, i] = -above
    for k, kind in enumerate(found.skeletons):
        at = (found.kind[own] == k).nonzero()[0]
        start = found.first[own[at]]
        for i, place in kind.lower:
            near, sign = found.numbers[start + place], found.sign[start + place]
            lower[at, i], lower_exact[at, i] = _greater(
                lower[at, i], lower_exact[at, i], rounded_down(near, sign), sign == 0
            )
        for i, place in kind.upper:
            near, sign = found.numbers[start + place], found.sign[start + place]
            new, exact = _greater(-upper[at, i], upper_exact[at, i], rounded_down(-near, -sign), sign == 0)
            upper[at, i], upper_exact[at, i] = -new, exact
    return Boxes(lower + 0.0, upper + 0.0, lower_exact, upper_exact)


def _rounded(value: Fraction) -> tuple[float, bool]:
    """A bound rounded down, and whether it is exact."""
    near = float(value)
    sign = (Fraction(near) > value) - (Fraction(near) < value)
    return float(rounded_down(np.array(near), np.array(sign))), sign == 0


def _greater(a: np.ndarray, a_exact: np.ndarray, b: np.ndarray, b_exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The greater of two lower bounds that are rounded down: at a tie one that is not exact is above one that is."""
    return np.maximum(a, b), np.where(a > b, a_exact, np.where(b > a, b_exact, a_exact & b_exact))


def _members(found: Disjunction, own: np.ndarray, common: Sides, boxes: Boxes) -> tuple[np.ndarray, list[list[int]]]:
    """The disjuncts of each case: those with points, equal boxes together, in the order of their first.

    Returns:
        kept [cases] int64: which of the boxes are the cases'; the disjuncts of each.
    """
    wide = np.nextafter(boxes.lower, np.inf) < boxes.upper  # then the decimals have a point between them as well
    wide |= (boxes.lower <= boxes.upper) & boxes.lower_exact & boxes.upper_exact
    doubtful = ~wide.all(1)
    ends = [*own[1:].tolist(), len(found)]
    same: dict[bytes, list[int]] = {}  # boxes that are equal once they are rounded
    kept, members = list[int](), list[list[int]]()
    for b, (d, end) in enumerate(zip(own.tolist(), ends, strict=True)):
        if doubtful[b] and found.sides(d, common).empty():
            continue
        alike = same.setdefault(boxes.lower[b].tobytes() + boxes.upper[b].tobytes(), [])
        exact = found.sides(d, common) if alike else None
        k = next((k for k in alike if exact == found.sides(members[k][0], common)), len(members))
        if k == len(members):
            alike.append(k)
            kept.append(b)
            members.append([])
        members[k] += range(d, end)
    return np.array(kept, np.int64), members
