"""VNN-LIB files: the normal form says what the formula says, exactly; what is no such file is a ValueError."""

from __future__ import annotations

import gzip
import math
import random
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from helpers.real_data import DATA, require
from hypothesis import given, settings
from hypothesis import strategies as st

from properties.vnnlib import Property, parse, read
from properties.vnnlib_floats import batches, down, float32_inside, scaled
from properties.vnnlib_formula import Row
from properties.vnnlib_text import PropertyText

HALF = Fraction(1, 2)


def declared(inputs: int, outputs: int) -> str:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return "".join(f"(declare-const {name} Real)\n" for name in names)


def bounded(inputs: int, low: str = "-1", high: str = "1.0") -> str:
    return "".join(f"(assert (>= X_{i} {low}))\n(assert (<= X_{i} {high}))\n" for i in range(inputs))


def parsed(text: str) -> Property:
    return parse(PropertyText(text, "test.vnnlib"))


# --- a second reader, for formulas only: evaluates them as they are written -------------------------------------------


def tree(text: str) -> list:
    tokens = re.findall(r"[()]|[^\s()]+", re.sub(r";.*", "", text))
    stack: list[list] = [[]]
    for token in tokens:
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    return stack[0]


def value(term: object, point: dict[str, Fraction]) -> Fraction:
    if isinstance(term, str):
        return point[term] if term in point else Fraction(term)
    assert isinstance(term, list)
    parts = [value(part, point) for part in term[1:]]
    if term[0] == "+":
        return sum(parts, Fraction(0))
    if term[0] == "-":
        return -parts[0] if len(parts) == 1 else parts[0] - sum(parts[1:])
    out = parts[0]
    for part in parts[1:]:
        out = out * part if term[0] == "*" else out / part
    return out


def true(formula: list, point: dict[str, Fraction]) -> bool:
    if formula[0] == "and":
        return all(true(part, point) for part in formula[1:])
    if formula[0] == "or":
        return any(true(part, point) for part in formula[1:])
    a, b = (value(term, point) for term in formula[1:])
    return {"<=": a <= b, ">=": a >= b, "<": a < b, ">": a > b, "=": a == b, "==": a == b, "!=": a != b}[formula[0]]


def satisfied(text: str, x: list[Fraction], y: list[Fraction]) -> bool:
    point = {f"X_{i}": v for i, v in enumerate(x)} | {f"Y_{i}": v for i, v in enumerate(y)}
    return all(true(command[1], point) for command in tree(text) if command[0] == "assert")


