"""A formula as a union of cases: a box of inputs, and what must hold there of the outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from properties.vnnlib_formula import Formula, Or, Row

#: constraints in the disjunctive normal form, counted with repetition
MAX_ROWS = 500_000

#: by input: its bound, and whether the bound itself is excluded
Side = dict[int, tuple[Fraction, bool]]
#: conjunctions of rows, each once, in order
Clauses = dict[tuple[Row, ...], None]


@dataclass(frozen=True)
class Case:
    """Counterexamples in one box: x in [lower, upper], and all rows of one of the clauses hold.

    `strict` are constraints on the inputs that the box holds only up to its faces: a counterexample has to obey them.
    """

    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    clauses: tuple[tuple[Row, ...], ...]
    strict: tuple[Row, ...] = ()

    def contains(self, x: Sequence[Fraction]) -> bool:
        """Whether x is an input of this case, exactly."""
        inside = all(low <= value <= high for low, value, high in zip(self.lower, x, self.upper, strict=True))
        return inside and all(row.holds(x, ()) for row in self.strict)

    def clause_at(self, x: Sequence[Fraction], y: Sequence[Fraction]) -> int | None:
        """The first clause whose rows all hold at inputs x and outputs y, exactly; None where none does."""
        return next((k for k, rows in enumerate(self.clauses) if all(row.holds(x, y) for row in rows)), None)


class Sides:
    """Lower and upper bounds of inputs, the tightest of those said so far."""

    def __init__(self, lower: Side | None = None, upper: Side | None = None) -> None:
        self.lower, self.upper = dict(lower or {}), dict(upper or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sides) and (self.lower, self.upper) == (other.lower, other.upper)

    __hash__ = None  # type: ignore[assignment]  # they change

    def copy(self) -> Sides:
        return Sides(self.lower, self.upper)

    def below(self, i: int, value: Fraction, strict: bool = False) -> None:
        """x_i <= value."""
        old = self.upper.get(i)
        if old is None or (value, not strict) < (old[0], not old[1]):
            self.upper[i] = value, strict

    def above(self, i: int, value: Fraction, strict: bool = False) -> None:
        """x_i >= value."""
        old = self.lower.get(i)
        if old is None or (-value, not strict) < (-old[0], not old[1]):
            self.lower[i] = value, strict

    def take(self, row: Row) -> None:
        """A row of one input alone."""
        ((i, coefficient),) = row.inputs
        value = -row.constant / coefficient
        if coefficient > 0:
            self.below(i, value, row.strict)
        else:
            self.above(i, value, row.strict)

    def empty(self) -> bool:
        for i, (low, open_low) in self.lower.items():
            if i in self.upper:
                high, open_high = self.upper[i]
                if low > high or (low == high and (open_low or open_high)):
                    return True
        return False

    def strict(self) -> tuple[Row, ...]:
        one = Fraction(1)
        above = [Row((), ((i, -one),), low, True) for i, (low, open_) in sorted(self.lower.items()) if open_]
        below = [Row((), ((i, one),), -high, True) for i, (high, open_) in sorted(self.upper.items()) if open_]
        return (*above, *below)


def cases(
    common: Sides, formulas: Sequence[Formula], names: Sequence[str], source: str, limit: int = MAX_ROWS
) -> tuple[Case, ...]:
    """The cases of a conjunction: inputs within `common`, and all formulas.

    Conjunctions of the disjunctive normal form that have one box are the clauses of one case.

    Raises:
        ValueError: an input has no bound on some side, or the normal form has more rows than `limit`.
    """
    conjunctions: list[tuple[Row, ...]] = [tuple(part for part in formulas if isinstance(part, Row))]
    for part in formulas:
        if isinstance(part, Row):
            continue
        conjunctions = _joined(conjunctions, _disjuncts(part, source, limit), source, limit)
    boxes: dict[tuple[Row, ...], tuple[Sides, Clauses]] = {}
    for rows in conjunctions:
        bounds = tuple(dict.fromkeys(row for row in rows if _is_bound(row)))
        rest = tuple(dict.fromkeys(row for row in rows if not _is_bound(row) and (row.inputs or row.outputs)))
        if any(not row.holds((), ()) for row in rows if not row.inputs and not row.outputs):
            continue  # a constant that is false
        if bounds not in boxes:
            sides = common.copy() if bounds else common
            for row in bounds:
                sides.take(row)
            boxes[bounds] = sides, {}
        boxes[bounds][1][rest] = None
    return tuple(_case(sides, tuple(clauses), names, source) for sides, clauses in _merged(boxes.values()))


def _merged(boxes: Iterable[tuple[Sides, Clauses]]) -> Iterator[tuple[Sides, Clauses]]:
    """Without empty boxes, and with equal ones made one."""
    seen: dict[tuple[frozenset[tuple[int, tuple[Fraction, bool]]], ...], tuple[Sides, Clauses]] = {}
    for sides, clauses in boxes:
        if not sides.empty():
            key = frozenset(sides.lower.items()), frozenset(sides.upper.items())
            seen.setdefault(key, (sides, {}))[1].update(clauses)
    yield from seen.values()


def _disjuncts(part: Formula, source: str, limit: int) -> list[tuple[Row, ...]]:
    """The conjunctions of rows whose disjunction a formula is."""
    if isinstance(part, Row):
        return [(part,)]
    below = [_disjuncts(inner, source, limit) for inner in part.parts]
    if isinstance(part, Or):
        _check(sum(len(rows) for inner in below for rows in inner), source, limit)
        return [rows for inner in below for rows in inner]
    joined: list[tuple[Row, ...]] = [()]
    for inner in sorted(below, key=len):
        joined = _joined(joined, inner, source, limit)
    return joined


def _joined(
    left: list[tuple[Row, ...]], right: list[tuple[Row, ...]], source: str, limit: int
) -> list[tuple[Row, ...]]:
    """The conjunctions of one of each."""
    rows = sum(map(len, left)) * len(right) + sum(map(len, right)) * len(left)
    _check(max(rows, len(left) * len(right)), source, limit)
    if len(left) == 1 and not left[0]:
        return right
    return [a + b for a in left for b in right]


def _check(rows: int, source: str, limit: int) -> None:
    if rows > limit:
        raise ValueError(f"{source}: written as cases, the property has more than {limit} constraints: not supported")


def _case(sides: Sides, clauses: tuple[tuple[Row, ...], ...], names: Sequence[str], source: str) -> Case:
    for side, what in ((sides.lower, "lower"), (sides.upper, "upper")):
        missing = next((i for i in range(len(names)) if i not in side), None)
        if missing is not None:
            raise ValueError(f"{source}: input {names[missing]} has no {what} bound: every input needs both")
    numbers = range(len(names))
    return Case(
        tuple(sides.lower[i][0] for i in numbers), tuple(sides.upper[i][0] for i in numbers), clauses, sides.strict()
    )


def _is_bound(row: Row) -> bool:
    return not row.outputs and len(row.inputs) == 1
