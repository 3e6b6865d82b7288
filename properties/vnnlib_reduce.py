"""Formulas with fewer variables: inputs that are said to be equal become one, equal products become one output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from properties.vnnlib_cases import Sides
from properties.vnnlib_formula import And, Formula, Or, Row


def equalities(formulas: Sequence[Formula], inputs: int) -> tuple[tuple[int, ...], list[Formula]]:
    """Which inputs a conjunction says are equal, and the formulas that are left.

    Two networks that see the same input are written with two inputs and x_i = x'_i for every entry. Kept as
    constraints, no point of the box of both would obey them but by chance.

    Returns:
        For every input its number among those that are left, which are numbered in order; empty where all are left.
    """
    rows = {part for part in formulas if isinstance(part, Row)}
    first = list(range(inputs))
    rest = list[Formula]()

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = first[i]
        return i

    for part in formulas:
        if isinstance(part, Row) and _mirror(part) in rows:
            (i, _), (j, _) = part.inputs
            low, high = sorted((root(i), root(j)))
            first[high] = low
        else:
            rest.append(part)
    if all(i == k for k, i in enumerate(first)):
        return (), list(formulas)
    number: dict[int, int] = {}
    return tuple(number.setdefault(root(i), len(number)) for i in range(inputs)), rest


def _mirror(row: Row) -> Row | None:
    """The row that makes x_i <= x_j an equality; None for rows of another kind."""
    if row.outputs or row.constant or row.strict or len(row.inputs) != 2 or sum(c for _, c in row.inputs):
        return None
    return Row((), tuple((i, -c) for i, c in row.inputs), row.constant)


@dataclass(frozen=True)
class Renumbered:
    """Variables by other numbers.

    Args:
        inputs: new number of every input; empty: as they are. outputs: of the outputs that have another one.
    """

    inputs: Sequence[int]
    outputs: Mapping[int, int]

    def formula(self, part: Formula) -> Formula:
        if isinstance(part, Row):
            outputs = _summed((self.outputs.get(j, j), c) for j, c in part.outputs)
            return Row(outputs, _summed((self.input(i), c) for i, c in part.inputs), part.constant, part.strict)
        parts = tuple(map(self.formula, part.parts))
        return And(parts) if isinstance(part, And) else Or(parts)

    def input(self, i: int) -> int:
        return self.inputs[i] if self.inputs else i

    def sides(self, sides: Sides) -> Sides:
        new = Sides()
        for i, (value, strict) in sides.lower.items():
            new.above(self.input(i), value, strict)
        for i, (value, strict) in sides.upper.items():
            new.below(self.input(i), value, strict)
        return new


def _summed(terms: Iterable[tuple[int, Fraction]]) -> tuple[tuple[int, Fraction], ...]:
    total: dict[int, Fraction] = {}
    for k, c in terms:
        total[k] = total.get(k, Fraction(0)) + c
    return tuple(sorted((k, c) for k, c in total.items() if c))