NUMBERS = st.sampled_from(["0", "0.5", "-0.5", "1", "-1.0", "5e-1", "2", "-.25", "1E0", "0.1"])
NAMES = st.sampled_from(["X_0", "X_1", "Y_0", "Y_1"])
TERMS = st.one_of(
    NUMBERS,
    NAMES,
    st.builds("(+ {} {})".format, NAMES, NUMBERS),
    st.builds("(- {} {} {})".format, NUMBERS, NAMES, NAMES),
    st.builds("(* {} {})".format, NUMBERS, NAMES),
    st.builds("(* {} (+ {} {}) {})".format, NAMES, NAMES, NUMBERS, NUMBERS),
    st.builds("(/ (+ {} {}) 2.5)".format, NAMES, NAMES),
    st.builds("(- {})".format, NAMES),
)
COMPARISONS = st.builds("({} {} {})".format, st.sampled_from(["<=", ">=", "<", ">", "=", "==", "!="]), TERMS, TERMS)
FORMULAS = st.recursive(
    COMPARISONS,
    lambda inner: st.builds(
        lambda head, parts: f"({head} {' '.join(parts)})",
        st.sampled_from(["and", "or"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=8,
)
QUARTERS = st.integers(-5, 5).map(lambda k: k / 4)


@settings(max_examples=40, deadline=None)
@given(st.lists(FORMULAS, max_size=3), st.lists(st.tuples(*[QUARTERS] * 4), min_size=8, max_size=8))
def test_the_cases_hold_exactly_the_points_that_the_formulas_do(formulas: list[str], points: list) -> None:
    text = declared(2, 2) + bounded(2) + "\n".join(f"(assert {formula})" for formula in formulas)
    prop = parsed(text)
    for point in points:
        x, y = list(point[:2]), list(point[2:])
        expected = satisfied(text, [Fraction(v) for v in x], [Fraction(v) for v in y])
        assert (prop.witness(x, y) is not None) == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(FORMULAS, min_size=1, max_size=2), st.tuples(*[QUARTERS] * 4))
def test_float_rows_are_never_above_the_exact_ones_beyond_their_scale(formulas: list[str], point: tuple) -> None:
    prop = parsed(declared(2, 2) + bounded(2) + "\n".join(f"(assert {formula})" for formula in formulas))
    x, y = point[:2], point[2:]
    for batch in batches(prop):
        both = [*x, *y[::-1]]  # output j is number -1 - j
        wide = [*y, *(math.prod(both[v] for v in factors) for factors in prop.products)]
        at = torch.tensor([*wide, *x] if batch.with_inputs else wide, dtype=torch.float64)
        worst = batch.spec.per_clause(batch.spec.values(at.expand(batch.batch, -1)))
        for b, number in enumerate(batch.numbers):
            case = prop.cases[number]
            for k, clause in enumerate(batch.order[b]):
                holds = all(
                    row.holds(*([Fraction(v) for v in part] for part in (x, wide))) for row in case.clauses[clause]
                )
                # the sums below are of small numbers: float64 makes them with errors far under 1e-12
                assert not (holds and worst[b, k] > 1e-12)


def test_a_robustness_property_has_one_clause_per_class() -> None:
    others = " ".join(f"(and (>= Y_{j} Y_1))" for j in (0, 2, 3))
    prop = parsed(f"; label 1\n{declared(3, 4)}{bounded(3, '0', '0.1')}(assert (or {others}))")
    (case,) = prop.cases
    assert case.lower == (0, 0, 0)
    assert case.upper == (Fraction(1, 10),) * 3
    one = Fraction(1)
    rows = [((0, -one), (1, one)), ((1, one), (2, -one)), ((1, one), (3, -one))]
    assert case.clauses == tuple((Row(outputs, (), Fraction(0)),) for outputs in rows)
    (batch,) = batches(prop)
    assert batch.spec.rows.shape == (1, 3, 4)
    assert batch.spec.clause.tolist() == [0, 1, 2]
    assert not batch.with_inputs


def test_boxes_in_a_disjunction_become_cases_with_all_output_clauses() -> None:
    boxes = "(or (and (<= X_0 0.25) (>= X_0 0)) (and (>= X_0 0.5) (<= X_0 0.75)) (and (>= X_0 0.8) (<= X_0 0.7)))"
    prop = parsed(f"{declared(1, 2)}(assert {boxes})(assert (or (<= Y_0 Y_1) (and (<= Y_0 1) (>= Y_1 2))))")
    assert [(case.lower, case.upper) for case in prop.cases] == [((0,), (HALF / 2,)), ((HALF,), (3 * HALF / 2,))]
    assert [[len(rows) for rows in case.clauses] for case in prop.cases] == [[1, 2], [1, 2]]
    (batch,) = batches(prop)
    assert batch.spec.rows.shape == (2, 3, 2)
    assert batch.spec.clause.tolist() == [0, 1, 1]


def test_bounds_beyond_the_common_ones_and_equal_boxes() -> None:
    text = declared(1, 1) + bounded(1)
    prop = parsed(text + "(assert (or (and (<= X_0 5) (<= Y_0 1)) (and (>= X_0 -1) (<= Y_0 2)) (<= X_0 -3)))")
    (case,) = prop.cases  # the first two boxes are the common one, the third is empty
    assert (case.lower, case.upper) == ((-1,), (1,))
    assert len(case.clauses) == 2
    assert parsed(text + "(assert (>= X_0 2))").cases == ()
    assert parsed(text + "(assert (or (<= 1.0 0.5) (< Y_0 Y_0)))").cases == ()


def test_strict_bounds_belong_to_the_witness_and_not_to_the_box() -> None:
    prop = parsed(declared(1, 1) + bounded(1) + "(assert (< X_0 0.5))(assert (> Y_0 0))")
    assert prop.cases[0].upper == (HALF,)
    assert prop.witness([0.5], [1.0]) is None
    assert prop.witness([0.25], [0.0]) is None
    assert prop.witness([0.25], [1.0]) == (0, 0)
    assert float32_inside(prop.cases[0])[1].item() == torch.nextafter(torch.tensor(0.5), torch.tensor(0.0)).item()
    assert parsed(declared(1, 1) + bounded(1) + "(assert (> X_0 1))").cases == ()


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_bounds_the_tightest_counts(order: int) -> None:
    bounds = ["(<= X_0 0.75)", "(<= X_0 0.5)", "(< X_0 0.5)", "(>= 1 X_0)", "(>= X_0 -2)", "(> X_0 -1)", "(>= X_0 -1)"]
    (case,) = parsed(declared(1, 1) + "".join(f"(assert {bound})\n" for bound in bounds[::order])).cases
    assert (case.lower, case.upper) == ((-1,), (HALF,))
    assert not case.contains([HALF])
    assert not case.contains([Fraction(-1)])
    assert case.contains([Fraction(49, 100)])


def test_a_float_outside_the_decimal_bound_is_no_input() -> None:
    prop = parsed(declared(1, 1) + bounded(1, "0", "0.1"))
    nearest = float(torch.tensor(0.1))  # 0.100000001490116...
    assert prop.witness([nearest], [0.0]) is None
    assert not prop.admits([nearest])
    assert prop.witness([0.099], [0.0]) == (0, 0)
    low, high = float32_inside(prop.cases[0])
    assert prop.admits([float(high)])
    assert Fraction(float(torch.nextafter(high, torch.tensor(torch.inf)))) > Fraction(1, 10)
    assert low.item() == 0
    assert prop.witness([0.05], [float("nan")]) is None


def test_a_box_without_float32_points_is_known_to_have_none() -> None:
    low, high = float32_inside(parsed(declared(1, 1) + bounded(1, "0.1", "0.1")).cases[0])
    assert low > high


@settings(max_examples=40, deadline=None)
@given(st.fractions(max_denominator=10**30), st.integers(-300, 300))
def test_down_is_the_largest_float_below(value: Fraction, exponent: int) -> None:
    value *= Fraction(10) ** exponent
    try:
        near = down(value)
    except ValueError:
        assert abs(value) > Fraction(2) ** 1023
        return
    assert Fraction(near) <= value
    above = torch.nextafter(torch.tensor(near, dtype=torch.float64), torch.tensor(torch.inf, dtype=torch.float64))
    assert not above.isfinite() or Fraction(float(above)) > value


def test_boxes_are_rounded_outward() -> None:
    (batch,) = batches(parsed(declared(2, 1) + bounded(2, "0.1", "0.3")))
    assert (Fraction(batch.lower[0, 0].item()), Fraction(batch.upper[0, 0].item())) != (
        Fraction(1, 10),
        Fraction(3, 10),
    )
    assert Fraction(batch.lower[0, 0].item()) <= Fraction(1, 10)
    assert Fraction(batch.upper[0, 1].item()) >= Fraction(3, 10)


def test_rows_with_decimals_are_scaled_exactly() -> None:
    row = Row(((0, Fraction("0.1")), (1, Fraction("-0.3"))), ((0, Fraction("0.7")),), Fraction(1, 3))
    outputs, inputs, constant = scaled(row)
    coefficients = [Fraction(v) for _, v in (*outputs, *inputs)]
    scale = coefficients[0] / Fraction("0.1")
    assert scale > 0
    assert coefficients == [scale * Fraction(d) for d in ("0.1", "-0.3", "0.7")]
    assert Fraction(constant) <= scale / 3
    hard = Row(((0, Fraction("0.1")), (1, Fraction("0.1234567890123456789012345"))), (), Fraction(0))
    with pytest.raises(ValueError, match="fewer digits"):
        scaled(hard)


def test_a_property_without_constraints_on_outputs_is_about_every_input() -> None:
    prop = parsed(declared(1, 1) + bounded(1))
    assert prop.cases[0].clauses == ((),)
    (batch,) = batches(prop)
    assert batch.spec.worst(batch.spec.values(torch.zeros(1, 1))).item() == 0


SMALL = declared(2, 2) + bounded(2)
BAD = {
    "X_1 has no upper bound": declared(2, 1) + bounded(1) + "(assert (>= X_1 0))",
    "X_0 has no lower bound": declared(1, 1) + "(assert (<= X_0 0))",
    "line 9, column 16: 'X_2' is neither": SMALL + "(assert (<= (+ X_2 X_0) 1))",
    "line 10, column 1: X_7 is not declared": SMALL + ";\n(assert (<= X_7 1))",
    "more than 8 variables": SMALL + f"(assert (<= (* {'X_0 ' * 9}) 1))",
    "quotient of variables": SMALL + "(assert (<= (/ 1 X_1) 1))",
    "division by zero": SMALL + "(assert (<= (/ Y_0 0.0) 1))",
    "'exists' is not one of": SMALL + "(assert (exists X_0))",
    "'sin' is not one of": SMALL + "(assert (<= (sin X_0) 1))",
    "compares two terms": SMALL + "(assert (<= X_0 1 2))",
    "takes one constraint": SMALL + "(assert)",
    "'push' is not known": SMALL + "(push)",
    "never closed": SMALL + "(assert (<= X_0 1)",
    "should be here, not ')": SMALL + ")",
    "should be here, not 'Y_0'": SMALL + "(assert Y_0)",
    "declared twice": declared(1, 1) + declared(1, 1),
    "Y_0 is not declared, but Y_1 is": "(declare-const X_0 Real)(declare-const Y_1 Real)" + bounded(1),
    "no output is declared": declared(1, 0) + bounded(1),
    "not a name such as": "(declare-const Z_0 Real)",
    "type 'Int'": "(declare-const X_0 Int)",
    "a declaration is": "(declare-const X_0)",
    "nested deeper": "(" * 100_000,
    "exponent over": SMALL + "(assert (<= Y_0 1e999999999))",
    "more than 500000 constraints": SMALL + "(assert (or (<= Y_0 1) (<= Y_0 2) (<= Y_1 3)))" * 40,
    "'X_0[1]' is neither": SMALL + "(assert (<= X_0[1] 1))",
    "(and) is about nothing": SMALL + "(assert (and))",
    "version '<3.0>'": "(vnnlib-version <3.0>)",
}


@pytest.mark.parametrize("message", BAD)
def test_bad_files_are_refused_with_a_reason(message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parsed(BAD[message])
    assert "test.vnnlib" in str(caught.value)


def test_mangled_files_raise_only_value_errors() -> None:
    text = SMALL + "(assert (or (and (<= Y_0 0.5) (>= (* 2 Y_1) (- X_0 1e-3))) (> Y_0 Y_1))) ; end\n"
    generator, refused = random.Random(0), 0
    for _ in range(400):
        at, end = sorted(generator.randrange(len(text)) for _ in range(2))
        junk = generator.choice(["", "(", ")", "[0]", "1e5", "X_0", ";", "\x00", "é", "(and", text[at:end]])
        try:
            parsed(text[:at] + junk + text[min(end, at + 5) :])
        except ValueError:
            refused += 1
    assert 100 < refused < 400


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_a_comment_ends_with_its_line_whatever_ends_that(end: str) -> None:
    text = SMALL + "; all\n(assert (<= Y_0 0.5)) ; one\n(assert (or ; two\n(>= Y_1 2) (<= Y_1 -2)))\n"
    assert parsed(text.replace("\n", end)) == parsed(text)


def test_packed_files_and_their_limits(tmp_path: Path) -> None:
    text = (SMALL + "(assert (<= Y_0 Y_1))").encode()
    packed, damaged, large = tmp_path / "p.vnnlib.gz", tmp_path / "d.vnnlib.gz", tmp_path / "l.vnnlib.gz"
    packed.write_bytes(gzip.compress(text))
    damaged.write_bytes(gzip.compress(text)[:-20])
    large.write_bytes(gzip.compress(b" " * 5_000_000))
    assert read(packed) == parse(PropertyText(text.decode(), "x"))
    for path, message in ((damaged, "cannot read"), (large, "more than 1000000 bytes"), (tmp_path, "cannot read")):
        with pytest.raises(ValueError, match=message):
            read(path, max_bytes=1_000_000)
    (tmp_path / "binary.vnnlib").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text"):
        read(tmp_path / "binary.vnnlib")


# --- version 2.0 ------------------------------------------------------------------------------------------------------

HEAD = """(vnnlib-version <2.0>)
(declare-network N
  (declare-input X float32 [1,2,2]) ; four entries
  (declare-output Out float32 [1,3])
)
"""
BOX = "".join(f"(assert (and (>= X[0,{i},{j}] -1.0) (<= X[0,{i},{j}] 1.0)))\n" for i in range(2) for j in range(2))


def test_tensors_of_version_2_are_read_row_by_row() -> None:
    rest = "(assert (or (<= Out[0,2] X[0,1,0]) (> (+ Out[0,0] (* 2.0 Out[0,1])) 0.25)))(assert (<= X [0, 1, 1] 0.5))"
    prop = parsed(HEAD + BOX + rest)
    assert (prop.inputs, prop.outputs, prop.input_shape, prop.output_name) == (4, 3, (1, 2, 2), "Out")
    (case,) = prop.cases
    assert case.upper == (1, 1, 1, HALF)
    assert case.clauses[0] == (Row(((2, Fraction(1)),), ((2, Fraction(-1)),), Fraction(0)),)
    assert case.clauses[1] == (Row(((0, Fraction(-1)), (1, Fraction(-2))), (), HALF / 2, strict=True),)


def test_the_kept_package_reads_the_same_terms() -> None:
    vnnlib = pytest.importorskip("vnnlib")
    text = HEAD + BOX + "(assert (<= (- Out[0,0] Out[0,2] (* 2.0 X[0,0,1]) 0.125) 1.5))"
    comparison = vnnlib.parse_query_string(text).assertions[-1].expr
    linear = comparison.lhs.to_linear_expr()
    theirs = {(t.var.name, tuple(t.var.indices)): t.coeff for t in linear.terms}
    (row,) = parsed(text).cases[0].clauses[0]
    ours = {("Out", (0, j)): float(c) for j, c in row.outputs} | {
        ("X", (0, i // 2, i % 2)): float(c) for i, c in row.inputs
    }
    assert ours == theirs
    assert float(row.constant) == linear.constant - 1.5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Out[0,2]", "Out[0,3]", "not an entry of Out [1, 3]"),
        ("Out[0,2]", "Out", "not an entry of Out"),
        ("Out[0,2]", "Other[0]", "neither a number nor a declared variable"),
        ("X float32", "X int32", "type 'int32'"),
        ("(declare-output Out float32 [1,3])", "", "declares no output"),
        ("(declare-output", "(declare-hidden H float32 [1]) (declare-output", "a hidden node needs its name"),
        ("(declare-output", "(declare-output Out float32 [1]) (declare-output", "'Out' is no name, or is taken"),
        ("(declare-output", "(declare-output O2 float32 [1] \"o\") (declare-output", "all outputs of a network"),
        ("(declare-input", "(declare-state S float32 [1]) (declare-input", "'declare-state' in a network"),
        ("(declare-input", "(equal-to M) (declare-input", "there is none before it, not 'M'"),
        ("(vnnlib-version <2.0>)", "", "version 2.0"),
        ("[1,2,2]", "[1,N]", "not a shape"),
        ("(assert (<= Out", HEAD.partition("\n")[2] + "(assert (<= Out", "before all assertions"),
        (BOX, HEAD.partition("\n")[2] + BOX, "a second network called 'N'"),
    ],
)  # fmt: skip
def test_what_version_2_has_and_we_do_not_is_named(old: str, new: str, message: str) -> None:
    text = HEAD + BOX + "(assert (<= Out[0,2] 0.5))"
    parsed(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        parsed(text.replace(old, new, 1))


# --- the competition's files ------------------------------------------------------------------------------------------

SIZES = {"acasxu": (5, 5), "cifar10_resnet": (3072, 10), "eran": (784, 10), "marabou-cifar10": (3072, 10),
         "mnistfc": (784, 10), "oval21": (3072, 10)}  # fmt: skip


@pytest.mark.parametrize("benchmark", SIZES)
def test_the_benchmarks_are_read(benchmark: str) -> None:
    files = sorted(require("vnncomp", benchmark, "vnnlib").glob("*.vnnlib.gz"))
    assert files
    for path in files[:: 1 if benchmark == "acasxu" else 12]:
        prop = read(path)
        assert (prop.inputs, prop.outputs) == SIZES[benchmark]
        rows = [sorted(len(rows) for rows in case.clauses) for case in prop.cases]
        if benchmark == "marabou-cifar10":
            assert rows == [[9]]
        elif benchmark != "acasxu":
            assert rows == [[1] * 9]
        assert all(low <= high for case in prop.cases for low, high in zip(case.lower, case.upper, strict=True))


def test_acas_xu_has_the_clauses_of_its_definition() -> None:
    folder = DATA / "vnncomp" / "acasxu" / "vnnlib"
    require("vnncomp", "acasxu", "vnnlib")
    shapes = {1: [[1]], 2: [[4]], 3: [[4]], 4: [[4]], 6: [[1] * 4] * 2, 8: [[2] * 3], 10: [[1] * 4]}
    for number, expected in shapes.items():
        cases = read(folder / f"prop_{number}.vnnlib.gz").cases
        assert [[len(rows) for rows in case.clauses] for case in cases] == expected


# --- forms seen in the wild -------------------------------------------------------------------------------------------

ONE = declared(1, 2) + bounded(1)


@pytest.mark.parametrize(("written", "meant"), [
    ("(not (<= Y_0 0.9))", "(> Y_0 0.9)"),
    ("(not (> Y_0 Y_1))", "(<= Y_0 Y_1)"),
    ("(not (= Y_0 0.9))", "(!= Y_0 0.9)"),
    ("(not (and (<= Y_0 1.0) (or (> Y_1 2.0) (>= Y_0 Y_1))))", "(or (> Y_0 1.0) (and (<= Y_1 2.0) (< Y_0 Y_1)))"),
    ("(not (not (< Y_0 0.5)))", "(< Y_0 0.5)"),
    ("(Y_0 < Y_1)", "(< Y_0 Y_1)"),
    ("((+ Y_0 1.0) >= Y_1)", "(>= (+ Y_0 1.0) Y_1)"),
])  # fmt: skip
def test_negations_and_infix_comparisons_are_read(written: str, meant: str) -> None:
    both = [parsed(f"{ONE}(assert {text})") for text in (written, meant)]
    assert set(both[0].cases[0].clauses) == set(both[1].cases[0].clauses)
    values = [Fraction(k, 10) for k in (-10, 5, 9, 10, 20, 30)]
    for y in ((a, b) for a in values for b in values):
        found = [one.witness([0.0], [float(v) for v in y]) for one in both]
        assert (found[0] is None) == (found[1] is None)


def test_infix_comparisons_of_entries_are_read() -> None:
    head = "(vnnlib-version <2.0>)(declare-network f (declare-input X real [1]) (declare-output Y real [2]))"
    text = head + "(assert (and (X[0] <= 1.0) (X [0] >= 0.0)))(assert (Y[0] < Y [1]))"
    assert parsed(text).witness([0.5], [1.0, 2.0]) == (0, 0)
    assert parsed(text).witness([0.5], [2.0, 2.0]) is None


def test_commands_to_a_solver_say_nothing() -> None:
    text = f"(set-logic QF_LRA)\n{ONE}(assert (>= Y_0 0.5))\n"
    assert parsed(f"{text}(check-sat)\n(get-model)\n(exit)").cases == parsed(text.partition("\n")[2]).cases


def test_a_mark_at_the_beginning_and_other_ends_of_lines_are_read(tmp_path: Path) -> None:
    text = f"{ONE}(assert (>= Y_0 0.5))\n"
    (tmp_path / "a.vnnlib").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read(tmp_path / "a.vnnlib").cases == parsed(text).cases


def test_strict_rows_are_rows_that_hold_at_zero() -> None:
    made = parsed(f"{ONE}(assert (and (< Y_0 0.0) (<= Y_1 0.0)))")
    (batch,) = batches(made)
    assert batch.spec.touching is not None
    assert sorted(batch.spec.touching[0].tolist()) == [False, True]
    y = torch.tensor([[0.0, -1.0]], dtype=torch.float64)
    assert batch.spec.worst(batch.spec.values(y))[0] > 0  # no counterexample: Y_0 is not below 0
