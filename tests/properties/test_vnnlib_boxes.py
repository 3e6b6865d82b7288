"""Disjunctions of many boxes are read as tables: the same cases and floats as the reader of formulas gives."""

from __future__ import annotations

import random
import time
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from properties.vnnlib import Property, parse
from properties.vnnlib_boxes import FEWEST, BoxCases, nearest, rounded_down
from properties.vnnlib_floats import batches, down, float32_boxes
from properties.vnnlib_text import PropertyText

NUMBERS = ["0", "-0.0", "0.1", "0.10", "1e-1", "-.5", "0.25", "+0.3", "1.", "0.30000000000000001", "0.3",
           "123456789.123456789", "-2e-30", "4.9e-324", "1e-330",
           "0.1000000000000000055511151231257827021181583404541015625"]  # fmt: skip


def declared(inputs: int, outputs: int) -> str:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{j}" for j in range(outputs)]
    return "".join(f"(declare-const {name} Real)\n" for name in names)


def parsed(text: str) -> Property:
    return parse(PropertyText(text, "p.vnnlib"))


def both(text: str) -> tuple[Property, Property]:
    """Of the table, and of the formulas: a comment in the middle leads to those."""
    table, formulas = parsed(text), parsed(text.replace("(or", "(or ; no table\n"))
    assert isinstance(table.cases, BoxCases)
    assert isinstance(formulas.cases, tuple)
    return table, formulas


def disjunct(draw: random.Random, inputs: int) -> str:
    atoms = []
    for i in range(inputs):
        low, high = draw.choice(NUMBERS), draw.choice(NUMBERS)
        if draw.random() < 0.7 and Fraction(low) > Fraction(high):
            low, high = high, low
        atoms += [f"(>= X_{i} {low})", f"(<= X_{i} {high})"]
    if draw.random() < 0.1:
        atoms.append(f"(<= X_0 {draw.choice(NUMBERS)})")
    rows = [
        f"(<= Y_0 {draw.choice(NUMBERS)})", f"(> Y_1 {draw.choice(NUMBERS)})", "(>= Y_0 Y_1)",
        f"(< Y_1 {draw.choice(NUMBERS)})", "(<= Y_1 X_0)",
    ]  # fmt: skip
    return f"(and {' '.join([*atoms, *draw.sample(rows, draw.randrange(3))])})"


@pytest.mark.parametrize("seed", range(12))
def test_a_table_is_what_the_formulas_are(seed: int) -> None:
    draw = random.Random(seed)
    listed = [disjunct(draw, 1 + seed % 2) for _ in range(FEWEST + 20)]
    listed += draw.sample(listed, 10)  # boxes that come again
    common = "(assert (<= X_0 0.3))\n" * (seed % 3 == 0) + "(assert (<= (* 0.3 Y_0) Y_1))\n" * (seed % 4 == 1)
    table, formulas = both(declared(1 + seed % 2, 2) + common + "(assert (or\n" + "\n ".join(listed) + "))")
    cases = list(table.cases)
    assert [(c.lower, c.upper, c.strict) for c in cases] == [(c.lower, c.upper, c.strict) for c in formulas.cases]
    assert [set(c.clauses) for c in cases] == [set(c.clauses) for c in formulas.cases]
    assert table.with_inputs == formulas.with_inputs
    if [len(c.clauses) for c in cases] != [len(c.clauses) for c in formulas.cases]:
        return  # a clause that is written in two ways
    for ours, theirs in zip(batches(table, 7), batches(formulas, 7), strict=True):
        assert ours.numbers == theirs.numbers and ours.order == theirs.order
        for a, b in ((ours.lower, theirs.lower), (ours.upper, theirs.upper), (ours.spec.rows, theirs.spec.rows),
                     (ours.spec.offset, theirs.spec.offset), (ours.spec.clause, theirs.spec.clause)):  # fmt: skip
            assert torch.equal(a, b)
        met = [torch.zeros(0) if s.touching is None else s.touching for s in (ours.spec, theirs.spec)]
        assert torch.equal(*met)
        for a, b in zip(*(float32_boxes(p, ours.numbers) for p in (table, formulas)), strict=True):
            assert torch.equal(a, b)


@settings(max_examples=200, deadline=None)
@given(st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-10**20, max_value=10**20).map(str),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300).map(repr),
    st.sampled_from(NUMBERS),
))  # fmt: skip
def test_decimals_are_rounded_down_as_fractions_are(text: str) -> None:
    near, sign = nearest([text])
    assert rounded_down(near, sign)[0] == down(Fraction(text))
    assert rounded_down(-near, -sign)[0] == down(-Fraction(text))
    assert (sign[0] == 0) == (Fraction(float(near[0])) == Fraction(text))


def test_a_witness_is_found_in_its_box() -> None:
    listed = " ".join(f"(and (>= X_0 {k}.25) (<= X_0 {k}.5) (<= Y_0 {k}))" for k in range(FEWEST))
    table, formulas = both(declared(1, 1) + f"(assert (or {listed}))")
    for x, y in (([3.25], [3.0]), ([3.25], [3.5]), ([3.0], [0.0]), ([63.5], [-1.0])):
        assert table.witness(x, y) == formulas.witness(x, y)
        assert table.admits(x) == formulas.admits(x)


@pytest.mark.parametrize(("bad", "message"), [
    ("(and (>= X_0 0) (<= X_0 1) (<= Y_7 2))", "line 69, column 32: 'Y_7' is neither a number nor a declared variable"),
    ("(and (>= X_0 0) (<= X_0 1e999))", "line 69, column 25: the number 1e999 has more than"),
    ("(and (>= X_0 0) (<= X_0 1)", "line 3, column 1: this bracket is never closed"),
    ("(both (>= X_0 0) (<= X_0 1))", "line 69, column 1: 'both' is not one of and, or"),
    ("(and (>= X_0 0) (<= Y_0 1))", "input X_0 has no upper bound"),
])  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(bad: str, message: str) -> None:
    good = "\n".join(f"(and (>= X_0 {k}) (<= X_0 {k + 1}) (<= Y_0 2))" for k in range(FEWEST + 1))
    with pytest.raises(ValueError, match=r"p\.vnnlib") as caught:
        parsed(f"{declared(1, 1)}(assert (or\n{good}\n{bad}\n))")
    assert message in str(caught.value)


def test_a_hundred_thousand_boxes_are_read_in_seconds() -> None:
    draw = random.Random(0)
    listed = []
    for _ in range(50_000):
        x, y = draw.random(), draw.random()
        box = f"(>= X_0 {x:.16f}) (<= X_0 {x + 1e-5:.16f})"
        listed += [f"  (and {box} (<= Y_0 {y - 0.001:.16f}))", f"  (and {box} (>= Y_0 {y + 0.001:.16f}))"]
    text = declared(1, 1) + "(assert (or\n" + "\n".join(listed) + "\n))\n"
    began = time.process_time()
    prop = parsed(text)
    parts = batches(prop, 4096)
    assert time.process_time() - began < 15
    assert len(prop.cases) == 50_000 == sum(part.batch for part in parts)
    case = prop.cases[12_345]
    assert f"{float(case.lower[0]):.16f}" in listed[2 * 12_345]
    assert len(case.clauses) == 2
